"""Experiment files: settings as data, by system and preset."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from models.errors import ModelError

ENDINGS = (".yaml", ".yml")


def experiment(name: str) -> dict[str, Any]:
    """`experiments/<name>.yaml`, or the file that `name` is the path of.

    Raises:
        ModelError: there is none of that name, or it cannot be read.
    """
    if name.endswith(ENDINGS):
        return _mapping(name, _text(Path(name)))
    if name not in (known := experiment_names()):
        raise ModelError(f"no experiment {name!r}; there are: {', '.join(known)}")
    return _mapping(name, files("experiments").joinpath(f"{name}.yaml").read_text())


def experiment_names(section: str | None = None) -> list[str]:
    """The project's experiments, or those of them that have a `section`."""
    known = sorted(entry.name[:-5] for entry in files("experiments").iterdir() if entry.name.endswith(".yaml"))
    return [name for name in known if section is None or section in experiment(name)]


def preset(system: str, name: str) -> dict[str, Any]:
    """The `settings` and `trainer` of a system's preset.

    Raises:
        ModelError: the system's experiment has no such preset.
    """
    return {"settings": {}, "trainer": {}, **preset_of(experiment(system), name, system)}


def preset_of(content: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """All that an experiment's preset says; ModelError where it has none of that name."""
    presets = content.get("presets") or {}
    if name not in presets:
        raise ModelError(f"{where} has no preset {name!r}; it has: {', '.join(presets) or 'none'}")
    return dict(presets[name] or {})


def merged(settings: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
    """`settings` with `changes` on top, nested ones key by key."""
    result = dict(settings)
    for key, value in (changes or {}).items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _mapping(name: str, text: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ModelError(f"{name} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{name} is no experiment: it should hold `system: …`, `arms: …`")
    return content
