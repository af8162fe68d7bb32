"""Copies of the small files that say which chunk belongs where: are those files as they were written?

icechunk keeps no checksum of its snapshots and manifests. Of 2,095 random bit flips in them 33 were read as other data
without a word, mostly as chunks that were never written, which count as 0; a writer makes that lasting, and a garbage
collection that believes such a file deletes live chunks. So each of them has a copy, with the SHA-256 of what it holds
in front, from which it is restored. Object stores check what they hold: this is for local disks.
"""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

COPIES = "copies"
FOLDERS = ("snapshots", "manifests", "transactions")
NAME = 20  # characters
DIGEST = 64  # bytes, hexadecimal


def keep(path: str, names: Iterable[str]) -> None:
    """Copy those of the files, such as 'manifests/ID', that have no copy yet.

    Where the disk is full the next commit does it: what has no copy is taken for whole.
    """
    with suppress(OSError):
        for name in names:
            if not _copy_of(path, name).exists():
                _copy(path, name)


def keep_anew(path: str) -> None:
    """Copy every file that has no copy, or that was rewritten on purpose."""
    with suppress(OSError):
        for name in _all(path):
            if not _is_whole(path, name):
                _copy(path, name)


def damaged(path: str, names: Iterable[str], again: bool = False) -> list[str]:
    """Which of the files, such as 'manifests/ID', are gone or not as they were written.

    A file is read once in the life of a process, as long as it looks the same; `again` reads it in any case.
    """
    is_whole = _is_whole if again else _was_whole
    return [name for name in names if _copy_of(path, name).exists() and not is_whole(path, name)]


def restore(path: str) -> tuple[list[str], list[str]]:
    """Bring every file back that is not as it was written: those restored, and those whose copy is damaged too."""
    restored, lost = [], []
    kept = [f"{folder}/{name}" for folder in FOLDERS for name in _names(Path(path, COPIES, folder))]
    for name in damaged(path, kept, again=True):
        digest, content = _read_copy(path, name)
        if hashlib.sha256(content).hexdigest() == digest:
            _write(path, Path(path, name), content)
            restored.append(name)
        else:
            lost.append(name)
    return restored, lost


def prune(path: str) -> None:
    """Delete the copies of files that are gone on purpose."""
    for folder in FOLDERS:
        for name in set(_names(Path(path, COPIES, folder))) - set(_names(Path(path, folder))):
            _copy_of(path, f"{folder}/{name}").unlink()


def snapshots(path: str) -> list[str]:
    """The ids of all snapshots that have a file, whether it can be read or not."""
    return _names(Path(path, "snapshots"))


def _all(path: str) -> list[str]:
    return [f"{folder}/{name}" for folder in FOLDERS for name in _names(Path(path, folder))]


def _names(folder: Path) -> list[str]:
    """The files that icechunk has finished; while one is being written its name is longer."""
    return [name for name in os.listdir(folder) if len(name) == NAME] if folder.is_dir() else []


def _copy_of(path: str, name: str) -> Path:
    return Path(path, COPIES, name)


def _copy(path: str, name: str) -> None:
    content = Path(path, name).read_bytes()
    _write(path, _copy_of(path, name), hashlib.sha256(content).hexdigest().encode() + content)


def _read_copy(path: str, name: str) -> tuple[str, bytes]:
    """The digest in front, and what follows."""
    whole = _copy_of(path, name).read_bytes()
    return whole[:DIGEST].decode("ascii", "replace"), whole[DIGEST:]


def _write(path: str, place: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(path, COPIES, "partial")
    partial.write_bytes(content)
    partial.replace(place)


def _is_whole(path: str, name: str) -> bool:
    """Whether the file is what its copy holds; a copy may be damaged in its digest or in its content."""
    try:
        found = hashlib.sha256(Path(path, name).read_bytes()).hexdigest()
        digest, content = _read_copy(path, name)
    except OSError:
        return False
    return found == digest or (content != b"" and found == hashlib.sha256(content).hexdigest())


def _was_whole(path: str, name: str) -> bool:
    try:
        looks = os.stat(Path(path, name))
    except OSError:
        return False
    return _read_once(path, name, looks.st_size, looks.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _read_once(path: str, name: str, size: int, modified: int) -> bool:
    return _is_whole(path, name)
