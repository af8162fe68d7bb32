"""The models of a cross-validation: trained side by side, each without the cases that its fold holds out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.errors import TrainingError
from tasks.folds.plan import FoldJob, Plan, tell
from tasks.tracking.runs import TrackedRun, tracked_run
from tasks.training.placement import at_once
from tasks.training.side_by_side import Outcome, Planned, trained_side_by_side


@contextmanager
def cross_validation_run(plan: Plan) -> Iterator[TrackedRun]:
    """The MLflow run above those of the folds; a killed one is opened again."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    known = plan.folder / "mlflow_run"
    resume = known.read_text() if known.exists() else None
    with tracked_run("cross-validate", plan.described(), resume=resume, snapshot=plan.snapshot) as run:
        run.tag(cohort=plan.cohort, system=plan.system, fingerprint=plan.key)
        known.write_text(run.run_id)
        yield run


@task(name="train-folds", cache_policy=NO_CACHE)
def train_folds(plan: Plan, parent: str, parallel: int | None = None) -> list[dict[str, Any]]:
    """Train every fold that is not trained yet, `parallel` at a time; what `train_tracked` answers of each, in order.

    By default as many at a time as there are groups of GPUs, or one. MLflow keeps each as a run below `parent`.

    Raises:
        TrainingError: folds failed; it names them. All others are trained by then.
    """
    answers: dict[str, dict[str, Any]] = {}
    failures: dict[str, Exception] = {}
    for planned, outcome in outcomes(plan, parent, parallel):
        if isinstance(outcome, Exception):
            failures[planned.name] = outcome
            tell(f"{planned.name}: failed: {outcome}")
        else:
            answers[planned.name] = outcome
            tell(f"{planned.name}: {told(outcome)} ({len(answers)} of {len(plan.folds)} trained)")
    if failures:
        reasons = "; ".join(f"{name}: {error}" for name, error in failures.items())
        count = f"{len(failures)} of {len(plan.folds)} folds failed"
        raise TrainingError(f"{count}: {reasons}; the same command goes on with what is missing")
    return [answers[planned.name] for planned in plan.folds]


def told(answer: dict[str, Any]) -> str:
    """How well a fold was trained."""
    best = answer["best"]
    losses = [f"{name} {value:.4g}" for name, value in best.items() if name.startswith("val/")]
    again = "trained before, " if answer.get("reused") else ""
    return f"{again}epoch {best['epoch'] + 1} of {answer['epochs']} is best, {', '.join(losses) or 'no validation'}"


def outcomes(plan: Plan, parent: str, parallel: int | None) -> Iterator[tuple[FoldJob, Outcome]]:
    """Each fold with its answer or its failure, as they end."""
    trainings = [
        Planned(one.key, one.job, {"fold": str(one.fold.number), "repeat": str(one.fold.repeat)}) for one in plan.folds
    ]
    count = parallel or at_once(plan.folds[0].job.devices)
    yield from ((plan.folds[number], outcome) for number, outcome in trained_side_by_side(trainings, parent, count))
