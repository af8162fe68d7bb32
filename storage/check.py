"""Is all of a cohort as it was written? Every pixel against its digest; and mending what can be mended."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

import numpy as np

from storage import engine
from storage.case import Case
from storage.cohort import Cohort
from storage.errors import CohortError, DamagedError, SourceError
from storage.layout import Corrections, digest, mask_digest
from storage.maps import Maps, delete_maps, forget_maps
from storage.migration import migrate
from storage.restoration import TIP, restore_files, states
from storage.sources import Source

Part = Literal["image", "masks", "map", "table"]
Reopen = Callable[[Mapping[str, Any]], Source]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Damage:
    """Something that cannot be read, or is not what was written.

    `name` and `row` are a case and its number; of a map its set and its case, -1 for all of the set.
    """

    part: Part
    name: str
    row: int
    reason: str

    def __str__(self) -> str:
        case = f"case {self.row} in " if self.part == "map" and self.row >= 0 else ""
        return f"{self.part} of {case}{self.name}: {self.reason}"


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
        if files := engine.damaged_files(engine.open_repository(path), path, cohort.snapshot, again=True):
            return CheckReport("", damaged=[Damage("table", path, -1, f"{files[0]} is not as it was written")])
    except DamagedError as error:
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
    columns = cohort.table[["case_id", "image_digest", "mask_digest", "has_masks"]]
    for row, (name, image, mask, annotated) in enumerate(columns.itertuples(index=False, name=None)):
        yield partial(_compare, "image", name, row, image, cohort.image)
        if annotated:
            yield partial(_compare, "masks", name, row, mask, cohort.masks)


def _map_questions(cohort: Cohort) -> Iterator[Callable[[], Answer]]:
    """For each map: can it be read? Its chunks carry checksums of their own."""
    for name in cohort.map_names():
        try:
            maps = cohort.maps(name)
            maps.table  # noqa: B018 a property that reads
        except DamagedError as error:
            yield partial(_known_damage, Damage("map", name, -1, engine.first_line(error)))
            continue
        for case in maps.indices.tolist():
            yield partial(_compare, "map", name, case, None, partial(_map_arrays, maps))


def _known_damage(damage: Damage) -> Answer:
    return 0, damage


def _map_arrays(maps: Maps, case: int) -> np.ndarray:
    """All that is kept of a map, read; its saliency."""
    for array in maps.array_names:
        maps.array(array, case)
    return maps.saliency(case)


def _answer(question: Callable[[], Answer]) -> Answer:
    return question()


def _compare(part: Part, name: str, row: int, wanted: str | None, read: Callable[[int], np.ndarray]) -> Answer:
    try:
        pixels = read(row)
    except CohortError as error:
        return 0, Damage(part, name, row, engine.first_line(error.__cause__ or error))
    if wanted is not None and digest(pixels) != wanted:
        return pixels.nbytes, Damage(part, name, row, "not the pixels that were written")
    return pixels.nbytes, None


def repair(path: str, reopen: Reopen, on_progress: Progress | None = None) -> CheckReport:
    """`check`, and mend: the store, an older format, the table, cases and maps; delete what killed writers left.

    Files of the store are restored from their copies. A damaged table is set back to the newest state that can be read,
    and nothing is deleted then: ingesting again brings back what came after it. A damaged case is read again from its
    source, if `reopen(origin)` finds the file as it was; a damaged map is taken out, so that localisation makes
    it anew.
    """
    restored = restore_files(path) if engine.exists(path) else []
    mended = [f"{name}, restored" + (_SET_BACK if name == TIP else "") for name in restored]
    mended += ["format 1"] if engine.exists(path) and migrate(path) else []
    report = check(path, on_progress)
    damaged = [Damage("table", path, -1, f"{name} was not as it was written") for name in restored]
    if lost_table := any(damage.part == "table" for damage in report.damaged):
        snapshot = _newest_readable(path)
        engine.set_back(path, snapshot)
        mended.append(f"table, set back to {snapshot}{_SET_BACK}")
        damaged, report = [*damaged, *report.damaged], check(path, on_progress)
    report.damaged, report.repaired = [*damaged, *report.damaged], mended
    _mend_maps(path, report)
    _mend_cases(path, report, reopen)
    if not (lost_table or TIP in restored):
        with suppress(DamagedError):  # of a state of the past: what belongs to it is not known
            report.freed_bytes = engine.collect_garbage(engine.open_repository(path), path)
    report.snapshot = Cohort.open(path).snapshot
    return report


_SET_BACK = ": ingest again for what came after it"


def expire(path: str, days: int) -> tuple[int, int]:
    """Forget the snapshots that are older than `days`, but the newest: how many, and the bytes freed.

    A run that names one of them can no longer be repeated on its data.
    """
    repository = engine.open_repository(path)
    forgotten = engine.forget_snapshots(repository, path, datetime.now(UTC) - timedelta(days=days))
    return forgotten, engine.collect_garbage(repository, path)


def _newest_readable(path: str) -> str:
    """The newest snapshot whose table can be read."""
    for state in states(path):
        try:
            cohort = Cohort.open(path, state.id)
            cohort.table, cohort.quarantine  # noqa: B018 properties that read
        except CohortError:
            continue
        return state.id
    raise CohortError(f"{path} has no state whose table can be read; ingest its sources into a new cohort")


def _mend_maps(path: str, report: CheckReport) -> None:
    """Take damaged maps out of their sets, and sets that cannot be told at all."""
    rows: dict[str, list[int]] = {}
    for damage in report.damaged:
        if damage.part == "map":
            rows.setdefault(damage.name, []).append(damage.row)
    if not rows:
        return

    def write(group: engine.Group, _: str) -> str:
        for name, cases in rows.items():
            if -1 in cases:
                delete_maps(group, name)
            else:
                forget_maps(group, name, cases)
        return f"damaged maps of {', '.join(rows)} taken out"

    engine.transact(engine.open_repository(path), path, write)
    for name, cases in rows.items():
        report.repaired += [
            f"maps of {name}, all taken out" if case < 0 else f"map of case {case} in {name}, taken out"
            for case in cases
        ]


def _mend_cases(path: str, report: CheckReport, reopen: Reopen) -> None:
    """Write what is damaged of cases anew from their sources."""
    missing: dict[int, set[Part]] = {}
    for damage in report.damaged:
        if damage.part in ("image", "masks"):
            missing.setdefault(damage.row, set()).add(damage.part)
    if not missing:
        return
    cohort = Cohort.open(path)
    names = cohort.table["case_id"]
    for better in _read_again(cohort, missing, reopen):
        cohort.record([], corrections=better)
    report.repaired += [f"case {names[row]}, read again" for row, parts in missing.items() if not parts]
    report.lost += [str(names[row]) for row, parts in missing.items() if parts]


def _read_again(cohort: Cohort, missing: dict[int, set[Part]], reopen: Reopen) -> Iterator[Corrections]:
    """What can be had again of each case: only what is what was written. It is taken off what is `missing`."""
    table = cohort.table
    for origin in cohort.origins:
        row_of = {(table["file"].iat[row], table["sha256"].iat[row]): row for row, parts in missing.items() if parts}
        files = {file for file, _ in row_of}
        try:
            source = reopen(origin)
            keys = [key for key in source.listing() if key.file in files]
        except SourceError:
            continue
        for key in keys:
            row = row_of.get((key.file, source.sha256(key)))
            case = None if row is None else source.read(key)
            if row is not None and isinstance(case, Case):
                yield _what_was_written(cohort, row, case, missing[row])


def _what_was_written(cohort: Cohort, row: int, case: Case, parts: set[Part]) -> Corrections:
    """Those of the damaged `parts` of a case that its source still gives; they are taken off."""
    better, known = Corrections(), cohort.table.iloc[row]
    grid = cohort.shape(row)
    image = case.image.astype(cohort.dtype)
    if "image" in parts and digest(image) == known["image_digest"]:
        better.images[row] = image
        parts.discard("image")
    fits = case.masks is not None and case.image.shape[1:] == grid
    if "masks" in parts and fits and mask_digest(case.masks, grid, cohort.layout) == known["mask_digest"]:
        better.masks[row] = case.masks
        parts.discard("masks")
    return better


def megabytes(count: int) -> float:
    """Bytes in millions."""
    return round(count / 1e6, 1)
