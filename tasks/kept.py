"""Answers of finished shards on disk, so that a step that is killed goes on with the shards that are left.

`<workspace>/shards/<step>/<key>/<shard>`: the SHA-256 of a pickle, then the pickle. A file appears whole or not at all;
a damaged one counts for nothing. The folder goes when its step is remembered as finished; one that nobody has written
to for KEPT_DAYS goes when the next step begins.
"""

import hashlib
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.workspace import current_workspace

KEPT_DAYS = 14
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Kept:
    """The answers of one step with one fingerprint."""

    folder: Path

    def read(self, shard: Any) -> tuple[Any] | None:
        """The answer for a shard (what JSON can say), as a tuple of one; None where it is missing or damaged."""
        try:
            content = self._file(shard).read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            return None
        return (pickle.loads(content[_DIGEST:]),)

    def has(self, shard: Any) -> bool:
        """Whether there is an answer for a shard, be it damaged."""
        return self._file(shard).exists()

    def write(self, shard: Any, answer: Any) -> None:
        """Keep the answer for a shard."""
        file, content = self._file(shard), pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        with partial.open("wb") as opened:
            opened.write(hashlib.sha256(content).digest())
            opened.write(content)
        partial.replace(file)

    def clear(self) -> None:
        """Remove all answers, and the folders above where nothing else is in them."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in (self.folder.parent, self.folder.parent.parent):
            try:
                folder.rmdir()
            except OSError:  # another step keeps something there
                return

    def _file(self, shard: Any) -> Path:
        return self.folder / hashlib.sha256(json.dumps(shard).encode()).hexdigest()[:32]


def kept_answers(step: str, key: str) -> Kept:
    """Where the shards of a step with the fingerprint `key` are kept; what nobody came back for is removed."""
    root = current_workspace().root / "shards"
    sweep(root, lambda folder: folder.name != key)
    return Kept(root / step / key)


def sweep(root: Path, is_other: Callable[[Path], bool]) -> None:
    """Remove the folders `<root>/<step>/<key>` of others that were last written to KEPT_DAYS ago."""
    oldest = time.time() - KEPT_DAYS * 86400
    for folder in root.glob("*/*"):
        if is_other(folder) and folder.is_dir() and folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)
