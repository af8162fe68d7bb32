"""The models of a cross-validation: trained side by side, each without the cases that its fold holds out."""

import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from models.errors import ModelError
from storage.errors import CohortError
from storage.loading import LoadingError
from tasks.errors import TrainingError, TrainingStoppedError
from tasks.folds.plan import FoldJob, Plan, tell
from tasks.tracking.runs import TrackedRun, tracked_run
from tasks.training.launch import stop_running
from tasks.training.placement import at_once, share
from tasks.training.train import train_tracked

MEANT_FOR_A_PERSON = (TrainingError, ModelError, CohortError, LoadingError)


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


def outcomes(plan: Plan, parent: str, parallel: int | None) -> Iterator[tuple[FoldJob, dict[str, Any] | Exception]]:
    """Each fold with its answer or its failure, as they end."""
    devices = plan.folds[0].job.devices
    count = min(parallel or at_once(devices), len(plan.folds))
    stopping = threading.Event()
    free: SimpleQueue[int] = SimpleQueue()
    for slot in range(count):
        free.put(slot)

    def train(planned: FoldJob) -> dict[str, Any] | Exception:
        slot = free.get()
        try:
            return trained(planned, parent, share(slot, count, devices), stopping)
        finally:
            free.put(slot)

    if count == 1:  # in this thread, where an interrupt reaches the training at once
        yield from ((planned, train(planned)) for planned in plan.folds)
        return
    with ThreadPoolExecutor(count) as pool:
        futures = {pool.submit(contextvars.copy_context().run, train, planned): planned for planned in plan.folds}
        try:
            yield from ((futures[future], future.result()) for future in as_completed(futures))
        except BaseException:
            stopping.set()
            stop_running()
            pool.shutdown(cancel_futures=True)
            raise


def trained(
    planned: FoldJob, parent: str, environment: dict[str, str], stopping: threading.Event
) -> dict[str, Any] | Exception:
    """Train one fold on its share of the machine; or a failure that a person can read.

    Raises:
        TrainingStoppedError: a signal ended it, or `stopping` was set.
    """

    def watch(_: dict[str, Any]) -> None:
        if stopping.is_set():
            raise TrainingStoppedError("the other folds were stopped")

    about = {"fold": str(planned.fold.number), "repeat": str(planned.fold.repeat)}
    try:
        return train_tracked(
            planned.key,
            planned.job,
            parent=parent,
            on_epoch=watch,
            register=False,
            tags=about,
            environment=environment,
        )
    except TrainingStoppedError:
        raise
    except MEANT_FOR_A_PERSON as error:
        return error
