"""What the workspace's records of finished steps say of cohorts, maps and radiomics; MLflow is not asked."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tasks.workspace import current_workspace


@dataclass(frozen=True)
class Record:
    """A finished step: what it answered, the files it made, when (ns)."""

    answer: dict[str, Any]
    files: tuple[str, ...]
    moment: int


def records(step: str = "*") -> Iterator[Record]:
    """The records of a step, or of all; newest first."""
    dated = [(_moment(file), file) for file in current_workspace().steps.glob(f"{step}/*.json")]
    for moment, file in sorted(dated, reverse=True):
        if found := _record(file, moment):
            yield found


def trained_cohorts() -> Iterator[str]:
    """The cohorts that models were trained on here."""
    for file in sorted(current_workspace().runs.glob("*/job.json")):
        if found := _json(file, _moment(file)):
            yield str(found.get("cohort") or "")


def _record(file: Path, moment: int) -> Record | None:
    content = _json(file, moment)
    if content is None or not isinstance(content.get("answer"), dict):
        return None
    return Record(content["answer"], tuple(content.get("files", ())), moment)


@lru_cache(maxsize=4096)
def _json(file: Path, _moment: int) -> dict[str, Any] | None:
    """The content of a file as it was at a moment; None where it is gone or no record."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _moment(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
