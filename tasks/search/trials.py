"""Search for settings: trainings of one system as trials of a study, each an MLflow run within the search's run."""

import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from optuna import Study, TrialPruned
from optuna.trial import FrozenTrial, TrialState
from prefect import task

from models.config import Config
from models.errors import ModelError
from models.registry import build
from tasks.engine.epoch_log import read_epochs
from tasks.engine.job import TrainingJob
from tasks.experiments import merged
from tasks.reuse import fingerprint, write_json
from tasks.search.loop import Attempt, run_search
from tasks.search.report import publish_search, trials_table
from tasks.search.space import Space, check_space, settings_at
from tasks.search.study import best_trial, counts, opened_study
from tasks.tracking.registry import register_model
from tasks.tracking.runs import ERROR, TrackedRun, tracked_run
from tasks.training.launch import stop_running
from tasks.training.placement import share
from tasks.training.train import job_monitor, train_tracked, training_job
from tasks.workspace import current_workspace


class SearchPlan(Config):
    """What is searched: the settings that every trial shares, and the space of those that vary."""

    cohort: str
    system: str
    target: str
    settings: dict[str, Any]
    trainer: dict[str, Any]
    seed: int
    devices: int
    space: Space

    def job_at(self, values: Mapping[str, Any]) -> tuple[str, TrainingJob]:
        """The training at a point of the space, with its fingerprint; CohortError and ModelError as `training_job`."""
        of_system, of_trainer = settings_at(values)
        settings, trainer = merged(self.settings, of_system), merged(self.trainer, of_trainer)
        return training_job(self.cohort, self.system, self.target, settings, trainer, self.seed, self.devices, None)


class Objective(Config):
    """What is made as small or as large as can be: a value that the last stage logs for validation cases.

    Trials are judged from epoch `warmup` on, a third of the way: a one-cycle schedule has its highest learning rate
    until then, when losses say little.
    """

    stage: str
    monitor: str
    mode: Literal["min", "max"]
    warmup: int

    @classmethod
    def of(cls, job: TrainingJob) -> "Objective":
        """That of a job; ModelError where its last stage names no value."""
        monitor, mode = job_monitor(job)
        stage = list(build(job.system, job.config).stages())[-1]
        return cls(stage=stage, monitor=monitor, mode=mode, warmup=job.trainer.of_stage(stage).max_epochs // 3)


def checked_search(plan: SearchPlan) -> tuple[str, Objective]:
    """The fingerprint of the search, however many trials it has, and its objective.

    Raises:
        CohortError: as `training_job`.
        ModelError: nothing varies, a key is no setting, a value is none that it takes, or nothing is monitored.
    """
    if not plan.space.parameters:
        raise ModelError(f"{plan.system} has nothing to search: give --space KEY=LOW:HIGH or KEY=A,B,C")
    check_space(plan.space, plan.job_at({})[1])
    key, job = plan.job_at(plan.space.sample())
    return fingerprint("search", sample=key, space=plan.space.model_dump(mode="json")), Objective.of(job)


@task(name="search-system", task_run_name="{plan.system}")
def run_trials(key: str, plan: SearchPlan, objective: Objective, trials: int, parallel: int) -> dict[str, Any]:
    """Bring the search to `trials` trials, those done before included; the best one, registered.

    Raises:
        TrainingError: every trial failed, or another process works on this search.
    """
    folder = current_workspace().root / "search" / key[:12]
    with opened_study(folder, objective.mode, seed=plan.seed, warmup=objective.warmup) as study:
        write_json(folder / "plan.json", plan.model_dump(mode="json"))
        known = folder / "mlflow_run"
        resume = known.read_text() if known.exists() else None
        config = plan.model_dump(mode="json")
        with tracked_run(
            "search", config, resume=resume, system=plan.system, cohort=plan.cohort, fingerprint=key
        ) as run:
            known.write_text(run.run_id)
            run.log_json(plan.space.model_dump(mode="json"), "space.json")
            trainings = Trainings(plan, objective, run, parallel)
            run_search(
                study, plan.space, trials, trainings.train, parallel=parallel, ended=trainings.tell, stop=stop_running
            )
            return best_answer(study, plan, objective, run, folder)


@dataclass(frozen=True)
class Trainings:
    """The trials' trainings, as runs nested under the search's."""

    plan: SearchPlan
    objective: Objective
    run: TrackedRun
    parallel: int
    busy: defaultdict[str, Lock] = field(default_factory=lambda: defaultdict(Lock))

    def train(self, attempt: Attempt) -> float:
        """The best monitored value of a trial's training."""
        key, job = self.plan.job_at(attempt.values)
        with self.busy[key]:  # where two trials drew the same values, the second finds the training done
            for line in read_epochs(job.folder):
                self.report(attempt, line)
            try:
                answer = train_tracked(
                    key,
                    job,
                    parent=self.run.run_id,
                    on_epoch=lambda line: self.report(attempt, line),
                    register=False,
                    tags={"trial": str(attempt.number), **{name: str(value) for name, value in attempt.values.items()}},
                    environment=share(attempt.slot, self.parallel, self.plan.devices),
                )
            except TrialPruned:
                self.close_pruned(job)
                raise
            finally:
                attempt.note("run", run_of(job))
        return float(answer["best"][self.objective.monitor])

    def report(self, attempt: Attempt, line: Mapping[str, Any]) -> None:
        """Hand an epoch of the last stage to the pruner."""
        if line["stage"] == self.objective.stage and self.objective.monitor in line:
            attempt.report(line["epoch"], line[self.objective.monitor])

    def close_pruned(self, job: TrainingJob) -> None:
        """Its run did not fail."""
        run = TrackedRun(self.run.client, run_of(job))
        run.tag(ended="pruned")
        run.client.delete_tag(run.run_id, ERROR)
        run.client.set_terminated(run.run_id, "KILLED")

    def tell(self, trial: FrozenTrial, line: str) -> None:
        """How a trial ended, for a person and for MLflow."""
        print(line, file=sys.stderr, flush=True)
        if trial.state == TrialState.COMPLETE:
            self.run.log_metrics({self.objective.monitor: trial.value}, step=trial.number)


def best_answer(study: Study, plan: SearchPlan, objective: Objective, run: TrackedRun, folder: Path) -> dict[str, Any]:
    """The best trial's model, registered, and the page of the search."""
    best = best_trial(study)
    assert best is not None
    assert best.value is not None
    values = plan.space.values(best)
    key, job = plan.job_at(values)
    trained = train_tracked(key, job, parent=run.run_id, register=False)  # at once, unless its model is gone
    version = register_model(run.client, plan.system, trained["run_id"])
    table = trials_table(study, plan.space)
    table.to_csv(folder / "trials.csv", index=False)
    run.log_file(folder / "trials.csv")
    run.log_metrics({f"best/{objective.monitor}": best.value})
    run.tag(best_trial=str(best.number), best_run=trained["run_id"], **{f"best/{k}": str(v) for k, v in values.items()})
    return {
        "value": best.value,
        "monitor": objective.monitor,
        "parameters": values,
        "trial": best.number,
        "run_id": trained["run_id"],
        "model": trained["model"],
        "model_version": trained["model_version"],
        "registered": f"{plan.system} version {version}",
        "search_run_id": run.run_id,
        "trials": counts(study),
        "report": str(publish_search(run, plan.system, study, plan.space, objective.monitor, table)),
    }


def run_of(job: TrainingJob) -> str:
    """The MLflow run of a job that has begun."""
    file = job.folder / "mlflow_run"
    return file.read_text() if file.exists() else ""
