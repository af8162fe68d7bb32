"""MLflow runs, in one place: a run opened for a step, its config, figures and data; closed whatever happens.

The client is used explicitly (a run id in hand) because MLflow's active run is thread-local and Prefect moves work
between threads.
"""

import json
import logging
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from storage.cohort import Cohort
from tasks.tracking.guard import Guard
from tasks.tracking.ownership import KILLED, Owner, close_abandoned_runs
from tasks.tracking.provenance import dataset_input, environment, git_commit
from tasks.workspace import current_workspace

logging.getLogger("mlflow").setLevel(logging.WARNING)  # it announces its database at every start

EXPERIMENT = "lesionflow"
ERROR = "error"
PARAM_LIMIT = 500

_guard = Guard()
_opening = threading.Lock()
_swept: set[str] = set()


@dataclass(frozen=True)
class TrackedRun:
    """An open MLflow run."""

    client: MlflowClient
    run_id: str

    def log_metrics(self, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Numbers only; anything else in `metrics` is left out."""
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        entries = [Metric(_metric_name(name), float(value), _now_ms(), step) for name, value in numbers.items()]
        self.client.log_batch(self.run_id, metrics=entries)

    def logged_steps(self, metric: str) -> set[int]:
        """The steps at which the run has a value of `metric`, those of earlier processes too."""
        return {entry.step for entry in self.client.get_metric_history(self.run_id, _metric_name(metric))}

    def log_json(self, content: Any, name: str) -> None:
        """`content` as an artifact of the run."""
        self.client.log_text(self.run_id, json.dumps(content, indent=1, default=str), name)

    def log_file(self, file: Path, folder: str | None = None) -> None:
        """A file, or a folder and all in it, as an artifact."""
        log = self.client.log_artifacts if file.is_dir() else self.client.log_artifact
        log(self.run_id, str(file), folder)

    def log_model(self, model_folder: Path) -> None:
        """A model folder, in the form that MLflow registers and serves."""
        from tasks.tracking.serving import (  # torch and all systems: seconds that other steps save
            ARTIFACT,
            export_pyfunc,
        )

        with tempfile.TemporaryDirectory() as staging:
            self.log_file(export_pyfunc(model_folder, Path(staging, ARTIFACT)), ARTIFACT)

    def log_dataset(self, cohort: Cohort, context: str) -> None:
        """What the run reads, as an MLflow dataset; `context` says what for: training, evaluation."""
        self.client.log_inputs(self.run_id, [dataset_input(cohort, context)])

    def tag(self, **tags: str) -> None:
        """Searchable marks."""
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])


@contextmanager
def tracked_run(
    step: str,
    config: Mapping[str, Any],
    *,
    resume: str | None = None,
    parent: str | None = None,
    system_metrics: bool = False,
    **tags: str,
) -> Iterator[TrackedRun]:
    """An MLflow run for one step, closed as the block ends: FINISHED, FAILED, or KILLED by an interrupt.

    `resume` reopens the run of an earlier process, if MLflow still has it; `parent` is the run it is part of. With
    `system_metrics` the machine's processors, memory and GPUs are logged every ten seconds. Where this process is
    killed, its guard closes the run (`tasks.tracking.guard`).
    """
    client = tracking_client()
    experiment_id = _experiment(client)
    marks = {"step": step, "git_commit": git_commit(), **({MLFLOW_PARENT_RUN_ID: parent} if parent else {}), **tags}
    if resume and _reopen(client, resume, marks):
        run = TrackedRun(client, resume)
    else:
        run = TrackedRun(client, _create_run(client, experiment_id, step, marks))
    _guard.watch(run.run_id, client.tracking_uri)
    try:
        run.log_json(environment(), "environment.json")
        if run.run_id != resume:
            _log_config(run, config)
        with _machine_watched(run, system_metrics):
            yield run
    except BaseException as error:
        run.tag(**{ERROR: f"{type(error).__name__}: {error}"[:PARAM_LIMIT]})
        _close(run, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    _close(run, "FINISHED")


def tracking_client() -> MlflowClient:
    """A client of the workspace's MLflow."""
    workspace = current_workspace()
    with FileLock(workspace.root / "mlflow.lock"):  # two processes that lay out a fresh database break it
        return MlflowClient(workspace.tracking_uri)


def create_registered_model(client: MlflowClient, name: str) -> None:
    """Make the registered model `name` where it is absent."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `outer.inner` names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _experiment(client: MlflowClient) -> str:
    """The experiment's id; on first sight of it in this process, what dead processes have left open is closed."""
    with _opening:
        experiment_id = _found_or_created(client)
        if client.tracking_uri not in _swept:
            close_abandoned_runs(client, experiment_id)
            _swept.add(client.tracking_uri)
    return experiment_id


def _found_or_created(client: MlflowClient) -> str:
    if experiment := client.get_experiment_by_name(EXPERIMENT):
        return str(experiment.experiment_id)
    is_local = client.tracking_uri.startswith("sqlite")
    location = (current_workspace().root / "mlflow-artifacts").as_uri() if is_local else None
    try:
        return str(client.create_experiment(EXPERIMENT, artifact_location=location))
    except MlflowException:
        if experiment := client.get_experiment_by_name(EXPERIMENT):  # another process was a moment earlier
            return str(experiment.experiment_id)
        raise


def _create_run(client: MlflowClient, experiment_id: str, step: str, marks: Mapping[str, str]) -> str:
    run = client.create_run(experiment_id, tags={**marks, **Owner.current().tags()}, run_name=step)
    return str(run.info.run_id)


def _reopen(client: MlflowClient, run_id: str, marks: Mapping[str, str]) -> bool:
    """Make the run this process's own and open, without the marks of how it ended; False where it is gone."""
    try:
        known = client.get_run(run_id)
    except MlflowException:
        return False
    if known.info.lifecycle_stage != "active":
        return False
    TrackedRun(client, run_id).tag(**marks, **Owner.current().tags())
    client.update_run(run_id, status="RUNNING")
    for mark in {ERROR, KILLED} & known.data.tags.keys():
        client.delete_tag(run_id, mark)
    return True


def _log_config(run: TrackedRun, config: Mapping[str, Any]) -> None:
    """Whole as an artifact, and flat as parameters, whose length MLflow limits."""
    flat = flattened(config).items()
    run.client.log_batch(run.run_id, params=[Param(key, str(value)[:PARAM_LIMIT]) for key, value in flat])
    run.log_json(dict(config), "config.json")


@contextmanager
def _machine_watched(run: TrackedRun, wanted: bool) -> Iterator[None]:
    """MLflow's system metrics; a reopened run's go on where they were."""
    if not wanted:
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run.run_id, resume_logging=True, tracking_uri=run.client.tracking_uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _close(run: TrackedRun, status: str) -> None:
    run.client.set_terminated(run.run_id, status)
    _guard.release(run.run_id)


def _metric_name(name: str) -> str:
    return re.sub(r"[^\w./: -]", "_", name.replace("@", "_at_"))


def _now_ms() -> int:
    return int(time.time() * 1000)
