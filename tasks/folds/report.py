"""What a cross-validation found: metrics of held-out cases, pooled and by fold, its scores, its page, its ensemble."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from models.errors import ModelError
from models.metrics.scores import Kind, label_kind, score_metrics
from storage.cohort import Cohort
from tasks.engine.epoch_log import read_epochs
from tasks.evaluation import with_interval
from tasks.folds.figures import fold_curves
from tasks.folds.plan import Plan, tell
from tasks.model_files import save_ensemble
from tasks.reporting import Section, publish_report
from tasks.tracking.registry import register_model
from tasks.tracking.runs import TrackedRun, flattened
from tasks.training.figures import outcome_figure
from tasks.training.report import METRIC_NAMES, two_columns
from tasks.training.train import job_monitor

SCORES, ENSEMBLE = "scores.parquet", "model"
MOST_MEMBERS = 20  # more make a model slow and large rather than better
RESAMPLES = 1000
Metrics = dict[str, Any]


@task(name="report-folds", cache_policy=NO_CACHE)
def report_folds(
    run: TrackedRun, plan: Plan, trained: Sequence[dict[str, Any]], maps: Sequence[str], scores: pd.DataFrame
) -> dict[str, Any]:
    """Metrics, the table of scores, the ensemble and the page, in MLflow and as files; what the command answers."""
    usable = scores[np.isfinite(scores["label"]) & np.isfinite(scores["score"])]
    pooled = metrics_by_repeat(usable)
    by_fold = fold_rows(plan, trained, fold_metrics(plan, usable))
    run.log_metrics({f"held_out/{key}": value for key, value in pooled.get("mean", {}).items() if finite(value)})
    file = plan.folder / SCORES
    scores.to_parquet(file, index=False)
    run.log_file(file)
    return {
        "run_id": run.run_id,
        "folds": len(plan.repeat(1)),
        "repeats": plan.repeats,
        "cases": len(plan.cases),
        "patients": int(scores["patient_id"].nunique()),
        "held_out": pooled.get("mean", {}),
        "by_repeat": [metrics for name, metrics in pooled.items() if name != "mean"],
        "by_fold": by_fold,
        "maps": list(maps),
        "scores": str(file),
        **join_models(run, plan, trained),
        "report": str(publish_folds(run, plan, trained, usable, pooled, by_fold)),
    }


def metrics_by_repeat(usable: pd.DataFrame) -> dict[str, Metrics]:
    """Metrics over all held-out cases of each repeat, and their `mean`; nothing where no case has label and score."""
    if usable.empty:
        return {}
    cases = usable.pivot(index=["case_id", "patient_id", "label"], columns="repeat", values="score").dropna()
    patients, labels = cases.index.get_level_values("patient_id").tolist(), cases.index.get_level_values("label")
    predictions = {f"repeat {repeat}": cases[[repeat]] for repeat in cases} if cases.shape[1] > 1 else {}
    kind = label_kind(usable["label"])
    return {
        name: score_metrics(labels, chosen.to_numpy().T, patients, kind, resamples=RESAMPLES)
        for name, chosen in {**predictions, "mean": cases}.items()
    }


def fold_metrics(plan: Plan, usable: pd.DataFrame) -> list[Metrics]:
    """Metrics over the held-out cases of each fold, by the kind that the label has over all of them."""
    if usable.empty:
        return [{} for _ in plan.folds]
    kind = label_kind(usable["label"])
    folds = dict(list(usable.groupby(["repeat", "fold"])))
    return [metrics_of(folds.get((one.fold.repeat, one.fold.number)), kind) for one in plan.folds]


def metrics_of(cases: pd.DataFrame | None, kind: Kind) -> Metrics:
    """Metrics of the cases of one fold."""
    if cases is None:
        return {}
    patients = cases["patient_id"].tolist()
    return dict(score_metrics(cases["label"], [cases["score"]], patients, kind, resamples=RESAMPLES))


def fold_rows(plan: Plan, trained: Sequence[dict[str, Any]], metrics: Sequence[Metrics]) -> list[dict[str, Any]]:
    """What there is to say of each fold."""
    monitored = monitored_value(plan)
    return [
        {
            **({"repeat": planned.fold.repeat} if plan.repeats > 1 else {}),
            "fold": planned.fold.number,
            "training": len(planned.fold.train),
            "validation": len(planned.fold.validation),
            "held out": len(planned.fold.held_out),
            "best epoch": answer["best"]["epoch"],
            monitored: answer["best"].get(monitored),
            **measured,
            "model": answer["model_version"],
        }
        for planned, answer, measured in zip(plan.folds, trained, metrics, strict=True)
    ]


def monitored_value(plan: Plan) -> str:
    """The value by which epochs are compared; the loss where the last one counts anyway."""
    try:
        return job_monitor(plan.folds[0].job)[0]
    except ModelError:
        return "val/loss"


def join_models(run: TrackedRun, plan: Plan, trained: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The models of the first repeat as an ensemble: a folder, in MLflow, a registered version of the system."""
    members = [Path(answer["model"]) for answer in trained[: len(plan.repeat(1))]]
    if len(members) > MOST_MEMBERS:
        tell(f"cross-validation: no ensemble of {len(members)} models; at most {MOST_MEMBERS} are joined")
        return {}
    folder = plan.folder / ENSEMBLE
    try:
        version = save_ensemble(folder, members)
        run.log_model(folder)
    except ModelError as error:
        tell(f"cross-validation: no ensemble: {error}")
        return {}
    run.tag(model_version=version)
    number = register_model(run.client, plan.system, run.run_id)
    return {"model": str(folder), "model_version": version, "registered": f"{plan.system} version {number}"}


def publish_folds(
    run: TrackedRun,
    plan: Plan,
    trained: Sequence[dict[str, Any]],
    usable: pd.DataFrame,
    pooled: dict[str, Metrics],
    by_fold: Sequence[dict[str, Any]],
) -> Path:
    """The page: pooled metrics, folds, scores by label, learning curves."""
    best = {planned.name: answer["best"] for planned, answer in zip(plan.folds, trained, strict=True)}
    epochs = {planned.name: read_epochs(planned.job.folder) for planned in plan.folds}
    sections = [
        *pooled_sections(plan, usable, pooled),
        Section("Folds", FOLDS, table=shown(by_fold, {})),
        Section("Learning curves", CURVES, figure=fold_curves(epochs, best, monitored_value(plan))),
        Section("Settings", table=two_columns(flattened(plan.described()))),
    ]
    return publish_report("cross-validate", run, f"Cross-validation of {plan.system} on {plan.cohort}", sections)


FOLDS = (
    "Numbers of cases. No patient is in two parts of a fold; the validation part, of the training patients, chose the "
    "epoch (counted from 0). 95 % intervals by resampling the patients of the fold."
)
CURVES = "A line a fold; the dot is the epoch that was kept. The held-out cases are in none of these curves."


def pooled_sections(plan: Plan, usable: pd.DataFrame, pooled: dict[str, Metrics]) -> list[Section]:
    """Metrics over all held-out cases, and their scores by label; nothing where the system gives no scores."""
    if not pooled:
        return []
    first = usable[usable["repeat"] == 1]
    patients = first["patient_id"].nunique()
    heading = f"{len(first)} cases of {patients} patients, each predicted by a model that never saw the patient"
    words = f"Splits {', '.join(plan.splits)}. 95 % intervals by resampling patients."
    names = {"mean": "mean over repeats"} if plan.repeats > 1 else {"mean": "pooled"}
    table = shown([{"": names.get(name, name), **metrics} for name, metrics in pooled.items()], METRIC_NAMES)
    once = "" if plan.repeats == 1 else "As predicted in the first repeat."
    figure = outcome_figure(first["label"].to_numpy(float), first["score"].to_numpy(float))
    return [Section(heading, words, table), Section("Score by label", once, figure=figure)]


def shown(results: Sequence[dict[str, Any]], names: Mapping[str, str]) -> pd.DataFrame:
    """Rows of values and metrics, metrics with their intervals; what is not in `names` keeps its name."""

    def cells(row: dict[str, Any]) -> dict[str, Any]:
        values = {key: value for key, value in row.items() if not key.endswith("_interval")}
        return {
            names.get(key, key): with_interval(row, key) if f"{key}_interval" in row else value
            for key, value in values.items()
        }

    return pd.DataFrame([cells(row) for row in results])


def finite(value: Any) -> bool:
    """Whether a metric is a number that MLflow can plot."""
    return isinstance(value, float) and bool(np.isfinite(value))


def has_maps(plan: Plan, names: Sequence[str]) -> bool:
    """Whether every held-out case still has its map."""
    cohort = Cohort.open(plan.cohort)
    known = set(cohort.map_names())
    return all(name in known and set(plan.cases) <= set(cohort.maps(name).indices.tolist()) for name in names)


def made_files(answer: dict[str, Any]) -> list[Path]:
    """The files that an answer stands for."""
    model = sorted(Path(answer["model"]).iterdir()) if "model" in answer else []
    return [Path(answer["scores"]), Path(answer["report"]), *model]
