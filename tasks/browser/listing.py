"""The table of a cohort for its page: columns, written once as a script, filtered and sorted in the browser."""

import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from tasks.browser.cohorts import MapSet, Shown
from tasks.browser.radiomics import TRUTH, Features, features_by_region, lesion_load

DIGITS = 5


@dataclass(frozen=True)
class Script:
    """`cases.js`, plain and packed, and a tag that changes with its content."""

    plain: bytes
    packed: bytes
    tag: str


def cases_script(shown: Shown) -> Script:
    """The table as it is now."""
    return _written(shown, tuple(features_by_region(shown).items()))


@lru_cache(maxsize=8)
def _written(shown: Shown, features: tuple[tuple[str, Features], ...]) -> Script:
    text = json.dumps(case_table(shown, dict(features)), separators=(",", ":"), allow_nan=False)
    plain = f"window.CASES = {text};\n".encode()
    digest = hashlib.sha256(plain).hexdigest()[:16]
    return Script(plain, gzip.compress(plain, 5, mtime=0), f'"{shown.cohort.snapshot}-{digest}"')


def case_table(shown: Shown, features: dict[str, Features]) -> dict[str, Any]:
    """The columns of the cases that are shown; numbers to five digits, None where unknown.

    `columns` holds each column of numbers once; labels and map sets name theirs by position.
    """
    table, columns = shown.cohort.table.iloc[shown.cases], Columns()
    patients = [str(patient) for patient in table["patient_id"]]
    ids = [shown.case_ids[case] for case in shown.cases]
    return {
        "cohort": shown.title,
        "snapshot": shown.cohort.snapshot,
        "cases": None if shown.chosen is None else shown.cases.tolist(),
        "ids": ids,
        "patients": None if patients == ids else patients,
        "split": coded(table["split"]),
        "truth": table["has_masks"].astype(int).tolist(),
        "labels": [{"name": name, "values": columns.add(table[name].to_numpy())} for name in shown.cohort.labels],
        "truthLoad": columns.add_some(shown, lesion_load(shown, features.get(TRUTH))),
        "sets": [set_columns(shown, maps, features.get(maps.name), columns) for maps in shown.sets.values()],
        "columns": columns.values,
    }


def set_columns(shown: Shown, maps: MapSet, features: Features | None, columns: "Columns") -> dict[str, Any]:
    """What a map set says of each case: score, iterations, why it stopped, the share of found lesions."""
    noted, has = maps.table.reindex(shown.cases), np.isin(shown.cases, maps.maps.indices)
    numbers = {name: columns.add(noted[name].to_numpy(np.float64)) for name in ("score", "iterations") if name in noted}
    return {
        "name": maps.name,
        "slug": maps.slug,
        "target": maps.maps.attrs.get("target"),
        **numbers,
        "has": None if has.all() else columns.add(has),
        "stop": coded(noted["stop_reason"]) if "stop_reason" in noted else None,
        "load": columns.add_some(shown, lesion_load(shown, features)),
    }


class Columns:
    """Columns of numbers, those that are alike once."""

    def __init__(self) -> None:
        self.values: list[list[float | int | None]] = []
        self._places: dict[bytes, int] = {}

    def add(self, column: np.ndarray) -> int:
        """The position of a column, which is added where it is not there yet."""
        rounded = _rounded(np.asarray(column, np.float64))
        place = self._places.setdefault(rounded.tobytes(), len(self.values))
        if place == len(self.values):
            self.values.append(_plain(rounded))
        return place

    def add_some(self, shown: Shown, column: np.ndarray | None) -> int | None:
        """The position of the shown cases' part of a column of all cases; None without one."""
        return None if column is None else self.add(column[shown.cases])


def _rounded(column: np.ndarray) -> np.ndarray:
    """To five digits, NaN for what is no number; a whole number keeps all of its own."""
    known = np.isfinite(column)
    size = np.abs(np.where(known & (column != 0), column, 1.0))
    factor = 10.0 ** np.clip(DIGITS - 1 - np.floor(np.log10(size)), 0, 22)  # powers of ten that are exact
    return np.where(known, np.round(np.where(known, column, 0) * factor) / factor, np.nan)


def _plain(column: np.ndarray) -> list[float | int | None]:
    """For JSON: whole numbers without a point, None for NaN."""
    known = np.isfinite(column)
    if (column[known] == np.floor(column[known])).all() and (np.abs(column[known]) < 2**53).all():
        whole = np.where(known, column, 0).astype(np.int64).tolist()
        return whole if known.all() else [value if there else None for value, there in zip(whole, known, strict=True)]
    return [value if value == value else None for value in column.tolist()]


def coded(column: pd.Series) -> dict[str, Any]:
    """Text as `names` and a number for each case, −1 where missing."""
    codes, names = pd.factorize(column, sort=True)
    return {"names": [str(name) for name in names], "codes": codes.tolist()}
