"""Is all of a cohort as it was written? Every pixel against its digest; and mending what can be mended."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

import numpy as np

from storage import engine
from storage.case import Case
from storage.cohort import Cohort
from storage.errors import CohortError, SourceError
from storage.layout import Corrections, digest
from storage.maps import Maps, forget_maps
from storage.migration import migrate
from storage.sources import Source

Part = Literal["image", "masks", "map", "table"]
Reopen = Callable[[str, Mapping[str, Any]], Source]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Damage:
    """Something that cannot be read, or is not what was written; `name` is a case, or SET/case of a map."""

    part: Part
    name: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{self.part} of {self.name}: {self.reason}"


@dataclass
class CheckReport:
    """What was read and found, and what became of it."""

    snapshot: str
    cases: int = 0
    maps: int = 0
    bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    freed_bytes: int = 0


def check(path: str, on_progress: Progress | None = None) -> CheckReport:
    """Read the newest state of the cohort at `path` and compare every image, mask and map with what was written.

    CohortError where there is no cohort, or it has another format.
    """
    try:
        cohort = Cohort.open(path)
        table = cohort.table
        cohort.quarantine  # noqa: B018 a property that reads
    except CohortError:
        raise
    except Exception as error:  # a damaged chunk of a column: zarr, numcodecs and icechunk each have their own
        return CheckReport("", damaged=[Damage("table", path, -1, engine.first_line(error))])
    of_maps = list(_map_questions(cohort))
    questions = [*_questions(cohort), *of_maps]
    report = CheckReport(cohort.snapshot, cases=len(table), maps=len(of_maps))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for done, (size, damage) in enumerate(pool.map(_answer, questions), 1):
            report.bytes += size
            report.damaged += [damage] if damage else []
            if on_progress:
                on_progress(done, len(questions))
    return report


Answer = tuple[int, Damage | None]


def _questions(cohort: Cohort) -> Iterator[Callable[[], Answer]]:
    """For each case: is its image, are its masks what their digest says?"""
    columns = cohort.table[["case_id", "image_digest", "mask_digest"]]
    for row, (name, image, mask) in enumerate(columns.itertuples(index=False, name=None)):
        yield partial(_compare, "image", name, row, image, cohort.image)
        if mask:
            yield partial(_compare, "masks", name, row, mask, cohort.masks)


def _map_questions(cohort: Cohort) -> Iterator[Callable[[], Answer]]:
    """For each map: can it be read? Its chunks carry checksums of their own."""
    for name in cohort.map_names():
        maps = cohort.maps(name)
        for case in maps.indices.tolist():
            yield partial(_compare, "map", name, case, "", partial(_map_arrays, maps))


def _map_arrays(maps: Maps, case: int) -> np.ndarray:
    """All that is kept of a map, read; its saliency."""
    for array in maps.array_names:
        maps.array(array, case)
    return maps.saliency(case)


def _answer(question: Callable[[], Answer]) -> Answer:
    return question()


def _compare(part: Part, name: str, row: int, wanted: str, read: Callable[[int], np.ndarray]) -> Answer:
    try:
        pixels = read(row)
    except CohortError as error:
        return 0, Damage(part, name, row, engine.first_line(error.__cause__ or error))
    if wanted and digest(pixels) != wanted:
        return pixels.nbytes, Damage(part, name, row, "not the pixels that were written")
    return pixels.nbytes, None


def repair(path: str, reopen: Reopen, on_progress: Progress | None = None) -> CheckReport:
    """`check`, and mend: an older format, a damaged table, damaged cases and maps, and what killed writers left.

    A damaged table is set back to the newest state that can be read: ingesting again brings back what came after it.
    A damaged case is read again from its source, if `reopen(address, how)` finds the file as it was; a damaged map is
    taken out, so that localisation makes it anew.
    """
    mended = ["format 1"] if engine.exists(path) and migrate(path) else []
    report = check(path, on_progress)
    if any(damage.part == "table" for damage in report.damaged):
        snapshot = _newest_readable(path)
        engine.set_back(engine.open_repository(path), path, snapshot)
        mended.append(f"table, set back to {snapshot}: ingest again for what came after it")
        damaged, report = report.damaged, check(path, on_progress)
        report.damaged = [*damaged, *report.damaged]
    report.repaired = mended
    _mend_maps(path, report)
    _mend_cases(path, report, reopen)
    report.freed_bytes += engine.collect_garbage(engine.open_repository(path), path)
    report.snapshot = Cohort.open(path).snapshot
    return report


def expire(path: str, days: int) -> tuple[int, int]:
    """Forget the snapshots that are older than `days`, but the newest: how many, and the bytes freed.

    A run that names one of them can no longer be repeated on its data.
    """
    repository = engine.open_repository(path)
    forgotten = engine.forget_snapshots(repository, path, datetime.now(UTC) - timedelta(days=days))
    return forgotten, engine.collect_garbage(repository, path)


def _newest_readable(path: str) -> str:
    """The newest snapshot whose table can be read."""
    repository = engine.open_repository(path)
    for state in engine.history(repository, engine.tip(repository)):
        try:
            cohort = Cohort.open(path, state.id)
            cohort.table, cohort.quarantine  # noqa: B018 properties that read
        except Exception:
            continue
        return state.id
    raise CohortError(f"{path} has no state whose table can be read; ingest its sources into a new cohort")


def _mend_maps(path: str, report: CheckReport) -> None:
    """Take damaged maps out of their sets."""
    damaged = [damage for damage in report.damaged if damage.part == "map"]
    if not damaged:
        return

    def write(group: engine.Group, _: str) -> str:
        for name in {damage.name for damage in damaged}:
            forget_maps(group, name, [damage.row for damage in damaged if damage.name == name])
        return f"{len(damaged)} damaged maps taken out"

    engine.transact(engine.open_repository(path), path, write)
    report.repaired += [f"{damage.part} {damage.row} of {damage.name}, taken out" for damage in damaged]


def _mend_cases(path: str, report: CheckReport, reopen: Reopen) -> None:
    """Write damaged cases anew from their sources."""
    rows = sorted({damage.row for damage in report.damaged if damage.part in ("image", "masks")})
    if not rows:
        return
    cohort = Cohort.open(path)
    better, names = Corrections(), cohort.table["case_id"]
    for row, case in _read_again(cohort, rows, reopen):
        better.images[row] = case.image
        if cohort.lesions and case.masks is not None:
            better.masks[row] = case.masks
    cohort.record([], corrections=better)
    report.repaired += [f"case {names[row]}, read again" for row in better.images]
    report.lost += [str(names[row]) for row in rows if row not in better.images]


def _read_again(cohort: Cohort, rows: Sequence[int], reopen: Reopen) -> Iterator[tuple[int, Case]]:
    """(row, case) of those whose source still has the same bytes and gives the same pixels and masks."""
    missing, table = set(rows), cohort.table
    for address, how in cohort.origins.items():
        row_of = {table["file"].iat[row]: row for row in missing}
        try:
            source = reopen(address, how)
            keys = [key for key in source.listing() if key.file in row_of]
        except SourceError:
            continue
        for key in keys:
            row = row_of[key.file]
            case = source.read(key) if source.sha256(key) == table["sha256"].iat[row] else None
            if isinstance(case, Case) and digest(case.image) == table["image_digest"].iat[row]:
                missing.discard(row)
                yield row, case


def megabytes(count: int) -> float:
    """Bytes in millions."""
    return round(count / 1e6, 1)
