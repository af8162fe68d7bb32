"""MLflow, in one place: a run opened for a step, its config and figures, its model; closed whatever happens.

The client is used explicitly (a run id in hand) because MLflow's active run is thread-local and Prefect moves work
between threads.
"""

import json
import logging
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from models.errors import ModelError
from tasks.reuse import PROJECT
from tasks.workspace import current_workspace

logging.getLogger("mlflow").setLevel(logging.WARNING)  # it announces its database at every start

EXPERIMENT = "lesionflow"
PARAM_LIMIT = 500


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

    def log_json(self, content: Any, name: str) -> None:
        """`content` as an artifact of the run."""
        self.client.log_text(self.run_id, json.dumps(content, indent=1, default=str), name)

    def log_file(self, file: Path, folder: str | None = None) -> None:
        """A file, or a folder and all in it, as an artifact."""
        log = self.client.log_artifacts if file.is_dir() else self.client.log_artifact
        log(self.run_id, str(file), folder)

    def tag(self, **tags: str) -> None:
        """Searchable marks."""
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])


@contextmanager
def tracked_run(
    step: str, config: Mapping[str, Any], *, resume: str | None = None, **tags: str
) -> Iterator[TrackedRun]:
    """An MLflow run for one step, finished or failed as the block ends; `resume` reopens a killed process's run."""
    client = tracking_client()
    run = TrackedRun(client, resume or _create_run(client, step, tags))
    client.update_run(run.run_id, status="RUNNING")
    if resume is None:
        flat = flattened(config).items()
        client.log_batch(run.run_id, params=[Param(key, str(value)[:PARAM_LIMIT]) for key, value in flat])
        run.log_json(dict(config), "config.json")
    try:
        yield run
    except BaseException as error:
        run.tag(error=f"{type(error).__name__}: {error}"[:PARAM_LIMIT])
        client.set_terminated(run.run_id, "FAILED")
        raise
    client.set_terminated(run.run_id, "FINISHED")


def tracking_client() -> MlflowClient:
    """A client of the workspace's MLflow."""
    return MlflowClient(current_workspace().tracking_uri)


def register_model(client: MlflowClient, name: str, run_id: str) -> int:
    """Add the run's model folder to the registry; its version number."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    known = [v for v in client.search_model_versions(f"name = '{name}'") if v.run_id == run_id]
    version = known[0] if known else client.create_model_version(name, f"runs:/{run_id}/model", run_id)
    return int(version.version)


def locate_model(address: str) -> Path:
    """The local folder of a model: a path, a run id, a registered `NAME` (its latest version) or `NAME@alias`.

    Raises:
        ModelError: nothing of that name.
    """
    if Path(address).is_dir():
        return Path(address)
    client = tracking_client()
    cache = current_workspace().root / "models"
    run_id = _run_of(client, address)
    folder = cache / run_id / "model"
    if not (folder / "system.json").exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as partial:
                client.download_artifacts(run_id, "model", partial)
                (cache / run_id).mkdir(exist_ok=True)
                Path(partial, "model").replace(folder)
        except (MlflowException, OSError) as error:
            raise ModelError(f"run {run_id} holds no model: {str(error).splitlines()[0]}") from error
    return folder


def locate_weights(address: str) -> Path:
    """What a training can start from: a file of weights, or a model as `locate_model` finds it."""
    file = Path(address)
    return file.resolve() if file.is_file() else locate_model(address).resolve()


def _run_of(client: MlflowClient, address: str) -> str:
    name, _, alias = address.partition("@")
    try:
        if alias:
            return str(client.get_model_version_by_alias(name, alias).run_id)
        if versions := client.search_model_versions(f"name = '{name}'"):
            return str(max(versions, key=lambda version: int(version.version)).run_id)
        return str(client.get_run(address).info.run_id)
    except MlflowException as error:
        raise ModelError(
            f"no model {address!r}: it is no folder, and {client.tracking_uri} knows no such run, name or alias. "
            "`lesionflow train` prints the run id of what it trained."
        ) from error


def _create_run(client: MlflowClient, step: str, tags: Mapping[str, str]) -> str:
    workspace = current_workspace()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment:
        experiment_id = experiment.experiment_id
    else:
        location = (workspace.root / "mlflow-artifacts").as_uri() if "sqlite" in client.tracking_uri else None
        experiment_id = client.create_experiment(EXPERIMENT, artifact_location=location)
    marks = {"step": step, "git_commit": git_commit(), "mlflow.runName": step, **tags}
    run = client.create_run(experiment_id, tags=marks, run_name=step)
    return str(run.info.run_id)


@cache
def git_commit() -> str:
    """The commit that runs, with `-dirty` where files differ from it; empty outside a checkout."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=PROJECT, capture_output=True, text=True
    )
    return asked.stdout.strip()


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `outer.inner` names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _metric_name(name: str) -> str:
    return name.replace("@", "_at_")


def _now_ms() -> int:
    return int(time.time() * 1000)
