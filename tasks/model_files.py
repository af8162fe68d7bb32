"""A trained model on disk: a folder with `model.safetensors` (weights, no pickle) and `system.json` (what they fit).

An ensemble lies there like one model: `system.json` says how many `members` it has, which all fit one configuration,
and the weights of member i are `members.<i>.…`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from models.ensemble import Ensemble
from models.errors import ModelError
from models.registry import build
from models.system import System
from tasks.reuse import file_digest, write_json

WEIGHTS = "model.safetensors"
DESCRIPTION = "system.json"
MEMBERS = "members"


def save_model(folder: Path, name: str, config: dict[str, Any], weights: dict[str, Any], **about: Any) -> str:
    """Write the model folder; its version, the first 12 hex digits of the weights' SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{WEIGHTS}"
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}, partial)
    partial.replace(folder / WEIGHTS)
    version = file_digest(folder / WEIGHTS)[:12]
    write_json(folder / DESCRIPTION, {"system": name, "version": version, "config": config, **about})
    return version


def save_ensemble(folder: Path, members: Sequence[Path]) -> str:
    """Write the models of several folders as one; its version.

    What all members say of themselves (target, snapshot, …), the ensemble says, too.

    Raises:
        ModelError: a member is no whole model, an ensemble itself, or of another system, configuration or target.
    """
    described = [describe_model(member) for member in members]
    check_alike(members, described)
    first, *others = described
    shared = {key: value for key, value in first.items() if all(about.get(key) == value for about in others)}
    of_all = {key: value for key, value in shared.items() if key not in ("system", "version", "config")}
    versions = [about["version"] for about in described]
    weights = {
        f"{MEMBERS}.{place}.{key}": tensor
        for place, member in enumerate(members)
        for key, tensor in load_file(member / WEIGHTS).items()
    }
    own = {**of_all, MEMBERS: len(versions), "member_versions": versions}
    return save_model(folder, first["system"], first["config"], weights, **own)


def check_alike(members: Sequence[Path], described: Sequence[dict[str, Any]]) -> None:
    """ModelError unless these are single models of one system, configuration and target."""
    for member, about in zip(members, described, strict=True):
        if MEMBERS in about:
            raise ModelError(f"{member} is an ensemble; an ensemble is made of single models")
        for key in ("system", "config", "target"):
            if about.get(key) != described[0].get(key):
                raise ModelError(f"{member} and {members[0]} differ in {key}; members of an ensemble share it")


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

    Of a model of another system it takes what it needs of that.

    Raises:
        ModelError: they do not fit, or are those of an ensemble.
    """
    if weights.is_dir():
        about = describe_model(weights)
        if count := about.get(MEMBERS):
            raise ModelError(f"{weights} is an ensemble of {count} models; start from one of them")
        if about["system"] != system.name:
            system.start_from(load_model(weights, about))
            return
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
    model = fresh_model(about)
    model.load_state_dict(load_file(folder / WEIGHTS))
    model.eval()
    return model


def fresh_model(about: dict[str, Any]) -> System:
    """The system or the ensemble that `about` describes, with weights still to be loaded."""
    members = [build(about["system"], about["config"]) for _ in range(about.get(MEMBERS, 1))]
    return Ensemble(members) if MEMBERS in about else members[0]
