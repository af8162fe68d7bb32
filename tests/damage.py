"""Bits that flip and files that vanish, one at a time."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def flip(file: Path, seed: int = 0) -> None:
    """Turn over one bit of a file."""
    content = bytearray(file.read_bytes())
    bit = random.Random(f"{file.name} {seed}").randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def delete(file: Path) -> None:
    file.unlink()


@contextmanager
def damaged(file: Path, how: Callable[[Path], None]) -> Iterator[None]:
    """A file with `how` done to it, and as it was afterwards."""
    content = file.read_bytes()
    how(file)
    try:
        yield
    finally:
        file.write_bytes(content)


def files_in(cohort: str | Path, *folders: str) -> list[Path]:
    """The files of some folders of a cohort's store, the largest first."""
    found = [file for folder in folders for file in Path(cohort, folder).iterdir() if file.is_file()]
    return sorted(found, key=lambda file: (-file.stat().st_size, file.name))
