"""Experiment files: settings as data, by system and preset."""

from importlib.resources import files
from typing import Any

import yaml

from models.errors import ModelError


def experiment(name: str) -> dict[str, Any]:
    """`experiments/<name>.yaml`.

    Raises:
        ModelError: there is none of that name.
    """
    known = sorted(entry.name[:-5] for entry in files("experiments").iterdir() if entry.name.endswith(".yaml"))
    if name not in known:
        raise ModelError(f"no experiment {name!r}; there are: {', '.join(known)}")
    return dict(yaml.safe_load(files("experiments").joinpath(f"{name}.yaml").read_text()))


def preset(system: str, name: str) -> dict[str, Any]:
    """The `settings` and `trainer` of a system's preset.

    Raises:
        ModelError: the system's experiment has no such preset.
    """
    presets = experiment(system)["presets"]
    if name not in presets:
        raise ModelError(f"{system} has no preset {name!r}; it has: {', '.join(presets)}")
    return {"settings": {}, "trainer": {}, **(presets[name] or {})}


def merged(settings: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
    """`settings` with `changes` on top, nested ones key by key."""
    result = dict(settings)
    for key, value in (changes or {}).items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result
