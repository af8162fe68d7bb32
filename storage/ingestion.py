"""From a source into a cohort, each batch one transaction: run it again and it goes on where it stopped."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from storage.admission import duplicate_of, is_duplicate
from storage.case import Case, Listed, Rejected
from storage.cohort import Cohort
from storage.errors import CohortError, SourceError
from storage.sources import Source
from storage.splits import FRACTIONS, Fractions

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class IngestReport:
    """What an ingestion did: cases added, known before, and given other labels; the files that were set aside."""

    added: int
    known: int
    updated: int
    quarantined: list[Rejected]
    snapshot: str

    @property
    def broken(self) -> list[Rejected]:
        """Those set aside that a person should repair: all but second copies of a file."""
        return [rejected for rejected in self.quarantined if not is_duplicate(rejected)]


@dataclass
class _Batch:
    """A batch on its way: what to write of it."""

    cases: list[Case] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    relabelled: dict[int, dict[str, float]] = field(default_factory=dict)
    settled: list[str] = field(default_factory=list)
    known: int = 0


def ingest(
    source: Source,
    cohort_path: str | Path,
    *,
    fractions: Fractions | None = None,
    batch: int = 64,
    on_progress: Progress | None = None,
) -> IngestReport:
    """Read all that is new in `source` into the cohort at `cohort_path`, which is made where there is none.

    A file whose SHA-256 the cohort has is not decoded again; if the source gives it other labels, they are corrected. A
    broken file goes to quarantine with its reason and is tried again by the next ingestion. `fractions` of train,
    validation and test (0.7, 0.15, 0.15) are set when the cohort is made. `on_progress(done, total)` is called after
    each batch.

    CohortError where the cohort is of another size, has other channels, labels or lesions, or was split in other
    fractions; SourceError where no file can be read, or a patient would be in two splits.
    """
    cohort = Cohort.open(cohort_path) if Cohort.exists(cohort_path) else None
    if cohort is not None:
        check_matches(cohort, source, fractions)
    keys = source.listing()
    files = frozenset(key.file for key in keys if isinstance(key, Listed))
    report, waiting = IngestReport(0, 0, 0, [], cohort.snapshot if cohort else ""), list[Rejected]()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(keys), batch):
            read = _read_batch(source, cohort, keys[start : start + batch], files, pool)
            read.rejected, waiting = waiting + read.rejected, []
            if cohort is None and read.cases:
                cohort = _create(source, cohort_path, read.cases[0], fractions)
            if cohort is None:
                waiting = read.rejected
            else:
                report = _recorded(report, cohort, read)
            if on_progress:
                on_progress(min(start + batch, len(keys)), len(keys))
    if cohort is None:
        raise SourceError(_nothing_read(source, waiting))
    return report


def check_matches(cohort: Cohort, source: Source, fractions: Fractions | None = None) -> None:
    """CohortError that says what differs, unless the cases of `source` fit into `cohort`.

    A source without any masks fits a cohort with masks: nobody annotated its cases.
    """
    pairs: list[tuple[str, Any, Any]] = [
        ("size", cohort.size, source.size),
        ("channels", cohort.channels, source.channels),
        ("labels", sorted(cohort.labels), sorted(source.labels)),
        ("lesion classes", sorted(cohort.lesions), sorted(source.lesions or cohort.lesions)),
    ]
    if fractions is not None and not np.allclose(cohort.fractions, fractions):
        pairs.append(("split fractions", cohort.fractions, fractions))
    differing = [
        f"{what} {_shown(theirs)}, the cohort has {_shown(ours)}" for what, ours, theirs in pairs if ours != theirs
    ]
    if differing:
        raise CohortError(f"{source.address} does not fit {cohort.path}: the source has {'; '.join(differing)}")


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def _read_batch(
    source: Source, cohort: Cohort | None, keys: Sequence[Any], files: frozenset[str], pool: Executor
) -> _Batch:
    """Decode the files of a batch that the cohort does not have, and judge those that it has."""
    batch, new = _Batch(), []
    digests = list(pool.map(source.sha256, keys))
    row_of = _known_rows(cohort, digests)
    for key, digest in zip(keys, digests, strict=True):
        if cohort is not None and digest in row_of:
            _judge_known(batch, cohort.table, row_of[digest], key, digest, files)
        else:
            new.append(key)
    for read in pool.map(source.read, new):
        if isinstance(read, Case):
            batch.cases.append(read)
        else:
            batch.rejected.append(read)
    return batch


def _known_rows(cohort: Cohort | None, digests: Sequence[str]) -> dict[str, int]:
    """The row of each digest that the cohort has."""
    if cohort is None:
        return {}
    column = cohort.table["sha256"]
    found = column[column.isin(digests)]
    return dict(zip(found, map(int, found.index), strict=True))


def _judge_known(batch: _Batch, table: pd.DataFrame, row: int, key: Any, digest: str, files: frozenset[str]) -> None:
    """A file whose bytes the cohort has: the same file, the same file under a new name, or a duplicate beside it."""
    if not isinstance(key, Listed):
        batch.known += 1
        return
    first = str(table.at[row, "file"])
    if first != key.file and first in files:
        batch.rejected.append(Rejected(key.file, duplicate_of(first), digest))
    elif key.problem:
        batch.rejected.append(Rejected(key.file, key.problem, digest))
    else:
        batch.known += 1
        batch.settled.append(key.file)
        given = {label: float(value) for label, value in key.labels.items()}
        if not np.array_equal(list(given.values()), table.loc[row, list(given)].to_numpy(float), equal_nan=True):
            batch.relabelled[row] = given


def _create(source: Source, path: str | Path, first: Case, fractions: Fractions | None) -> Cohort:
    """The cohort for the cases of `source`; the one that another ingestion has just made, if one has."""
    try:
        return Cohort.create(
            path,
            size=source.size,
            channels=source.channels,
            dtype=str(first.image.dtype),
            lesions=source.lesions,
            labels=source.labels,
            fractions=fractions or FRACTIONS,
            source=source.address,
        )
    except CohortError:
        if not Cohort.exists(path):
            raise
    cohort = Cohort.open(path)
    check_matches(cohort, source, fractions)
    return cohort


def _recorded(report: IngestReport, cohort: Cohort, batch: _Batch) -> IngestReport:
    """Write a batch in one transaction and count it."""
    done = cohort.record(batch.cases, batch.rejected, batch.relabelled, batch.settled)
    return IngestReport(
        added=report.added + done.added,
        known=report.known + batch.known + done.known,
        updated=report.updated + done.updated,
        quarantined=report.quarantined + done.rejected,
        snapshot=done.snapshot,
    )


def _nothing_read(source: Source, rejected: Sequence[Rejected]) -> str:
    if not rejected:
        return f"{source.address} has no cases"
    return (
        f"none of the {len(rejected)} files of {source.address} can be used; {rejected[0].file}: {rejected[0].reason}"
    )
