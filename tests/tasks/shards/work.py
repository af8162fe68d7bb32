"""What the shards of these tests do: write down that they began, by which process, and misbehave as told."""

import os
import signal
import time
import uuid
from collections import Counter
from pathlib import Path

from tasks.shards import WholeJobError


def note(folder: str, part: list[int]) -> int:
    """Write down that `part` was begun; how often it was before."""
    name = "-".join(map(str, part))
    before = len(list(Path(folder).glob(f"{name}.*")))
    Path(folder, f"{name}.{os.getpid()}.{uuid.uuid4().hex}").touch()
    return before


def begun(folder: Path) -> Counter[str]:
    """How often each part was begun."""
    return Counter(file.name.split(".")[0] for file in folder.iterdir())


def processes(folder: Path) -> set[int]:
    """Who began parts."""
    return {int(file.name.split(".")[1]) for file in folder.iterdir()}


def squares(folder: str, part: list[int]) -> list[int]:
    note(folder, part)
    return [item**2 for item in part]


def slow_squares(folder: str, part: list[int]) -> list[int]:
    note(folder, part)
    time.sleep(0.4)
    return [item**2 for item in part]


def raising(folder: str, guilty: int, times: int, part: list[int]) -> list[int]:
    """Raises the first `times` times that a part with `guilty` is begun."""
    before = note(folder, part)
    if guilty in part and before < times:
        raise ValueError(f"{guilty} is no good\nand more")
    return [item**2 for item in part]


def killing(folder: str, guilty: int, times: int, part: list[int]) -> list[int]:
    """Its process dies the first `times` times that a part with `guilty` is begun."""
    before = note(folder, part)
    time.sleep(0.05)
    if guilty in part and before < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return [item**2 for item in part]


def on_a_full_disk(part: list[int]) -> list[int]:
    if part == [2]:
        raise WholeJobError("no space left")
    return part
