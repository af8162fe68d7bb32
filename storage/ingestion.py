"""From a source into a cohort, shard by shard, each one transaction: run it again and it goes on where it stopped.

A shard is read (`read_shard`: files hashed and decoded, nothing written) and then recorded (`record_shard`: one
transaction). Shards may be read side by side, in threads here or in Dask's processes (`tasks.ingestion`), and are
recorded in the order of the listing, so that one source always makes the same cohort.
"""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from storage.admission import duplicate_of, is_duplicate
from storage.case import Case, Listed, Rejected
from storage.cohort import Cohort
from storage.errors import CohortError, SourceError
from storage.layout import Corrections, mask_digest
from storage.sources import Source
from storage.splits import FRACTIONS, Fractions

Progress = Callable[[int, int], None]

SHARD_CASES = 512
SHARD_BYTES = 128 << 20
VOLUME_BYTES = 32 << 20  # what a volume of unknown size is taken for


@dataclass(frozen=True)
class IngestReport:
    """What an ingestion did: cases added, known before, and corrected; the files that were set aside."""

    added: int = 0
    known: int = 0
    updated: int = 0
    quarantined: list[Rejected] = field(default_factory=list)
    snapshot: str = ""

    @property
    def broken(self) -> list[Rejected]:
        """Those set aside that a person should repair: all but second copies of a file."""
        return [rejected for rejected in self.quarantined if not is_duplicate(rejected)]


@dataclass(frozen=True)
class Intake:
    """An ingestion: what every process that takes part in it needs to know.

    `base` is the snapshot that it began with, '' where there was no cohort; `files` are those of the source then.
    """

    source: Source
    path: str
    fractions: Fractions | None
    origin: Mapping[str, Any] | None
    base: str
    files: frozenset[str] = frozenset()
    batch: int | None = None
    dtype: str | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def shards(self) -> list[range]:
        """The places of the listing, some hundreds at a time: enough for a transaction, bounded in memory."""
        cases = len(self.source.listing())
        size = self.batch or self._fitting()
        return [range(start, min(start + size, cases)) for start in range(0, cases, size)]

    def _fitting(self) -> int:
        grid, channels = self.source.grid, len(self.source.channels)
        guess = VOLUME_BYTES if grid is None and "z" in self.source.dims else channels * int(np.prod(grid or 1))
        return max(1, min(SHARD_CASES, SHARD_BYTES // max(guess, 1)))


@dataclass
class Shard:
    """A shard on its way: what to write of it."""

    cases: list[Case] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    corrections: Corrections = field(default_factory=Corrections)
    settled: list[str] = field(default_factory=list)
    known: int = 0


def begin(
    source: Source,
    cohort_path: str | Path,
    fractions: Fractions | None = None,
    origin: Mapping[str, Any] | None = None,
    batch: int | None = None,
    dtype: str | None = None,
) -> Intake:
    """An ingestion of `source` into the cohort at `cohort_path`; errors as for `ingest`."""
    if not Cohort.exists(cohort_path):
        return Intake(source, str(cohort_path), fractions, origin, base="", batch=batch, dtype=dtype)
    cohort = Cohort.open(cohort_path)
    check_matches(cohort, source, fractions)
    check_same_pseudonyms(cohort, origin)
    files = frozenset(key.file for key in source.listing())
    return Intake(source, str(cohort_path), fractions, origin, cohort.snapshot, files, batch)


def brings_news(intake: Intake) -> bool:
    """Whether the source holds anything that the cohort does not: a file, or other labels or masks of a known one.

    Nothing is decoded. A file that was set aside counts, since each ingestion tries it again; a second copy does not.
    """
    if not intake.base:
        return True
    known = _known(intake.path, intake.base)
    files = known.table["file"].tolist()
    labels = {name: known.table[name].to_numpy(np.float64) for name in intake.source.labels}
    for key in intake.source.listing():
        is_unchanged = known.is_unchanged(key)
        row = known.row_of_file[key.file] if is_unchanged else known.row_of_digest.get(intake.source.sha256(key))
        if row is None or key.problem:
            return True
        if files[row] != key.file and files[row] in intake.files:
            continue
        given = [float(value) for value in key.labels.values()]
        is_corrected = not np.array_equal(given, [labels[name][row] for name in key.labels], equal_nan=True)
        if is_corrected or (key.stamp and not is_unchanged):
            return True
    return False


def ingest(
    source: Source,
    cohort_path: str | Path,
    *,
    fractions: Fractions | None = None,
    origin: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    batch: int | None = None,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> IngestReport:
    """Read all that is new in `source` into the cohort at `cohort_path`, which is made where there is none.

    A file whose stamp or SHA-256 the cohort has is not decoded again; if the source gives it other labels or masks,
    they are corrected. A broken file goes to quarantine with its reason and is tried again by the next ingestion.
    `fractions` of train, validation and test (0.7, 0.15, 0.15) and the `dtype` of the pixels (that of the first cases)
    are set when the cohort is made; `origin`, `address` and `options`, is kept for repairs. A shard is
    `batch` cases, by default at most 512 of together 128 MB. `on_progress(done, total)` is called after each shard.

    CohortError where the cohort is of another grid, has other channels, labels or lesions, or was split in other
    fractions; SourceError where no file can be read, or a patient would be in two splits.
    """
    return ingest_in_threads(begin(source, cohort_path, fractions, origin, batch, dtype), threads, on_progress)


def ingest_in_threads(intake: Intake, threads: int | None = None, on_progress: Progress | None = None) -> IngestReport:
    """`ingest`, already begun, in this process: by default a thread a core reads."""
    total, report = len(intake.source.listing()), IngestReport(snapshot=intake.base)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        for places, shard in _read_ahead(intake, pool):
            report = record_shard(intake, shard, report)
            if on_progress:
                on_progress(places.stop, total)
    return concluded(intake, report)


def _read_ahead(intake: Intake, pool: Executor) -> Iterator[tuple[range, Shard]]:
    """The shards in order; the next one is being read while this one is written."""
    with ThreadPoolExecutor(1) as ahead:
        shards = intake.shards()
        coming = [ahead.submit(read_shard, intake, places, pool) for places in shards[:1]]
        for places, following in zip(shards, [*shards[1:], None], strict=True):
            shard = coming.pop().result()
            if following is not None:
                coming.append(ahead.submit(read_shard, intake, following, pool))
            yield places, shard


def read_shard(intake: Intake, places: range, pool: Executor | None = None) -> Shard:
    """Decode the files of a shard that the cohort does not have, and judge those that it has."""
    in_turn: Callable[..., Iterator[Any]] = map if pool is None else pool.map
    keys = intake.source.listing()[places.start : places.stop]
    shard, known = Shard(), _known(intake.path, intake.base)
    unchanged = {key.file for key in keys if known.is_unchanged(key)}
    unread = [key for key in keys if known.row_of_digest and key.file not in unchanged]
    digests = dict(zip((key.file for key in unread), in_turn(intake.source.sha256, unread), strict=True))
    fresh: list[Listed] = []
    for key in keys:
        digest = digests.get(key.file, "")
        row = known.row_of_file[key.file] if key.file in unchanged else known.row_of_digest.get(digest)
        if row is None:
            fresh.append(key)
        else:
            _judge_known(shard, intake, known.table, row, key, digest)
    for key, read in zip(fresh, in_turn(intake.source.read, fresh), strict=True):
        if isinstance(read, Rejected):
            shard.rejected.append(read)
        else:
            shard.cases.append(read if read.stamp else replace(read, stamp=key.stamp))
    return shard


@dataclass(frozen=True)
class _Known:
    """What the cohort held when the ingestion began."""

    table: pd.DataFrame
    row_of_digest: Mapping[str, int]
    row_of_file: Mapping[str, int]

    def is_unchanged(self, key: Listed) -> bool:
        """Whether its files are as they were when they were last read, by their stamp."""
        row = self.row_of_file.get(key.file)
        return bool(key.stamp) and row is not None and str(self.table["stamp"].iat[row]) == key.stamp


@lru_cache(maxsize=2)
def _known(path: str, snapshot: str) -> _Known:
    if not snapshot:
        return _Known(pd.DataFrame(), {}, {})
    table = Cohort.open(path, snapshot).table
    rows = range(len(table))
    return _Known(table, dict(zip(table["sha256"], rows, strict=True)), dict(zip(table["file"], rows, strict=True)))


def _judge_known(shard: Shard, intake: Intake, table: pd.DataFrame, row: int, key: Listed, digest: str) -> None:
    """A file whose bytes the cohort has: the same file, the same file under a new name, or a duplicate beside it."""
    first, patient = str(table["file"].iat[row]), str(table["patient_id"].iat[row])
    if first != key.file and first in intake.files:
        shard.rejected.append(Rejected(key.file, duplicate_of(first), digest))
    elif key.problem:
        shard.rejected.append(Rejected(key.file, key.problem, digest))
    elif key.patient_id != patient and first == key.file:
        shard.rejected.append(Rejected(key.file, _OTHER_PATIENT.format(key.patient_id, patient), digest))
    else:
        shard.known += 1
        shard.settled.append(key.file)
        _correct(shard, intake, table, row, key)


_OTHER_PATIENT = (
    "is now said to be of patient '{}', in the cohort it is of '{}'; a patient's split may depend on it: "
    "correct the patient column, or begin a new cohort"
)


def _correct(shard: Shard, intake: Intake, table: pd.DataFrame, row: int, key: Listed) -> None:
    """Note what the source now says otherwise of a known case: its labels and, where its files changed, its masks."""
    better = shard.corrections
    given = {label: float(value) for label, value in key.labels.items()}
    if not np.array_equal(
        list(given.values()), [table[label].to_numpy(np.float64)[row] for label in given], equal_nan=True
    ):
        better.labels[row] = given
    if table["stamp"].iat[row] == key.stamp:
        return
    problem = _correct_masks(better, intake, table, row, key) if intake.source.lesions else ""
    if problem:
        shard.rejected.append(Rejected(key.file, problem, str(table["sha256"].iat[row])))
    else:
        better.stamps[row] = key.stamp  # only now: while there is a problem, each ingestion looks at the files again


def _correct_masks(better: Corrections, intake: Intake, table: pd.DataFrame, row: int, key: Listed) -> str:
    """Note the masks of a known case where they are others now; what is wrong with them, '' where nothing is."""
    read = intake.source.read(key)
    if isinstance(read, Rejected):
        return read.reason
    grid = tuple(table[f"size_{axis}"].to_numpy(np.int64)[row].item() for axis in intake.source.dims)
    if read.image.shape[1:] != grid:
        return _OTHER_GRID.format(" × ".join(map(str, read.image.shape[1:])), " × ".join(map(str, grid)))
    if mask_digest(read.masks, grid, _cohort(intake).layout) != table["mask_digest"].iat[row]:
        better.masks[row] = read.masks
    return ""


_OTHER_GRID = (
    "has a grid of {} when it is read with these options, in the cohort it has {}: "
    "give the options that it was ingested with"
)


def record_shard(intake: Intake, shard: Shard, before: IngestReport) -> IngestReport:
    """Write a shard in one transaction, after those of the report `before`; the report with it.

    Until the first case of all is read there is no cohort, and what is set aside waits in the report.
    """
    cohort = _cohort(intake) if before.snapshot else None
    if cohort is None and not shard.cases:
        return replace(before, quarantined=[*before.quarantined, *shard.rejected])
    first = cohort is None
    if cohort is None:  # not `cohort or …`: one without cases is false
        cohort = _create(intake, np.result_type(*[case.image.dtype for case in shard.cases]))
    fitting = [_in_dtype(case, cohort.dtype) for case in shard.cases]
    cases = [case for case in fitting if isinstance(case, Case)]
    misfits = [case for case in fitting if isinstance(case, Rejected)]
    waiting = before.quarantined if first else []
    aside = [*waiting, *shard.rejected, *misfits]
    done = cohort.record(cases, aside, shard.corrections, shard.settled, intake.origin)
    return IngestReport(
        added=before.added + done.added,
        known=before.known + shard.known + done.known,
        updated=before.updated + done.updated,
        quarantined=[*([] if first else before.quarantined), *done.rejected],
        snapshot=done.snapshot,
    )


def _in_dtype(case: Case, dtype: np.dtype[Any]) -> Case | Rejected:
    """`case` in the dtype of the cohort, if that holds each of its values."""
    if case.image.dtype == dtype:
        return case
    with np.errstate(invalid="ignore"):
        cast = case.image.astype(dtype)
    if np.array_equal(cast.astype(case.image.dtype), case.image):
        return replace(case, image=cast)
    reason = f"has {case.image.dtype} values that {dtype}, which the cohort was begun with, cannot hold; begin one with"
    return Rejected(case.file, f"{reason} --dtype {np.result_type(case.image.dtype, dtype)}", case.sha256)


def concluded(intake: Intake, report: IngestReport) -> IngestReport:
    """`report`, or SourceError where nothing could be read into a new cohort."""
    if not report.snapshot:
        raise SourceError(_nothing_read(intake.source, report.quarantined))
    return report


def _cohort(intake: Intake) -> Cohort:
    return _opened(intake.path, intake.token)


@lru_cache(maxsize=2)
def _opened(path: str, token: str) -> Cohort:
    """The cohort that an ingestion writes to, opened once in each process that takes part."""
    return Cohort.open(path)


def _create(intake: Intake, dtype: np.dtype[Any]) -> Cohort:
    """The cohort for the cases of the source; the one that another ingestion has just made, if one has."""
    source = intake.source
    try:
        Cohort.create(
            intake.path,
            grid=source.grid,
            dims=source.dims,
            channels=source.channels,
            dtype=intake.dtype or str(dtype),
            lesions=source.lesions,
            labels=source.labels,
            fractions=intake.fractions or FRACTIONS,
        )
    except CohortError:
        if not Cohort.exists(intake.path):
            raise
    cohort = _cohort(intake)
    check_matches(cohort, source, intake.fractions)
    check_same_pseudonyms(cohort, intake.origin)
    return cohort


def check_matches(cohort: Cohort, source: Source, fractions: Fractions | None = None) -> None:
    """CohortError that says what differs, unless the cases of `source` fit into `cohort`.

    A source without any masks fits a cohort with masks: nobody annotated its cases.
    """
    pairs: list[tuple[str, Any, Any]] = [
        ("grid", " × ".join(map(str, cohort.grid or cohort.dims)), " × ".join(map(str, source.grid or source.dims))),
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
        hint = f". Name them with --lesions {','.join(cohort.lesions)}" if "lesion classes" in differing[-1] else ""
        raise CohortError(f"{source.address} does not fit {cohort.path}: the source has {'; '.join(differing)}{hint}")


def check_same_pseudonyms(cohort: Cohort, origin: Mapping[str, Any] | None) -> None:
    """CohortError where patient ids were hashed with another key: one person would become two patients."""
    given = (origin or {}).get("pseudonyms")
    known = {one.get("pseudonyms") for one in cohort.origins} - {None}
    if given and known and known != {given}:
        raise CohortError(
            f"the patient ids of {cohort.path} were hashed with another key; give the key it was begun with "
            "(LESIONFLOW_ID_KEY, or identity.key of its workspace)"
        )


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def _nothing_read(source: Source, rejected: Sequence[Rejected]) -> str:
    if not rejected:
        return f"{source.address} has no cases"
    return (
        f"none of the {len(rejected)} files of {source.address} can be used; {rejected[0].file}: {rejected[0].reason}"
    )
