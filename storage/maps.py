"""Sets of maps: a system's raw answers to some cases of a cohort, with what it noted of each case.

In the store a set is the group `maps/<name>`: `case` (the case of each row), `saliency` (a row a case, on the case's
grid), a column for each column of its table, and other arrays by name. Rows stand in the order in which they were
written.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from storage import engine
from storage.errors import CohortError
from storage.rows import Rows, add_ragged, add_stacked, rows_of

ROOT = "maps"
ROW, SALIENCY = "case", "saliency"
COLUMNS, ARRAYS, ATTRS = "columns", "arrays", "attrs"
FORGOTTEN = -1  # the case of a row whose map was lost
KINDS = {"f": "float64", "i": "int64", "u": "int64", "b": "bool"}


class Maps:
    """A set of maps, read from the root `group` of a cohort."""

    def __init__(self, name: str, group: engine.Group) -> None:
        self.name = name
        self._group = engine.subgroup(group, f"{ROOT}/{name}")
        cases = engine.read_column(self._group, ROW)
        self._rows = np.flatnonzero(cases != FORGOTTEN)
        self.indices = cases[self._rows]
        self._row_of = dict(zip(self.indices.tolist(), self._rows.tolist(), strict=True))
        self._arrays: dict[str, Rows] = {}

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def attrs(self) -> dict[str, Any]:
        """What the writer said of the whole set."""
        return dict(_noted(self._group, ATTRS, {}))

    @property
    def array_names(self) -> tuple[str, ...]:
        """The arrays beside the saliency."""
        return tuple(_noted(self._group, ARRAYS, []))

    @property
    def table(self) -> pd.DataFrame:
        """What was noted of each case; the index is the case."""
        rows = engine.read_columns(self._group, _noted(self._group, COLUMNS, []))
        return rows.iloc[self._rows].set_index(pd.Index(self.indices, name=ROW))

    def saliency(self, case: int) -> np.ndarray:
        """The map of a case on its grid, float32 as it was written."""
        return self._row(SALIENCY, case)

    def array(self, name: str, case: int) -> np.ndarray:
        """A case's row of an array; CohortError for an unknown one."""
        if name not in self.array_names:
            raise CohortError(
                f"the maps '{self.name}' have no array '{name}'; they have: {', '.join(self.array_names)}"
            )
        return self._row(name, case)

    def _row(self, name: str, case: int) -> np.ndarray:
        if int(case) not in self._row_of:
            raise CohortError(f"case {case} has no map in '{self.name}'")
        if name not in self._arrays:
            self._arrays[name] = rows_of(self._group, name)
        try:
            return self._arrays[name].read(self._row_of[int(case)])
        except Exception as error:  # zarr, numcodecs and icechunk each have their own
            raise CohortError(
                f"the map of case {case} in '{self.name}' is damaged ({engine.first_line(error)}); "
                "`lesionflow check COHORT --repair` drops it, and the next `localize` makes it again"
            ) from error


def map_names(group: engine.Group) -> list[str]:
    """The names of the sets of maps of a cohort."""
    root = engine.child_group(group, ROOT)
    return [] if root is None else engine.groups_with(root, ROW)


def record_maps(
    group: engine.Group,
    name: str,
    cases: np.ndarray,
    saliency: Sequence[np.ndarray] | np.ndarray,
    table: pd.DataFrame,
    arrays: dict[str, np.ndarray],
    attrs: Mapping[str, Any] | None,
    dims: tuple[str, ...],
    ragged: bool,
) -> None:
    """Write the rows of `cases` into the set `name` of the cohort's root `group`; those it has are replaced.

    `dims` are the axes of a map; `ragged` where maps differ in shape.
    """
    arrays = {key: np.asarray(rows) for key, rows in arrays.items()}
    _check_rows(name, cases, table, arrays)
    maps = engine.child_group(group, f"{ROOT}/{name}")
    if maps is None or ROW not in maps:
        maps = _new_set(group, name, table, arrays)
        shape = np.shape(saliency)[1:] if not ragged else ()
        add_ragged(maps, SALIENCY, "float32", dims) if ragged else add_stacked(maps, SALIENCY, shape, "float32", dims)
    _check_same_kind(name, maps, table, arrays)
    if attrs is not None:
        maps.attrs[ATTRS] = dict(attrs)
    known = engine.read_column(maps, ROW)
    row_of = {int(case): row for row, case in enumerate(known)}
    rows = np.array([row_of.get(int(case), -1) for case in cases], np.int64)
    fresh = np.flatnonzero(rows < 0).tolist()
    stored = rows_of(maps, SALIENCY)
    for row, place in zip(rows[rows >= 0], np.flatnonzero(rows >= 0).tolist(), strict=True):
        stored.write(int(row), np.asarray(saliency[place], np.float32))
    stored.append(len(known), [np.asarray(saliency[place], np.float32) for place in fresh])
    _replace(maps, rows[rows >= 0], table[rows >= 0], {key: given[rows >= 0] for key, given in arrays.items()})
    _append(maps, cases[rows < 0], table[rows < 0], {key: given[rows < 0] for key, given in arrays.items()})


def forget_maps(group: engine.Group, name: str, cases: Sequence[int]) -> None:
    """Take the maps of `cases` out of the set `name`, so that they count as never made.

    Their rows are emptied: a damaged chunk of many rows could not be appended to.
    """
    maps = engine.subgroup(group, f"{ROOT}/{name}")
    known = engine.read_column(maps, ROW)
    left = np.where(np.isin(known, cases), FORGOTTEN, known)
    engine.rewrite_columns(maps, pd.DataFrame({ROW: left}))
    for array in _noted(maps, ARRAYS, []):
        engine.clear_rows(engine.array_of(maps, array), left == FORGOTTEN)


def delete_maps(group: engine.Group, name: str) -> None:
    """Remove the set `name`; sets below it ('name/…') stay."""
    maps = engine.subgroup(group, f"{ROOT}/{name}")
    if engine.child_group(maps, SALIENCY) is not None:
        del maps[SALIENCY]
    engine.delete_arrays(maps)
    maps.attrs.clear()


def _check_rows(name: str, cases: np.ndarray, table: pd.DataFrame, arrays: Mapping[str, np.ndarray]) -> None:
    if not all(part and part != SALIENCY and not part.startswith((".", "__")) for part in name.split("/")):
        raise CohortError(f"maps cannot be called '{name}'; a name is words joined by '/'")
    if len(set(cases.tolist())) != len(cases):
        raise CohortError(f"maps '{name}': a case is named twice in one write")
    for what, rows in (("the table", len(table)), *((f"array '{key}'", len(given)) for key, given in arrays.items())):
        if rows != len(cases):
            raise CohortError(f"maps '{name}': {what} has {rows} rows for {len(cases)} cases")
    names = [ROW, SALIENCY, *arrays, *map(str, table.columns)]
    if clash := sorted({one for one in names if names.count(one) > 1 or "/" in one}):
        raise CohortError(f"maps '{name}': '{clash[0]}' cannot name a column or array here; choose another name")


def _new_set(group: engine.Group, name: str, table: pd.DataFrame, arrays: Mapping[str, np.ndarray]) -> engine.Group:
    """An empty set for rows like these."""
    maps = group.require_group(f"{ROOT}/{name}")
    engine.add_columns(maps, {ROW: "int64", **_kinds(table)})
    for key, rows in arrays.items():
        dims = tuple(f"{key}_{axis}" for axis in range(1, rows.ndim))
        engine.add_rows(maps, key, rows.shape[1:], str(rows.dtype), dims)
    maps.attrs.update({COLUMNS: list(_kinds(table)), ARRAYS: list(arrays), ATTRS: {}})
    return maps


def _kinds(table: pd.DataFrame) -> dict[str, str]:
    """The stored dtype of each column: numbers as 8 bytes, all else as text."""
    return {str(name): KINDS.get(getattr(dtype, "kind", "O"), "string") for name, dtype in table.dtypes.items()}


def _check_same_kind(name: str, maps: engine.Group, table: pd.DataFrame, arrays: Mapping[str, np.ndarray]) -> None:
    """A set holds rows of one kind; a mixture would lose columns, or digits, without a word."""
    stored = {column: engine.array_of(maps, column).dtype for column in _noted(maps, COLUMNS, [])}
    for column, kind in _kinds(table).items():
        known = stored.pop(column, None)
        if known is None:
            raise CohortError(
                f"maps '{name}' have no column '{column}'; drop the maps or write them under another name"
            )
        if (kind == "string") != (known.kind not in "fib") or (kind == "float64" and known.kind in "ib"):
            raise CohortError(f"maps '{name}': column '{column}' is now {kind} and was {known}; write one kind")
    missing = [*stored, *(set(_noted(maps, ARRAYS, [])) ^ set(arrays))]
    if missing:
        raise CohortError(f"maps '{name}': '{missing[0]}' is not in all writes; drop the maps or use another name")
    for key, rows in arrays.items():
        known_array = engine.array_of(maps, key)
        if known_array.shape[1:] != rows.shape[1:] or known_array.dtype != rows.dtype:
            raise CohortError(
                f"maps '{name}': a row of '{key}' is {rows.dtype} {rows.shape[1:]} "
                f"and was {known_array.dtype} {known_array.shape[1:]}"
            )


def _replace(maps: engine.Group, rows: np.ndarray, table: pd.DataFrame, arrays: Mapping[str, np.ndarray]) -> None:
    if not len(rows):
        return
    columns = engine.read_columns(maps, [str(name) for name in table.columns])
    for name in table.columns:
        column = columns[str(name)].to_numpy(copy=True)
        column[rows] = table[name].to_numpy()
        columns[str(name)] = column
    engine.rewrite_columns(maps, columns)
    for key, given in arrays.items():
        array = engine.array_of(maps, key)
        for row, value in zip(rows, given, strict=True):
            array[int(row)] = value


def _append(maps: engine.Group, cases: np.ndarray, table: pd.DataFrame, arrays: Mapping[str, np.ndarray]) -> None:
    if not len(cases):
        return
    engine.append(engine.array_of(maps, ROW), cases)
    engine.append_columns(maps, table)
    for key, given in arrays.items():
        engine.append(engine.array_of(maps, key), given)


def _noted(maps: engine.Group, key: str, default: Any) -> Any:
    return maps.attrs.get(key, default)
