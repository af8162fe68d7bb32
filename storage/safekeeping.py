"""Copies of the small files that say which chunk belongs where: are those files as they were written?

icechunk keeps no checksum of its snapshots and manifests. Of 2,095 random bit flips in them 33 were read as other data
without a word, mostly as chunks that were never written, which count as 0; a writer makes that lasting, and a garbage
collection that believes such a file deletes live chunks. So each of them has a copy, called by its name and the SHA-256
of what it holds, from which it is restored. Object stores check what they hold: this is for local disks.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

COPIES = "copies"
FOLDERS = ("snapshots", "manifests", "transactions")
NAME, DIGEST = 20, 64  # characters


def keep(path: str, anew: bool = False) -> None:
    """Copy the files that have no copy yet; `anew` also those that were rewritten on purpose.

    Where the disk is full the next commit does it: what has no copy is taken for whole.
    """
    with suppress(OSError):
        for folder in FOLDERS:
            kept = _kept(path, folder)
            for file in _files(path, folder):
                if file.name not in kept:
                    _copy(path, f"{folder}/{file.name}")
                elif anew and not _is_whole(str(file), kept[file.name]):
                    _copy(path, f"{folder}/{file.name}")
                    _copy_of(path, f"{folder}/{file.name}", kept[file.name]).unlink()


def damaged(path: str, names: Iterable[str], again: bool = False) -> list[str]:
    """Which of the files, such as 'manifests/ID', are gone or not as they were written.

    A file is read once in the life of a process, as long as it looks the same; `again` reads it in any case.
    """
    kept = {folder: _kept(path, folder) for folder in FOLDERS}
    is_whole = _is_whole if again else _was_whole
    found = []
    for name in names:
        folder, _, file = name.partition("/")
        if file in kept[folder] and not is_whole(str(Path(path, name)), kept[folder][file]):
            found.append(name)
    return found


def restore(path: str) -> tuple[list[str], list[str]]:
    """Bring every file back that is not as it was written: those restored, and those whose copy is damaged too."""
    restored, lost = [], []
    for name in damaged(path, [f"{folder}/{file}" for folder in FOLDERS for file in _kept(path, folder)], again=True):
        folder, _, file = name.partition("/")
        digest = _kept(path, folder)[file]
        copy = _copy_of(path, name, digest)
        if _is_whole(str(copy), digest):
            _write(path, Path(path, name), copy.read_bytes())
            restored.append(name)
        else:
            lost.append(name)
    return restored, lost


def prune(path: str) -> None:
    """Delete the copies of files that are gone on purpose."""
    for folder in FOLDERS:
        there = {file.name for file in _files(path, folder)}
        for name, digest in _kept(path, folder).items():
            if name not in there:
                _copy_of(path, f"{folder}/{name}", digest).unlink()


def snapshots(path: str) -> list[str]:
    """The ids of all snapshots that have a file, whether it can be read or not."""
    return [file.name for file in _files(path, "snapshots")]


def _files(path: str, folder: str) -> list[Path]:
    """The files that icechunk has finished; while one is being written its name is longer."""
    place = Path(path, folder)
    return [file for file in place.iterdir() if len(file.name) == NAME] if place.is_dir() else []


def _kept(path: str, folder: str) -> Mapping[str, str]:
    """The SHA-256 of each file that has a copy."""
    place = Path(path, COPIES, folder)
    names = os.listdir(place) if place.is_dir() else []
    return {name[:NAME]: name[NAME + 1 :] for name in names if len(name) == NAME + 1 + DIGEST}


def _copy_of(path: str, name: str, digest: str) -> Path:
    return Path(path, COPIES, f"{name}-{digest}")


def _copy(path: str, name: str) -> None:
    content = Path(path, name).read_bytes()
    _write(path, _copy_of(path, name, hashlib.sha256(content).hexdigest()), content)


def _write(path: str, place: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(path, COPIES, "partial")
    partial.write_bytes(content)
    partial.replace(place)


def _is_whole(file: str, digest: str) -> bool:
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _was_whole(file: str, digest: str) -> bool:
    try:
        looks = os.stat(file)
    except OSError:
        return False
    return _read_once(file, digest, looks.st_size, looks.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _read_once(file: str, digest: str, size: int, modified: int) -> bool:
    return _is_whole(file, digest)
