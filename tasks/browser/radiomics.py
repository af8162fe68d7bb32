"""Lesions in numbers: the tables that `radiomics` has written for a cohort, read a case at a time."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from tasks.browser.cohorts import Shown
from tasks.browser.records import Record, records

TRUTH = "masks"
ATTRIBUTES = b"PANDAS_ATTRS"
COLUMNS = {  # of IBSI's features those that tell lesions apart at a glance
    "lesion": "lesion",
    "lesion_class": "class",
    "n_pixels": "pixels",
    "area": "area",
    "morph_pca_maj_axis": "length",
    "morph_pca_elongation": "elongation",
    "stat_mean": "mean",
    "stat_cov": "variation",
    "ih_entropy": "entropy",
    "cm_contrast_2D_comb": "contrast",
}


@dataclass(frozen=True)
class Features:
    """A table of lesions: its file as it was at a moment, and where a found lesion begins."""

    file: str
    moment: int
    threshold: float | None


def features_by_region(shown: Shown) -> dict[str, Features]:
    """The newest table of each map set, and of the annotated lesions as `masks`."""
    found: dict[str, Features] = {}
    for record in records("radiomics"):
        regions, file = str(record.answer.get("regions")), _parquet(record)
        if file and regions not in found and _belongs(shown, record, file):
            found[regions] = Features(file, record.moment, record.answer.get("threshold"))
    return found


def lesion_rows(features: Features, case_id: str) -> pd.DataFrame:
    """The rows of a case: the columns of COLUMNS that the table has, and where lesions lie."""
    known = pq.read_schema(features.file).names
    wanted = [name for name in [*COLUMNS, "centroid_y", "centroid_x", "units"] if name in known]
    return pd.read_parquet(features.file, columns=wanted, filters=[("case_id", "==", case_id)])


@lru_cache(maxsize=32)
def lesion_pixels(features: Features) -> pd.Series:
    """Pixels in lesions by case id, from the rows of whole cases."""
    rows = pd.read_parquet(features.file, columns=["case_id", "n_pixels"], filters=[("lesion", "==", 0)])
    return rows.drop_duplicates("case_id").set_index("case_id")["n_pixels"]


def lesion_load(shown: Shown, features: Features | None) -> np.ndarray | None:
    """The share of each case's pixels that lies in lesions, NaN where unknown; None without a table."""
    if features is None or len(shown.cohort.dims) != 2:
        return None
    sizes = shown.cohort.table[["size_y", "size_x"]].to_numpy(np.float64).prod(axis=1)
    return np.asarray(lesion_pixels(features).reindex(shown.case_ids).to_numpy(np.float64) / sizes)


def _parquet(record: Record) -> str:
    """The table that a record names, if it is still there."""
    return next((file for file in record.files if file.endswith(".parquet") and Path(file).exists()), "")


def _belongs(shown: Shown, record: Record, file: str) -> bool:
    """Whether the table was made of a state of this cohort."""
    return _attributes(file, record.moment).get("snapshot") in shown.snapshots


@lru_cache(maxsize=256)
def _attributes(file: str, _moment: int) -> dict[str, Any]:
    try:
        return dict(json.loads((pq.read_schema(file).metadata or {})[ATTRIBUTES]))
    except (OSError, KeyError, ValueError):
        return {}
