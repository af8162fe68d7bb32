"""The storage engine: icechunk transactions over Zarr v3. With `storage.places` all that knows either of them.

A cohort is one icechunk repository with one branch. Every write is one commit on its tip; a writer that dies leaves the
tip where it was. icechunk calls concurrent commits unsafe on a local file system, so there a lock file serialises
writers; on an object store a writer that lost the race starts again from the new tip.
"""

import atexit
import fcntl
import json
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pandas as pd
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from storage import safekeeping
from storage.errors import CohortError, DamagedError
from storage.places import is_remote, settings, storage_at

Group = zarr.Group
Array = zarr.Array[Any]
Repository = Any  # icechunk.Repository, which mypy does not follow

BRANCH = "main"
ATTEMPTS = 100
COLUMN_CHUNK = 1024  # rows a chunk of a column: each commit writes the last one anew
EXIT_PATIENCE = 2.0  # seconds
# a flipped bit is an error at the next read, not other pixels
COMPRESSOR = ZstdCodec(level=1, checksum=True)
OF_INTEGERS = [BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle"), Crc32cCodec()]  # as small, 1.3 times as fast
SMALL_ROW, SMALL_ROWS = 4096, 1024  # rows of fewer bytes lie so many to a chunk

icechunk.set_logs_filter("error")  # it warns of concurrent local commits at each opening; `exclusive` answers that


@dataclass(frozen=True)
class Snapshot:
    """One state of a cohort."""

    id: str
    time: datetime
    message: str


def exists(path: str) -> bool:
    """Whether there is a repository at `path`, be it damaged. Asking creates nothing."""
    if not is_remote(path):
        return Path(path, "refs", f"branch.{BRANCH}").is_dir()
    return bool(icechunk.Repository.exists(storage_at(path)))


def open_repository(path: str) -> Repository:
    """The repository at `path`; DamagedError where it cannot be read."""
    try:
        return icechunk.Repository.open(storage_at(path))
    except icechunk.IcechunkError as error:
        raise _damage(path, f"it cannot be opened: {first_line(error)}") from error


def _damage(path: str, what: str) -> DamagedError:
    return DamagedError(f"{path} is damaged ({what}); `lesionflow check {path} --repair` mends what can be mended")


def create(path: str, lay_out: Callable[[Group, str], str]) -> None:
    """Make a repository whose first commit is `lay_out`'s; CohortError where `path` has other files in it.

    On a local disk it appears whole: icechunk refuses a folder in which a killed creation has left its first files.
    """
    if is_remote(path) or exists(path):
        new = not exists(path)
        repository = icechunk.Repository.create(storage_at(path), config=settings()) if new else open_repository(path)
        transact(repository, path, lay_out)
        return
    folder = Path(path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:12]}.partial")
    try:
        repository = icechunk.Repository.create(storage_at(str(partial)), config=settings())
        transact(repository, str(partial), lay_out)
        partial.rename(folder)
    except OSError as error:
        raise CohortError(f"{path} cannot be made a cohort: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def transact(repository: Repository, path: str, change: Callable[[Group, str], str | None]) -> str:
    """Apply `change(root group, snapshot id)` to the tip and commit it under the message it returns; the new tip.

    Where `change` returns None nothing is committed and the tip stays. `change` may run more than once, each
    time on a fresh tip. CohortError when the store cannot be written (a full disk): the tip then stays where it was.
    """
    try:
        with exclusive(path):
            for _ in range(ATTEMPTS):
                session = repository.writable_session(BRANCH)
                base = str(session.snapshot_id)
                _check_whole(repository, path, base)
                message = change(zarr.open_group(session.store, mode="a", zarr_format=3), base)
                if message is None:
                    return base
                try:
                    snapshot = str(session.commit(message))
                except icechunk.ConflictError:
                    continue
                if not is_remote(path):
                    safekeeping.keep(path, [f"transactions/{snapshot}", *_files_of(repository, snapshot)])
                return snapshot
    except (icechunk.IcechunkError, OSError, RuntimeError) as error:  # RuntimeError: a chunk that cannot be unpacked
        raise CohortError(f"{path} cannot be written: {first_line(error)}") from error
    raise CohortError(f"{path} is written to by others without a pause; try again later")


def tip(repository: Repository, path: str) -> str:
    """The id of the newest snapshot."""
    try:
        return str(repository.lookup_branch(BRANCH))
    except icechunk.IcechunkError as error:
        raise _damage(path, first_line(error)) from error


def read_group(repository: Repository, path: str, snapshot: str) -> Group:
    """The root group as it was at `snapshot`, read only; CohortError for an unknown snapshot."""
    _check_whole(repository, path, snapshot)
    try:
        return zarr.open_group(repository.readonly_session(snapshot_id=snapshot).store, mode="r", zarr_format=3)
    except (icechunk.IcechunkError, ValueError) as error:
        if snapshot == tip(repository, path):
            raise _damage(path, "its newest state cannot be found") from error
        raise CohortError(f"{path} has no snapshot '{snapshot}'; its history lists those it has") from error


def damaged_files(repository: Repository, path: str, snapshot: str, again: bool = False) -> list[str]:
    """The files of the store that `snapshot` needs beside its chunks and that are not as they were written."""
    if is_remote(path):
        return []
    if found := safekeeping.damaged(path, [f"snapshots/{snapshot}"], again):
        return found
    return safekeeping.damaged(path, _files_of(repository, snapshot), again)


def _files_of(repository: Repository, snapshot: str) -> list[str]:
    """The file of a snapshot and those of its lists of chunks; none for an unknown one."""
    try:
        manifests = repository.lookup_snapshot(snapshot).manifests
    except (icechunk.IcechunkError, ValueError):
        return []
    return [f"snapshots/{snapshot}", *(f"manifests/{manifest.id}" for manifest in manifests)]


def _check_whole(repository: Repository, path: str, snapshot: str) -> None:
    """DamagedError unless the store knows for certain which chunks are those of `snapshot`."""
    if found := damaged_files(repository, path, snapshot):
        raise _damage(path, f"{found[0]} is not as it was written")


def history(repository: Repository, path: str, snapshot: str) -> list[Snapshot]:
    """The snapshots that led to `snapshot`, newest first."""
    try:
        ancestry = list(repository.ancestry(snapshot_id=snapshot))
    except icechunk.IcechunkError as error:
        raise _damage(path, first_line(error)) from error
    return [Snapshot(str(one.id), one.written_at, one.message) for one in ancestry[:-1]]  # the last is icechunk's own


def describe(repository: Repository, snapshot: str) -> Snapshot | None:
    """What is known of a snapshot; None where that cannot be read, and for icechunk's own first one."""
    try:
        one = repository.lookup_snapshot(snapshot)
    except (icechunk.IcechunkError, ValueError):
        return None
    return Snapshot(snapshot, one.written_at, one.message) if one.parent_id else None


def write_settings(path: str) -> None:
    """Write the settings of the repository anew."""
    icechunk.Repository.open(storage_at(path), config=settings()).save_config()


def write_tip(path: str, snapshot: str) -> None:
    """Say that `snapshot` is the newest state of a local repository, even where what said so is damaged."""
    Path(path, "refs", f"branch.{BRANCH}", "ref.json").write_text(json.dumps({"snapshot": snapshot}))


def set_back(path: str, snapshot: str) -> None:
    """Make `snapshot` the newest state; nothing of what came after it is deleted yet."""
    repository = open_repository(path)
    with exclusive(path):
        repository.reset_branch(BRANCH, snapshot)


def forget_snapshots(repository: Repository, path: str, older_than: datetime) -> int:
    """Take snapshots from before `older_than` out of the history, but the newest; how many."""
    with exclusive(path):
        _check_all_whole(path)
        forgotten = len(repository.expire_snapshots(older_than))
        if not is_remote(path):
            safekeeping.keep_anew(path)  # the oldest that stays has a new parent
        return forgotten


def collect_garbage(repository: Repository, path: str) -> int:
    """Delete what no snapshot refers to, such as the chunks of killed writers; bytes freed.

    On a local disk no writer is at work meanwhile; on an object store one may be, so that what is younger than a day
    stays. CohortError where the store is damaged: what belongs to whom is then not known.
    """
    with exclusive(path):
        _check_all_whole(path)
        before = datetime.now(UTC) - (timedelta(days=1) if is_remote(path) else timedelta())
        try:
            freed = int(repository.garbage_collect(before).bytes_deleted)
        except icechunk.IcechunkError as error:
            raise _damage(path, first_line(error)) from error
        if not is_remote(path):
            safekeeping.prune(path)
        return freed


def _check_all_whole(path: str) -> None:
    """DamagedError unless all files of the store are as they were written; those with a copy are restored."""
    if not is_remote(path) and (lost := safekeeping.restore(path)[1]):
        raise _damage(path, f"{lost[0]} is not as it was written")


def subgroup(group: Group, name: str) -> Group:
    """The group `name` in `group`; KeyError where there is none."""
    found = child_group(group, name)
    if found is None:
        raise KeyError(name)
    return found


def child_group(group: Group, name: str) -> Group | None:
    """The group `name` in `group`, or None."""
    found = group.get(name)
    return found if isinstance(found, Group) else None


def array_of(group: Group, name: str) -> Array:
    """The array `name` in `group`; KeyError where there is none."""
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise KeyError(name)
    return found


def groups_with(group: Group, array: str) -> list[str]:
    """The paths of all groups below `group`, however deep, that hold an array of this name; sorted."""
    members = group.members(max_depth=None)
    return sorted(
        path.rpartition("/")[0] for path, member in members if path.endswith(f"/{array}") and _is_array(member)
    )


def delete_arrays(group: Group) -> None:
    """Remove the arrays of `group`; the groups in it stay."""
    for name in list(group.array_keys()):
        del group[name]


def add_rows(
    group: Group,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    dims: tuple[str, ...],
    chunk: tuple[int, ...] | None = None,
) -> None:
    """An empty array of rows of `shape`; without `chunk` a row is one chunk, or many rows where a row is small."""
    row_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    group.create_array(
        name,
        shape=(0, *shape),
        chunks=chunk or (1 if row_bytes >= SMALL_ROW else SMALL_ROWS, *shape),
        dtype=dtype,
        compressors=_compressors(dtype),
        dimension_names=("case", *dims),
    )


def add_array(group: Group, name: str, values: np.ndarray, dims: tuple[str, ...], chunk: tuple[int, ...]) -> None:
    """An array with these values."""
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=chunk,
        dtype=values.dtype,
        compressors=_compressors(values.dtype),
        dimension_names=dims,
    )
    array[...] = values


def _compressors(dtype: Any) -> Any:
    """Integers are photographs and CT, where bits of like weight resemble each other; PET and masks hold runs."""
    return OF_INTEGERS if np.dtype(dtype).kind in "iu" else COMPRESSOR


def add_columns(group: Group, kinds: Mapping[str, str], dim: str = "case") -> None:
    """Empty columns by name and dtype; text is `string`, of any length, so that a column of it can grow."""
    for name, kind in kinds.items():
        group.create_array(
            name, shape=(0,), chunks=(COLUMN_CHUNK,), dtype=kind, compressors=COMPRESSOR, dimension_names=(dim,)
        )


def read_columns(group: Group, names: Sequence[str], start: int = 0) -> pd.DataFrame:
    """Columns of one length as a table, from row `start` on."""
    return pd.DataFrame({name: _column(array_of(group, name), start) for name in names})


def read_column(group: Group, name: str) -> np.ndarray:
    """A column; DamagedError where it cannot be read."""
    return _column(array_of(group, name), 0)


def append_columns(group: Group, rows: pd.DataFrame) -> None:
    """Append a table to the columns of the same names."""
    for name in rows.columns:
        append(array_of(group, str(name)), _values(rows[name]))


def rewrite_columns(group: Group, rows: pd.DataFrame) -> None:
    """Make `rows` all that the columns of the same names hold."""
    for name in rows.columns:
        column = array_of(group, str(name))
        column.resize((len(rows),))
        column[:] = _values(rows[name])


def replace_values(group: Group, name: str, values: Mapping[int, Any]) -> None:
    """Replace the values of some rows of a column, in one read and one write of the rows between them."""
    if not values:
        return
    column, first, last = array_of(group, name), min(values), max(values) + 1
    between = _column_slice(column, first, last)
    for row, value in values.items():
        between[row - first] = value
    column[first:last] = between


def append(array: Array, values: np.ndarray) -> None:
    """Append rows."""
    rows = array.shape[0]
    array.resize((rows + len(values), *array.shape[1:]))
    array[rows:] = values


def clear_rows(array: Array, rows: np.ndarray) -> None:
    """Make rows 0, given as a bool for each; chunks of nothing else need not be readable for that."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], rows, [False]))))
    for first, last in edges.reshape(-1, 2).tolist():
        array[first:last] = 0


def _values(column: "pd.Series[Any]") -> np.ndarray:
    """A column as numpy has it; all but numbers as text, whatever pandas keeps it as, and a missing text as ''."""
    is_number = getattr(column.dtype, "kind", "O") in "fiub"
    return column.to_numpy() if is_number else column.astype(object).fillna("").map(str).to_numpy(dtype=object)


def _column(array: Array, start: int) -> np.ndarray:
    return _column_slice(array, start, array.shape[0])


def _column_slice(array: Array, first: int, last: int) -> np.ndarray:
    try:
        values = np.asarray(array[first:last])
    except (icechunk.IcechunkError, RuntimeError, ValueError) as error:  # RuntimeError and ValueError: a damaged chunk
        raise DamagedError(
            f"the column '{array.path}' is damaged ({first_line(error)}); `lesionflow check COHORT --repair` mends it"
        ) from error
    return values.astype(object) if values.dtype.kind == "T" else values


def _is_array(member: object) -> bool:
    return isinstance(member, zarr.Array)


@contextmanager
def exclusive(path: str) -> Iterator[None]:
    """Be the only writer of a local cohort; the system lets go of the lock when the writer dies."""
    if is_remote(path):
        yield
        return
    with Path(path, ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@atexit.register
def _let_engine_threads_finish() -> None:
    """Wait until no thread of icechunk is inside Python.

    One that has handed over its result needs the interpreter lock once more. If the interpreter is gone by then, Python
    3.11 unwinds the thread, Rust aborts the process, and a finished ingestion exits with 134: 3 of 65 runs did.
    """
    quiet, deadline = 0, time.monotonic() + EXIT_PATIENCE
    while quiet < 3 and time.monotonic() < deadline:
        time.sleep(0.002)  # gives the lock away
        own = {thread.ident for thread in threading.enumerate()}
        quiet = 0 if set(sys._current_frames()) - own else quiet + 1


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
