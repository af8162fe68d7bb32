"""What each fold's model says of the cases it never saw: maps in the cohort, and a table of scores."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch.utils.data import DataLoader

from models.errors import ModelError
from models.localization.refinement import RefinementConfig
from models.system import System
from storage.cohort import Cohort
from storage.loading import CohortImages
from tasks.folds.plan import FoldJob, Plan, labels_of, tell
from tasks.localization import OWN, SALIENCY_FIELDS, SHARD, plain_maps, prepare, refinement_config
from tasks.map_making import PlainMap, best_device, write_plain
from tasks.model_files import describe_model, load_model
from tasks.own_maps import OwnMap, own_maps, write_own
from tasks.progress import Advance, progress
from tasks.reuse import code_digest
from tasks.shards import shards

COLUMNS = ("case", "fold", "repeat", "score")
Way = Literal["own", "saliency"]
NO_MAPS = (ModelError, NotImplementedError, RuntimeError, ValueError)  # what a network says of images it cannot take


@dataclass(frozen=True)
class FoldModel:
    """A fold's trained model, with what its folder says of it."""

    planned: FoldJob
    folder: Path
    about: dict[str, Any]

    @property
    def system(self) -> System:
        """The model itself, loaded anew."""
        return load_model(self.folder, self.about)


@task(name="predict-held-out", cache_policy=NO_CACHE)
def predict_held_out(plan: Plan, folders: Sequence[Path]) -> tuple[list[str], pd.DataFrame]:
    """The map sets, one a repeat, and a row of scores a case and repeat, by the model of each fold.

    Maps that are there already are left alone. Where the system can give none, a line says why, and the scores alone
    are predicted: columns case_id, patient_id, split, fold, repeat, label, score.
    """
    models = [FoldModel(*one, describe_model(one[1])) for one in zip(plan.folds, folders, strict=True)]
    cohort = Cohort.open(plan.cohort)
    way, reason = way_of_mapping(models[0].system, cohort, plan.folds[0].fold.held_out[0])
    with progress("predict held-out cases", len(plan.cases) * plan.repeats) as advance:
        if way is None:
            tell(f"cross-validation: no maps of held-out cases, scores alone: {reason}")
            return [], predicted_table(plan, cohort, models, advance)
        names = [
            write_repeat(
                cohort, plan, repeat, [model for model in models if model.planned.fold.repeat == repeat], way, advance
            )
            for repeat in range(1, plan.repeats + 1)
        ]
    return names, mapped_table(plan, cohort, names)


def way_of_mapping(system: System, cohort: Cohort, case: int) -> tuple[Way | None, str]:
    """How the system gives maps: its own where it localises by them, else its saliency; none of both, and why."""
    reason = ""
    ways: tuple[Way, ...] = ("own", "saliency") if system.localization == "own" else ("saliency",)
    for way in ways:
        if not (reason := why_no_maps(system, cohort, case, way)):
            return way, ""
    return None, reason


def why_no_maps(system: System, cohort: Cohort, case: int, way: Way) -> str:
    """The reason why the system gives no such map on the grid of a case; empty where it does."""
    try:
        [found] = maps_of(system, cohort, [case], way, 1)
    except NO_MAPS as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    if found[2].shape != cohort.shape(case):
        return f"a map of {found[2].shape} does not fit a case of {cohort.shape(case)}"
    return ""


def maps_of(
    system: System, cohort: Cohort, cases: Sequence[int], way: Way, batch_size: int
) -> Iterator[OwnMap] | Iterator[PlainMap]:
    """(case, score, map, …) of each case."""
    if way == "saliency":
        return plain_maps(system, cohort, cases, refinement_config(system, {}), batch_size)
    device = best_device()
    return own_maps(system.to(device), ((case, cohort.image(case)) for case in cases), batch_size, device)


def write_repeat(
    cohort: Cohort, plan: Plan, repeat: int, models: Sequence[FoldModel], way: Way, advance: Advance
) -> str:
    """Write the maps that one repeat lacks, each by its fold's model; the name of the set."""
    config = refinement_config(models[0].system, {})
    name = map_set(plan, repeat, config.saliency if way == "saliency" else OWN)
    attributes = map_attributes(plan, repeat, models, way, config)
    write: Callable[..., None] = write_plain if way == "saliency" else write_own
    todo = set(prepare(cohort, [name], attributes, plan.cases))
    advance(len(plan.cases) - len(todo), "")
    for model in models:
        cases = [case for case in model.planned.fold.held_out if case in todo]
        size = cases_at_once(cohort, model.planned)
        noted = {"fold": model.planned.fold.number, "model": model.about["version"]}
        found: Iterable[OwnMap | PlainMap] = maps_of(model.system, cohort, cases, way, size) if cases else ()
        for shard in shards(found, SHARD):
            write(cohort, name, shard, attributes, **noted)
            advance(len(shard), model.planned.name)
    return name


def map_set(plan: Plan, repeat: int, end: str) -> str:
    """`<system>/cv-<key>/<saliency method, or map>`, with the number of a repeat after the first."""
    return f"{plan.system}/cv-{plan.key[:8]}/{end}" + (f"-r{repeat}" if repeat > 1 else "")


def map_attributes(
    plan: Plan, repeat: int, models: Sequence[FoldModel], way: Way, config: RefinementConfig
) -> dict[str, Any]:
    """What made a set of maps: `models` has the version of each fold's model, the table which fold a case is of."""
    described = config.model_dump(mode="json", include=set(SALIENCY_FIELDS)) | {"sign": config.map_sign}
    return {
        "system": plan.system,
        "target": plan.target,
        "method": "cross-validation",
        **(described if way == "saliency" else {"saliency": way}),
        "repeat": repeat,
        "models": {str(model.planned.fold.number): model.about["version"] for model in models},
        "snapshot": models[0].about["snapshot"],
        "code": code_digest(("models",))[:12],
    }


def cases_at_once(cohort: Cohort, planned: FoldJob) -> int:
    """As many as fitted into memory in training; one where cases differ in size or were trained on by patches."""
    settings = planned.job.trainer
    one_by_one = cohort.grid is None or settings.patch is not None
    return 1 if one_by_one else max(1, settings.batch_size // (planned.job.world_size * settings.accumulate))


def mapped_table(plan: Plan, cohort: Cohort, names: Sequence[str]) -> pd.DataFrame:
    """The table of scores, as the map sets have them."""
    tables = [cohort.maps(name).table.loc[plan.cases, ["fold", "score"]] for name in names]
    rows = [table.rename_axis("case").reset_index().assign(repeat=repeat) for repeat, table in enumerate(tables, 1)]
    return score_table(plan, cohort, pd.concat(rows))


def predicted_table(plan: Plan, cohort: Cohort, models: Sequence[FoldModel], advance: Advance) -> pd.DataFrame:
    """The table of scores, as the systems predict them; NaN where they predict none."""
    rows = []
    for model in models:
        fold = model.planned.fold
        for case, score in predicted_scores(model, cohort):
            rows.append((case, fold.number, fold.repeat, score))
            advance(1, model.planned.name)
    return score_table(plan, cohort, pd.DataFrame(rows, columns=list(COLUMNS)))


def predicted_scores(model: FoldModel, cohort: Cohort) -> Iterator[tuple[int, float]]:
    """The cases that the model never saw, and their scores."""
    system, device = model.system.to(best_device()), best_device()
    images = CohortImages(cohort.path, cohort.snapshot, model.planned.fold.held_out, None, in_memory=False)
    for batch in DataLoader(images, batch_size=cases_at_once(cohort, model.planned)):
        with torch.no_grad():
            predicted = system.predict_step({**batch, "image": batch["image"].to(device)}, 0)
        unknown = torch.full((len(batch["case"]),), float("nan"))
        yield from zip(batch["case"].tolist(), predicted.get("score", unknown).tolist(), strict=True)


def score_table(plan: Plan, cohort: Cohort, rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` of `COLUMNS` with what the cohort knows of each case, sorted by repeat, fold and case."""
    rows = rows.sort_values(["repeat", "fold", "case"], ignore_index=True)
    cases = rows["case"].tolist()
    known = cohort.table.loc[cases, ["case_id", "patient_id", "split"]].reset_index(drop=True)
    return known.assign(
        fold=rows["fold"], repeat=rows["repeat"], label=labels_of(cohort, plan.target, cases), score=rows["score"]
    )
