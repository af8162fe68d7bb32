"""The MLflow run of a reproduction, those of its trials, and its answer, kept for the next time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from storage.cohort import Cohort
from tasks.reproduction.plan import Plan, Trial
from tasks.reuse import finished, remember
from tasks.tracking.runs import TrackedRun, tracked_run

STEP, TRIAL = "reproduce", "reproduce-trial"
Answer = dict[str, Any]


def reproduction_run(plan: Plan) -> AbstractContextManager[TrackedRun]:
    """The run above those of the trials."""
    config = {**plan.model_dump(mode="json", exclude={"content"}), "chosen": list(plan.chosen)}
    about = {"experiment": plan.name, "preset": plan.preset, "protocol": plan.experiment.protocol}
    return reopened_run(STEP, plan.folder, config, fingerprint=plan.key, cohort=plan.cohort, **about)


def trial_run(plan: Plan, trial: Trial, key: str, parent: str) -> AbstractContextManager[TrackedRun]:
    """The run of a trial."""
    experiment = plan.experiment
    config = {"arm": trial.arm, "seed": trial.seed, **experiment.arms[trial.arm].model_dump(mode="json")}
    about = {"experiment": plan.name, "preset": plan.preset, "arm": trial.arm, "seed": str(trial.seed)}
    about |= {"protocol": experiment.protocol, "evaluated": experiment.evaluated, "cohort": plan.cohort}
    return reopened_run(TRIAL, plan.folder.with_name("trials") / key[:12], config, parent=parent, **about)


@contextmanager
def reopened_run(
    step: str, folder: Path, config: dict[str, Any], *, parent: str | None = None, **tags: str
) -> Iterator[TrackedRun]:
    """A tracked run whose id is noted in `folder`; that of a killed process is opened again."""
    file = folder / "mlflow_run"
    resume = file.read_text() if file.exists() else None
    with tracked_run(step, config, resume=resume, parent=parent, system_metrics=False, **tags) as run:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(run.run_id)
        yield run


def nest(run: TrackedRun, answer: Answer) -> None:
    """Put the run of a step below `run`, unless the step was done before."""
    if "run_id" in answer and not answer.get("reused"):
        TrackedRun(run.client, answer["run_id"]).tag(**{MLFLOW_PARENT_RUN_ID: run.run_id})


def adopt(run: TrackedRun, training: str, parent: str) -> None:
    """Put a training below the first trial that uses it, if it was done ahead of all of them, below `parent`."""
    if run.client.get_run(training).data.tags.get(MLFLOW_PARENT_RUN_ID) == parent:
        TrackedRun(run.client, training).tag(**{MLFLOW_PARENT_RUN_ID: run.run_id})


def known_answer(plan: Plan) -> Answer | None:
    """What the same reproduction answered, if its page stands and the cohort has its maps."""
    answer = finished(STEP, plan.key)
    if answer is None:
        return None
    there = set(Cohort.open(plan.cohort).map_names())
    return answer if all(set(trial["maps"]) <= there for trial in answer["trials"]) else None


def remember_answer(plan: Plan, answer: Answer) -> Answer:
    """Keep the answer, unless a trial failed: that is tried again."""
    return answer if answer["failed"] else remember(STEP, plan.key, answer, [Path(answer["report"])])
