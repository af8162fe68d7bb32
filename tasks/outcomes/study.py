"""The study as one step: plan, folds, findings, the model of all patients, MLflow and the page."""

import tempfile
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from models.outcome import Asked, Fitted, final_model
from tasks.kept import kept_answers
from tasks.outcomes.findings import findings, selection_shares
from tasks.outcomes.model import save_model
from tasks.outcomes.plan import FIRST, Plan, plan_study
from tasks.outcomes.report import publish_study
from tasks.outcomes.work import Done, do_parts, prediction_table
from tasks.reuse import finished, remember
from tasks.tracking.runs import TrackedRun, tracked_run
from tasks.workspace import current_workspace

PREDICTIONS, MODEL = "predictions.parquet", "model"
NO_MODEL = "scikit-survival's forest has no form without pickle"


@task(name="study-outcome", task_run_name="{features}", cache_policy=NO_CACHE)
def study_outcome(
    features: str,
    asked: Asked,
    compare: str | None,
    stability: str | None,
    splits: list[str],
    settings: dict[str, Any],
    workers: int | None = None,
) -> dict[str, Any]:
    """Judge by nested cross-validation what `features` say of the outcome; reused where nothing has changed."""
    plan = plan_study(features, compare, stability, asked, splits, settings)
    if known := finished("study", plan.key):
        return {**known, "reused": True}
    keep = kept_answers("study", plan.key)
    with tracked_run("study", plan.described()) as run:
        done = do_parts(plan, keep, workers)
        answer = {**counted(plan), **findings(plan, done), "run_id": run.run_id}
        log_findings(run, answer)
        folder = current_workspace().runs / f"study-{plan.key[:12]}"
        answer |= write_results(run, plan, done, folder, answer)
    keep.clear()
    files = [Path(answer["predictions"]), Path(answer["report"])]
    return remember("study", plan.key, answer, files)


def counted(plan: Plan) -> dict[str, Any]:
    """What was asked of whom."""
    first = plan.first
    return {
        "features_file": plan.files[FIRST],
        "outcome": plan.about,
        "model": plan.model,
        "patients": len(first.names),
        "positive": int(first.event.sum()),
        "left_out": first.left_out,
        **({"unpaired": plan.unpaired} if len(plan.files) > 1 else {}),
        "features": len(first.features),
        "folds": plan.config.folds,
        "repeats": plan.config.repeats,
    }


def log_findings(run: TrackedRun, answer: dict[str, Any]) -> None:
    """Metrics with the ends of their intervals, and all numbers as one file."""
    metrics = answer["metrics"]
    run.log_metrics({key: value for key, value in metrics.items() if isinstance(value, float) and value == value})
    ends = {key.replace("_interval", ""): value for key, value in metrics.items() if key.endswith("_interval")}
    for side, name in enumerate(("low", "high")):
        run.log_metrics({f"{key}_{name}": value[side] for key, value in ends.items() if value[side] == value[side]})
    if found := answer.get("permutation"):
        run.log_metrics({"permutation_p": found["p"]})
    run.log_json(answer, "study.json")


def write_results(run: TrackedRun, plan: Plan, done: Done, folder: Path, answer: dict[str, Any]) -> dict[str, Any]:
    """Predictions, selected features, the model and the page, as files and in MLflow; where they lie."""
    folder.mkdir(parents=True, exist_ok=True)
    predictions, selected = folder / PREDICTIONS, folder / "selected.csv"
    prediction_table(plan.first, done.folds[FIRST]).to_parquet(predictions, index=False)
    selection_shares(plan.first, done.folds[FIRST]).to_csv(selected, index=False)
    for file in (predictions, selected):
        run.log_file(file, "tables")
    fitted = final_model(plan.first, plan.config)
    made = model_in_mlflow(run, plan, fitted)
    page = publish_study(run, plan, done, answer, fitted)
    return {"predictions": str(predictions), **made, "report": str(page)}


def model_in_mlflow(run: TrackedRun, plan: Plan, fitted: Fitted) -> dict[str, str]:
    """The model of all patients as an artifact of the run, and where it lies; or why there is none."""
    with tempfile.TemporaryDirectory() as staging:
        place = Path(staging, MODEL)
        if not save_model(place, fitted, plan.first, {"outcome": plan.about}):
            return {"model_left_out": NO_MODEL}
        run.log_file(place, MODEL)
    return {"served_model": f"runs:/{run.run_id}/{MODEL}"}
