"""Finished steps are reused when nothing they depend on has changed.

A step is known by a fingerprint: the SHA-256 of its inputs (content digests, never paths) and of the code that
computes it. Its record names the files it made with their SHA-256; a record whose files are gone or altered counts
for nothing, so a reused answer is always one that still stands (docs/decisions/reuse.md).
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tasks.workspace import current_workspace

PROJECT = Path(__file__).resolve().parents[1]


def fingerprint(step: str, **inputs: Any) -> str:
    """SHA-256 of the step's name, its JSON-able inputs and the code of models, storage and tasks."""
    text = json.dumps({"step": step, "code": code_digest(), "inputs": inputs}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def code_digest(packages: tuple[str, ...] = ("models", "storage", "tasks")) -> str:
    """SHA-256 over the modules of `packages`, by default all that a step's answer can depend on."""
    digest = hashlib.sha256()
    for package in packages:
        for file in sorted((PROJECT / package).rglob("*.py")):
            digest.update(file.relative_to(PROJECT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def finished(step: str, key: str) -> dict[str, Any] | None:
    """What the step answered last time, if every file it made is still as it left it."""
    file = _record_file(step, key)
    if not file.exists():
        return None
    record = json.loads(file.read_text())
    intact = all(Path(made).exists() and file_digest(Path(made)) == digest for made, digest in record["files"].items())
    answer: dict[str, Any] = record["answer"]
    return answer if intact else None


def remember(step: str, key: str, answer: dict[str, Any], files: Iterable[Path] = ()) -> dict[str, Any]:
    """Record a finished step; the record appears whole or not at all."""
    write_json(_record_file(step, key), {"answer": answer, "files": {str(f.resolve()): file_digest(f) for f in files}})
    return answer


def write_json(file: Path, content: Any) -> Path:
    """Write `content` atomically: a reader sees the old file or the new one. What is not a number becomes null."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(json.dumps(without_nan(content), indent=1, default=str, allow_nan=False))
    partial.replace(file)
    return file


def without_nan(content: Any) -> Any:
    """`content` with None for every float that JSON has no word for."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _record_file(step: str, key: str) -> Path:
    return current_workspace().steps / step / f"{key}.json"
