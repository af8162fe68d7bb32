"""Processes that need the servers of `lesionflow ui`, so that those do not end under their hands.

Each holds a lock on a file named by its process id for as long as it lives; a file without a lock is a dead one's.
"""

import fcntl
import os
from pathlib import Path
from typing import IO

COMMANDS, WORKERS = Path("services", "commands"), Path("services", "workers")
_held: list[IO[bytes]] = []


def join(folder: Path) -> None:
    """This process needs them until it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = (folder / str(os.getpid())).open("wb")
    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _held.append(opened)


def users(folder: Path) -> list[int]:
    """The process ids of those that live; what dead ones have left is removed."""
    return [int(file.name) for file in sorted(folder.glob("*")) if _is_held(file)]


def _is_held(file: Path) -> bool:
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        file.unlink(missing_ok=True)
        return False
