"""One retraining of a model at a time, on this workspace: the second waits for its turn, or leaves."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from filelock import FileLock, Timeout

from tasks.workspace import current_workspace

IfRunning = Literal["wait", "leave"]


@contextmanager
def turn(name: str, if_running: IfRunning) -> Iterator[bool]:
    """Hold the lock of model `name`; False where another holds it and `if_running` says to leave.

    The lock ends with the process that holds it, however that ends.
    """
    folder = current_workspace().root / "locks"
    folder.mkdir(exist_ok=True)
    lock = FileLock(folder / f"retrain-{name.replace('/', '-')}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if if_running == "leave":
            yield False
            return
        print(f"another retraining of {name} is running; waiting for it to end", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield True
    finally:
        lock.release()
