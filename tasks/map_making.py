"""Maps of a shard of cases: made by a model and written in one go, in any process.

What a Dask worker loads, so neither Prefect nor MLflow: they would cost it four seconds and 190 MB.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from models.localization.refinement import Refinement, RefinementConfig, refine
from models.saliency.streaming import saliency_maps
from models.system import Localization, System
from storage.cohort import Cohort
from storage.errors import CohortError
from tasks.model_files import describe_model, load_model
from tasks.opened import opened_once
from tasks.own_maps import OwnMap, own_maps, write_own
from tasks.shards import WholeJobError

PlainMap = tuple[int, float, np.ndarray]
Loop = Callable[..., Iterator[Refinement]]

_looking = threading.Lock()  # hooks on the one model of a process; a Dask worker may have several threads


@dataclass(frozen=True)
class MapJob:
    """What makes the maps of some cases, in any process.

    `names` are the map sets: S and s_0 of the loop, or the one of a saliency method or of the system's own answers.
    `settings` are the loop's; of them a saliency method alone takes its name, settings and sign. Own maps take
    `own_settings`, those that lie on the system's. `threads` None: as many as torch has.
    """

    cohort: str
    snapshot: str
    model: str
    version: str
    names: tuple[str, ...]
    attributes: dict[str, Any]
    method: Localization
    settings: RefinementConfig
    batch_size: int
    threads: int | None = None
    own_settings: dict[str, Any] = field(default_factory=dict)


def localize_shard(job: MapJob, cases: list[int]) -> None:
    """Make and write the maps of some cases; runs in a Dask worker, which loads the model once."""
    cohort = opened_once(job.cohort, job.snapshot)
    with _looking:
        if job.threads:
            torch.set_num_threads(job.threads)
        found = list(answers(job, loaded(job.model, job.version), ((case, cohort.image(case)) for case in cases)))
    write_shard(job, cohort, found)


def cases_of(shard: Sequence[Refinement | OwnMap | PlainMap]) -> list[int]:
    """The cases of a shard of answers."""
    return [one.case if isinstance(one, Refinement | OwnMap) else one[0] for one in shard]


def answers(
    job: MapJob, system: System, images: Iterator[tuple[int, np.ndarray]], loop: Loop = refine
) -> Iterator[Any]:
    """A `Refinement` by the `loop`, an `OwnMap` or a plain map, an image."""
    device, settings = best_device(), job.settings
    if job.method == "own":
        return own_maps(system.with_map_settings(job.own_settings), images, job.batch_size, device)
    shown: dict[str, Any] = {"target": system.target, "batch_size": job.batch_size, "device": device}
    if job.method == "saliency":
        return saliency_maps(system, system.to_input, images, settings.method, sign=settings.map_sign, **shown)
    threads = job.threads or torch.get_num_threads()
    return loop(system, system.to_input, images, settings, threads=threads, **shown)


def write_shard(job: MapJob, cohort: Cohort, found: list[Any]) -> None:
    """One transaction a map set; WholeJobError where the cohort cannot be written."""
    try:
        if job.method == "own":
            write_own(cohort, job.names[0], found, job.attributes)
        elif job.method == "saliency":
            write_plain(cohort, job.names[0], found, job.attributes)
        else:
            write_refined(cohort, list(job.names), found, job.settings, job.attributes)
    except CohortError as error:
        raise WholeJobError(str(error)) from error


def write_refined(
    cohort: Cohort, names: list[str], shard: list[Refinement], config: RefinementConfig, attributes: dict[str, Any]
) -> None:
    """One shard of refinements: S with its trajectory, steps and inpainted image, and s_0."""
    cases = [result.case for result in shard]
    scores = np.full((len(shard), config.max_iterations + 1), np.nan, np.float32)
    for row, result in zip(scores, shard, strict=True):
        row[: len(result.scores)] = result.scores
    table = pd.DataFrame(
        {
            "score": scores[:, 0],
            "final_score": [float(result.scores[-1]) for result in shard],
            "iterations": [result.iterations for result in shard],
            "stop_reason": [result.stop_reason for result in shard],
        }
    )
    steps = np.zeros((len(shard), config.max_iterations + 1, *shard[0].steps.shape[1:]), np.float32)
    for row, result in zip(steps, shard, strict=True):
        row[: len(result.steps)] = result.steps
    arrays = {"scores": scores, "inpainted": np.stack([result.inpainted for result in shard]), "steps": steps}
    initial = np.stack([result.initial_saliency for result in shard])
    refined = np.stack([result.saliency for result in shard])
    cohort.write_maps(names[1], cases, initial, table[["score"]], attrs=attributes)
    cohort.write_maps(names[0], cases, refined, table, arrays, attrs=attributes)


def write_plain(cohort: Cohort, name: str, shard: list[PlainMap], attributes: dict[str, Any], **noted: Any) -> None:
    """One shard of a plain saliency method; `noted` are further columns of its table, one value for all its cases."""
    cases, scores, maps = zip(*shard, strict=True)
    table = pd.DataFrame({"score": scores, **noted})
    cohort.write_maps(name, list(cases), maps, table, attrs=attributes)


@lru_cache(maxsize=1)
def loaded(folder: str, version: str) -> System:
    """The model of a folder on this process's device; WholeJobError where it is not of that version any more."""
    about = describe_model(Path(folder))
    if about["version"] != version:
        raise WholeJobError(f"{folder} now holds version {about['version']} of the model, not {version}")
    system = load_model(Path(folder), about)
    system.to(best_device())
    return system


def best_device() -> str:
    """The accelerator where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"
