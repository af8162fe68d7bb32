"""Models by address: registered names, versions and aliases, runs, folders, checkpoints."""

import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from models.errors import ModelError
from models.registry import restore
from tasks.model_files import DESCRIPTION, save_model
from tasks.reuse import file_digest
from tasks.tracking.runs import create_registered_model, tracking_client
from tasks.tracking.serving import ARTIFACT, INSIDE
from tasks.workspace import current_workspace

CHECKPOINT = ".ckpt"


def register_model(client: MlflowClient, name: str, run_id: str) -> int:
    """Add the run's model to the registry; its version number, the same when asked again."""
    create_registered_model(client, name)
    known = [v for v in client.search_model_versions(f"name = '{name}'") if v.run_id == run_id]
    version = known[0] if known else client.create_model_version(name, f"runs:/{run_id}/{ARTIFACT}", run_id)
    return int(version.version)


def locate_model(address: str) -> Path:
    """The local folder of a model, which holds `system.json`.

    `address` is such a folder, an MLflow model directory, a Lightning checkpoint, a run id, or a registered `NAME`
    (its latest version), `NAME/VERSION` or `NAME@alias`, with `models:/` before it or not.

    Raises:
        ModelError: nothing of that name, or not a model.
    """
    path = Path(address)
    if path.is_file():
        return _restored(path)
    for folder in (path, path / INSIDE):
        if (folder / DESCRIPTION).exists():
            return folder
    try:
        return _downloaded(address.removeprefix("models:/"))
    except ModelError as error:
        if path.is_dir():
            raise ModelError(f"{path} holds no model: {DESCRIPTION} is expected there") from error
        raise


def locate_weights(address: str) -> Path:
    """What a training can start from: a file of weights, or a model as `locate_model` finds it."""
    file = Path(address)
    is_weights = file.is_file() and file.suffix != CHECKPOINT
    return file.resolve() if is_weights else locate_model(address).resolve()


def _downloaded(address: str) -> Path:
    """The model folder of a run, fetched once."""
    client = tracking_client()
    run_id = _run_of(client, address)
    cache = current_workspace().root / "models"
    folder = cache / run_id
    try:
        if not folder.exists():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache) as partial:
                client.download_artifacts(run_id, ARTIFACT, partial)
                _placed(Path(partial, ARTIFACT), folder)
        return next(inside.parent for inside in sorted(folder.rglob(DESCRIPTION)))
    except (MlflowException, OSError, StopIteration) as error:
        reason = str(error).splitlines()[0] if str(error) else f"no {DESCRIPTION}"
        raise ModelError(f"run {run_id} holds no model: {reason}") from error


def _restored(checkpoint: Path) -> Path:
    """The model folder made of a checkpoint, once."""
    digest = file_digest(checkpoint)[:12]
    cache = current_workspace().root / "models"
    folder = cache / f"checkpoint-{digest}"
    if folder.exists():
        return folder
    content = _read_checkpoint(checkpoint)
    try:
        system = restore(content)
    except (ModelError, RuntimeError) as error:
        raise ModelError(f"{checkpoint} is no checkpoint of a whole system: {_first_line(error)}") from error
    cache.mkdir(parents=True, exist_ok=True)
    about = {**_job_of(checkpoint), "epoch": content.get("epoch"), "checkpoint": str(checkpoint.resolve())}
    with tempfile.TemporaryDirectory(dir=cache) as partial:
        made = Path(partial, "model")
        save_model(made, system.name, system.config.model_dump(mode="json"), system.state_dict(), **about)
        return _placed(made, folder)


def _job_of(checkpoint: Path) -> dict[str, Any]:
    """What the training whose folder the checkpoint lies in says of its model; a stray checkpoint has no target."""
    job = checkpoint.resolve().parent.parent.with_name("job.json")
    known = json.loads(job.read_text()) if job.exists() else {}
    return {"target": None} | {key: known[key] for key in ("target", "seed", "snapshot") if key in known}


def _read_checkpoint(file: Path) -> dict[str, Any]:
    """The content of a checkpoint; tensors and plain values only, since other pickles may run code as they load."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ModelError(f"{file} cannot be read as a checkpoint: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is no checkpoint of a training: it holds a {type(content).__name__}")
    return content


def _placed(made: Path, folder: Path) -> Path:
    """`made` as `folder`, which another process may have made meanwhile."""
    try:
        return made.rename(folder)
    except OSError:
        if folder.exists():
            return folder
        raise


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _run_of(client: MlflowClient, address: str) -> str:
    """The run that made a registered model, or the run itself."""
    name, _, alias = address.partition("@")
    family, _, version = address.rpartition("/")
    try:
        if alias:
            return str(client.get_model_version_by_alias(name, alias).run_id)
        if family and version.isdigit():
            return str(client.get_model_version(family, version).run_id)
        if versions := client.search_model_versions(f"name = '{name}'"):
            return str(max(versions, key=lambda version: int(version.version)).run_id)
        return str(client.get_run(address).info.run_id)
    except MlflowException as error:
        raise ModelError(
            f"no model {address!r}: it is no folder, and {client.tracking_uri} knows no such run, name or alias. "
            "`lesionflow train` prints the run id of what it trained."
        ) from error
