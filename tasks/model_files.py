"""A trained model on disk: a folder with `model.safetensors` (weights, no pickle) and `system.json` (what they fit)."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from models.errors import ModelError
from models.registry import build
from models.system import System
from tasks.reuse import file_digest, write_json

WEIGHTS = "model.safetensors"
DESCRIPTION = "system.json"


def save_model(folder: Path, name: str, config: dict[str, Any], weights: dict[str, Any], **about: Any) -> str:
    """Write the model folder; its version, the first 12 hex digits of the weights' SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{WEIGHTS}"
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}, partial)
    partial.replace(folder / WEIGHTS)
    version = file_digest(folder / WEIGHTS)[:12]
    write_json(folder / DESCRIPTION, {"system": name, "version": version, "config": config, **about})
    return version


def describe_model(folder: Path) -> dict[str, Any]:
    """`system.json` of a model folder.

    Raises:
        ModelError: no model lies there, or its weights are not those it was saved with.
    """
    description, weights = folder / DESCRIPTION, folder / WEIGHTS
    if not (description.exists() and weights.exists()):
        raise ModelError(f"{folder} holds no model: {DESCRIPTION} and {WEIGHTS} are expected there")
    about: dict[str, Any] = json.loads(description.read_text())
    if file_digest(weights)[:12] != about["version"]:
        raise ModelError(f"{weights} is not the file that was saved as version {about['version']}: it is damaged")
    return about


def load_initial(system: System, weights: Path) -> None:
    """Start `system` from a model folder's weights, or from a file of weights in its paper's public layout.

    Raises:
        ModelError: they do not fit.
    """
    if weights.is_dir():
        try:
            system.load_state_dict(load_file(weights / WEIGHTS))
        except RuntimeError as error:
            raise ModelError(f"the weights of {weights} do not fit: {str(error).splitlines()[1].strip()}") from error
        return
    is_safe = weights.suffix == ".safetensors"
    system.load_pretrained(load_file(weights) if is_safe else torch.load(weights, weights_only=True))


def load_model(folder: Path, about: dict[str, Any] | None = None) -> System:
    """The system of a model folder with its weights, in evaluation mode; `about`, its description, if known already."""
    about = about or describe_model(folder)
    model = build(about["system"], about["config"])
    model.load_state_dict(load_file(folder / WEIGHTS))
    model.eval()
    return model
