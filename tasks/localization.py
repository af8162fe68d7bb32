"""Localisation: one raw saliency map a case, by a trained model and a method, written to the cohort shard by shard.

In this process images stream through the model across shards; a shard that fails there, and all shards on a Dask
cluster, go through `tasks.shards`: tried again, then case by case, so that the guilty cases alone are left out.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import task

from models.config import Config, validated
from models.errors import ModelError
from models.localization.refinement import RefinementConfig, refine
from models.registry import registered
from models.saliency import SALIENCY
from models.saliency.streaming import saliency_maps
from models.system import Localization, System
from storage.cohort import Cohort
from storage.errors import CohortError
from tasks.clusters import shared_path
from tasks.failures import Failed, failed_cases, failures, note_failures
from tasks.figures import refinement_gallery
from tasks.map_making import (
    MapJob,
    PlainMap,
    answers,
    best_device,
    cases_of,
    loaded,
    localize_shard,
    write_shard,
)
from tasks.maps import LESION_FROM, selected_cases
from tasks.model_files import describe_model
from tasks.progress import Advance, progress
from tasks.reporting import Section, publish_report
from tasks.reuse import code_digest, fingerprint, finished, remember
from tasks.shards import (
    HOPELESS,
    Outcome,
    WholeJobError,
    cases_in_shard,
    raise_error,
    shard_outcomes,
    shards,
    wanted_cluster,
)
from tasks.tracking.runs import TrackedRun, tracked_run

REFINED, INITIAL, OWN = "S", "s_0", "map"
SALIENCY_FIELDS = ("saliency", "saliency_settings", "sign")
SHARD = 64
WORTH_A_CLUSTER = 16  # shards: a cluster starts and loads the model as fast as this process does some of them


def map_name(model: dict[str, Any], name: str) -> str:
    """`<system>/<model version>/<name>`: where a map set lies in a cohort."""
    return f"{model['system']}/{model['version']}/{name}"


@task(name="localize-refined", task_run_name="{cohort}")
def localize_refined(
    cohort: str,
    model: str,
    splits: list[str],
    settings: dict[str, Any],
    batch_size: int,
    cases: list[str] | None = None,
    workers: int | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Refine every chosen case that has no map from this model and these settings; S and s_0 are kept.

    With a `name`, S is called so, and s_0 `<name>.s_0`.
    """
    opened, about = Cohort.open(cohort), describe_model(Path(model))
    config = loop_settings(about, settings)
    attributes = _attributes(about, {"method": "iterative-refinement", **config.model_dump(mode="json")})
    ends = (checked(name), f"{name}.{INITIAL}") if name is not None else (REFINED, INITIAL)
    names = (map_name(about, ends[0]), map_name(about, ends[1]))
    job = map_job(opened, model, about, names, attributes, "iterative-refinement", config, batch_size)
    chosen = selected_cases(opened, splits, cases)
    todo = prepare(opened, list(names), attributes, chosen)
    key = fingerprint("localize", cohort=opened.content_digest(), names=list(names), cases=chosen, **attributes)
    if not todo and (known := finished("localize", key)):
        return {**known, "new": 0, "reused": True}
    with tracked_run("localize", {**attributes, "cohort": cohort, "splits": splits}) as run:
        failed = make_maps(job, todo, workers, len(todo) < len(chosen))
        opened = Cohort.open(cohort)
        note_failures(run, failed)
        made = sorted(set(chosen) & set(map(int, opened.maps(names[0]).indices)))
        summary = refinement_summary(opened, names[0], made)
        page = publish_refinement(run, opened, list(names), made, summary, config)
    counts = {"cases": len(chosen), "new": len(todo) - sum(len(one["cases"]) for one in failed), "failed": failed}
    answer = {"cohort": shared_path(cohort), "maps": list(names), **counts, **summary}
    answer |= {"run_id": run.run_id, "report": str(page)}
    return answer if failed else remember("localize", key, answer, [page])


@task(name="localize-saliency", task_run_name="{saliency}")
def localize_saliency(
    cohort: str,
    model: str,
    splits: list[str],
    saliency: str | None,
    settings: dict[str, Any],
    batch_size: int,
    cases: list[str] | None = None,
    workers: int | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """One map of a plain saliency method, None: the system's own, for every chosen case that has none yet.

    Of the `settings` only `saliency_settings` and `sign` count; `name` is by default the method's.
    """
    if saliency is not None and saliency not in SALIENCY:
        raise ModelError(f"no saliency method {saliency!r}; there are: {', '.join(sorted(SALIENCY))}")
    about = describe_model(Path(model))
    config = loop_settings(about, settings | ({"saliency": saliency} if saliency else {}))
    described = config.model_dump(mode="json", include=set(SALIENCY_FIELDS)) | {"sign": config.map_sign}
    names = (map_name(about, checked(name if name is not None else config.saliency)),)
    attributes = _attributes(about, {"method": "saliency", **described})
    job = map_job(Cohort.open(cohort), model, about, names, attributes, "saliency", config, batch_size)
    return _one_map_set(job, cohort, splits, cases, workers)


@task(name="localize-own", task_run_name="{cohort}")
def localize_own(
    cohort: str,
    model: str,
    splits: list[str],
    batch_size: int,
    cases: list[str] | None = None,
    workers: int | None = None,
    name: str | None = None,
    settings: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The map that the system itself predicts, and its image, for every chosen case that has none yet.

    `settings` lie on those by which it makes maps of what it learnt, where it has such.
    """
    about, given = describe_model(Path(model)), settings or {}
    names = (map_name(about, checked(name if name is not None else OWN)),)
    config = registered(about["system"]).system.map_config(config_of(about), given, where="--set")
    described = {"settings": given} if given else {}
    if (lesion_from := getattr(config, "lesion_from", None)) is not None:
        described[LESION_FROM] = lesion_from
    attributes = _attributes(about, {"method": "own", **described})
    job = map_job(Cohort.open(cohort), model, about, names, attributes, "own", RefinementConfig(), batch_size)
    return _one_map_set(replace(job, own_settings=given), cohort, splits, cases, workers)


def _one_map_set(
    job: MapJob, cohort: str, splits: list[str], cases: list[str] | None, workers: int | None
) -> dict[str, Any]:
    """Make the maps of the job's one set that are missing; what the step answers."""
    opened, [name] = Cohort.open(cohort), job.names
    chosen = selected_cases(opened, splits, cases)
    todo = prepare(opened, [name], job.attributes, chosen)
    if not todo:
        return {"maps": [name], "cases": len(chosen), "new": 0, "failed": [], "reused": True}
    with tracked_run("localize", {**job.attributes, "cohort": cohort, "splits": splits}) as run:
        failed = make_maps(job, todo, workers, len(todo) < len(chosen))
        note_failures(run, failed)
        new = len(todo) - sum(len(one["cases"]) for one in failed)
        run.log_metrics({"cases": len(chosen), "new": new})
        run.tag(snapshot=Cohort.open(cohort).snapshot, model_version=job.version)
    return {"maps": [name], "cases": len(chosen), "new": new, "failed": failed, "run_id": run.run_id}


def checked(name: str) -> str:
    """The last part of a map set's name, or a CohortError."""
    if not name or "/" in name or name == "saliency" or name.startswith((".", "__")):
        raise CohortError(f"maps cannot be called '{name}'; a name is one word without '/', and not 'saliency'")
    return name


def map_job(
    cohort: Cohort,
    model: str,
    about: dict[str, Any],
    names: tuple[str, ...],
    attributes: dict[str, Any],
    method: Localization,
    settings: RefinementConfig,
    batch_size: int,
) -> MapJob:
    """The job, with paths that a worker in another folder can use; cases of differing shapes go one by one."""
    where = (shared_path(cohort.path), cohort.snapshot, shared_path(model), about["version"])
    return MapJob(*where, names, attributes, method, settings, batch_size if cohort.grid is not None else 1)


def make_maps(job: MapJob, todo: list[int], workers: int | None, hopeful: bool) -> Failed:
    """Write the maps of `todo`; what could not be done, as {"cases": [ids], "reason": …}.

    `hopeful`: there are maps of the set already. Otherwise the reason is raised where not one case could be done.
    """
    cohort = Cohort.open(job.cohort, job.snapshot)
    size = cases_in_shard(int(np.prod(cohort.shape(todo[0]))) if todo else 1, SHARD)
    parts = list(shards(todo, size))
    what = f"localize {job.settings.saliency}" if job.method == "saliency" else "localize"
    with progress(what, len(todo)) as advance:
        if goes_to_cluster(len(parts), workers):
            function, patience = partial(localize_shard, replace(job, threads=1)), None if hopeful else HOPELESS
            outcomes = shard_outcomes(function, parts, workers=workers, apart=True, worth=1, patience=patience)
            lost = failures(outcomes, advance)
        else:
            lost = list(streamed(job, cohort, todo, size, advance, hopeful))
    if lost and not hopeful and sum(len(outcome.part) for outcome in lost) == len(todo):
        raise_error(lost[0])
    return failed_cases(cohort, lost)


def goes_to_cluster(parts: int, workers: int | None) -> bool:
    """Where several processes were asked for, or are sure to be faster than the threads of this one."""
    alone = best_device() != "cpu" or (os.cpu_count() or 1) == 1
    return parts > 0 and wanted_cluster(parts, 1 if alone and workers is None else workers, WORTH_A_CLUSTER)


def streamed(
    job: MapJob, cohort: Cohort, todo: list[int], size: int, advance: Advance, hopeful: bool
) -> Iterator[Outcome]:
    """Make and write the maps in this process, `size` cases a transaction; what failed for good.

    One stream keeps the device full across shards. Where it breaks, the cases that were in it are done as shards.
    What is not a case's doing (the disk, the memory, a lost connection) is raised.
    """
    system, left = loaded(job.model, job.version), todo
    while left:
        begun: list[int] = []
        done: set[int] = set()
        try:
            for shard in shards(answers(job, system, _noting(cohort, left, begun), refine), size):
                write_shard(job, cohort, shard)
                done.update(cases_of(shard))
                advance(len(shard), "")
        except (OSError, MemoryError, WholeJobError):
            raise
        except Exception:
            suspects = list(shards([case for case in begun if case not in done], size))
            hopeful = hopeful or bool(done)
            patience = None if hopeful else HOPELESS
            outcomes = shard_outcomes(partial(localize_shard, job), suspects, workers=1, apart=True, patience=patience)
            yield from failures(outcomes, advance)
        left = left[len(begun) :]
    loaded.cache_clear()


def _noting(cohort: Cohort, cases: Sequence[int], begun: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Each case and its image; `begun` gets the case first."""
    for case in cases:
        begun.append(case)
        yield case, cohort.image(case)


def plain_maps(
    system: System, cohort: Cohort, cases: Sequence[int], config: RefinementConfig, batch_size: int
) -> Iterator[PlainMap]:
    """Score and map of each case by the configured saliency method, on the accelerator where there is one."""
    device = best_device()
    images = ((case, cohort.image(case)) for case in cases)
    yield from saliency_maps(
        system.to(device),
        system.to_input,
        images,
        config.method,
        target=system.target,
        sign=config.map_sign,
        batch_size=batch_size,
        device=device,
    )


def refinement_config(system: System, settings: dict[str, Any]) -> RefinementConfig:
    """The system's own refinement settings with the user's on top."""
    return _on_top(system.config, settings)


def loop_settings(about: dict[str, Any], settings: dict[str, Any]) -> RefinementConfig:
    """The same from a model's description, without its network."""
    return _on_top(config_of(about), settings)


def config_of(about: dict[str, Any]) -> Config:
    """The system's configuration in a model's description."""
    return validated(registered(about["system"]).config, about["config"], where=about["system"])


def _on_top(config: Config, settings: dict[str, Any]) -> RefinementConfig:
    """Settings of the system's saliency method go with another method only where they are given anew."""
    own = own_settings(config)
    same = settings.get("saliency", own["saliency"]) == own["saliency"]
    given = settings.get("saliency_settings", {})
    if isinstance(given, dict):
        settings = {**settings, "saliency_settings": {**(own["saliency_settings"] if same else {}), **given}}
    return validated(RefinementConfig, {**own, **settings}, where="--set")


def own_settings(config: Config) -> dict[str, Any]:
    """A system's `refinement`, or defaults with the saliency method that it is configured with."""
    if hasattr(config, "refinement"):
        return dict(config.refinement.model_dump())
    chosen = {field: getattr(config, field) for field in SALIENCY_FIELDS if hasattr(config, field)}
    return RefinementConfig(**chosen).model_dump()


def prepare(cohort: Cohort, names: list[str], attributes: dict[str, Any], cases: list[int]) -> list[int]:
    """The cases without maps; maps made with other settings are dropped first."""
    done: set[int] | None = None
    for name in names:
        if name in cohort.map_names() and cohort.maps(name).attrs != attributes:
            cohort.drop_maps(name)
        have = set(map(int, cohort.maps(name).indices)) if name in cohort.map_names() else set()
        done = have if done is None else done & have
    return [case for case in cases if case not in (done or set())]


def refinement_summary(cohort: Cohort, name: str, cases: list[int]) -> dict[str, float]:
    """Whether the loop did its job: of the cases above the stop score at first, how many came down, and how soon."""
    table = cohort.maps(name).table.loc[cases]
    referable = table[table["iterations"] > 0]
    count = max(len(referable), 1)
    return {
        "refined": len(referable),
        "mean_iterations": float(referable["iterations"].mean()) if len(referable) else 0.0,
        "stopped_by_score": float((referable["stop_reason"] == "score").sum() / count),
        "stopped_by_cap": float((referable["stop_reason"] == "cap").sum() / count),
        "mean_score_drop": float((referable["score"] - referable["final_score"]).mean()) if len(referable) else 0.0,
    }


def publish_refinement(
    run: TrackedRun,
    cohort: Cohort,
    names: list[str],
    cases: list[int],
    summary: dict[str, float],
    config: RefinementConfig,
) -> Path:
    """Metrics and the gallery of the most severe cases, in MLflow and as a page."""
    run.log_metrics(summary)
    run.tag(snapshot=cohort.snapshot, maps=names[0])
    table = cohort.maps(names[0]).table.loc[cases].sort_values("iterations", ascending=False)
    shown = [int(case) for case in table.index[:: max(1, len(table) // 16)][:8]]
    sections = [
        Section("The loop", table=pd.DataFrame([summary]), text=" ".join(map(str, config.model_dump().items()))),
        Section(
            "Image, truth, first and refined map, inpainted image, score",
            "Maps share one scale over all cases: a faint map is faint, not rescaled.",
            figure=refinement_gallery(cohort, names[0], names[1], shown, config.stop_score),
        ),
    ]
    return publish_report("localize", run, f"Lesions of {cohort.path}", sections)


def _attributes(about: dict[str, Any], method: dict[str, Any]) -> dict[str, Any]:
    """What made a set of maps; another model, method or `models` code makes them anew."""
    made_by = {"model": about["version"], "system": about["system"], "code": code_digest(("models",))[:12]}
    decides_from = getattr(config_of(about), "decides_from", None)
    decision = {} if decides_from is None else {"decides_from": decides_from}
    return {**made_by, "target": about["target"], **decision, **method}
