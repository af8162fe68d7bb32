"""Bits that flip and files that vanish, one at a time."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.cohort import Cohort
from storage.errors import CohortError


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


def damage_one_case(cohort: Cohort, among: Iterable[int]) -> tuple[int, Path, bytes]:
    """Flip a bit of the image of one case `among` these: which, its file, and what that held."""
    cases = list(among)
    for file in files_in(cohort.path, "chunks"):
        content = file.read_bytes()
        flip(file)
        now = Cohort.open(cohort.path)
        lost = [case for case in cases if not can_be_read(now, case)]
        if len(lost) == 1:
            return int(lost[0]), file, content
        file.write_bytes(content)
    raise AssertionError("no chunk holds the image of one of these cases")


def can_be_read(cohort: Cohort, case: int) -> bool:
    try:
        cohort.image(case)
    except CohortError:
        return False
    return True
