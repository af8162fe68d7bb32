"""Cohorts of older formats brought up to date, in one transaction each.

Format 1 (lesionflow 0.1): pictures of one square grid, with the cut in four columns and no digests.
"""

import json
from typing import Any

import numpy as np
import pandas as pd

from storage import engine, layout
from storage.errors import CohortError
from storage.geometry import Crop, Geometry, Grid, Resample
from storage.layout import ATTRIBUTE, ORIGINS, Layout, digest
from storage.rows import rows_of

CUT = ("crop_top", "crop_left", "crop_height", "crop_width")


def migrate(path: str) -> bool:
    """Bring the cohort at `path` to the format of this lesionflow; whether there was anything to do.

    Snapshots of the past stay as they are. CohortError for a format that is later than this lesionflow.
    """
    repository, migrated = engine.open_repository(path), False

    def change(group: engine.Group, _: str) -> str | None:
        nonlocal migrated
        stored: Any = group.attrs.get(ATTRIBUTE)
        if stored is None or stored["format"] == layout.FORMAT:
            return None
        if stored["format"] != 1:
            raise CohortError(f"{path} has format {stored['format']}, this lesionflow knows 1 and {layout.FORMAT}")
        _from_format_1(group, stored)
        migrated = True
        return f"format 1 brought to {layout.FORMAT}"

    engine.transact(repository, path, change)
    return migrated


def _from_format_1(group: engine.Group, stored: dict[str, Any]) -> None:
    """Add what format 2 has beyond format 1, and put the geometry in place of the cut."""
    size = int(stored["size"])
    shared = Layout(
        grid=(size, size),
        dims=("y", "x"),
        channels=tuple(stored["channels"]),
        dtype=stored["dtype"],
        lesions=tuple(stored["lesions"]),
        labels=tuple(stored["labels"]),
        fractions=tuple(stored["fractions"]),
    )
    known = engine.read_columns(group, ["spacing_y_mm", "spacing_x_mm", "has_masks", *CUT])
    fresh = _columns(group, known, shared)
    engine.add_columns(group, {name: layout.COLUMNS[name] for name in fresh.columns})
    engine.append_columns(group, fresh)
    for name in CUT:
        del group[name]
    group.attrs[ATTRIBUTE] = layout.described(shared)
    group.attrs[ORIGINS] = {}


def _columns(group: engine.Group, known: pd.DataFrame, shared: Layout) -> pd.DataFrame:
    """The columns that format 1 lacks; every image is read once for its digest."""
    images, size = rows_of(group, "image"), (shared.grid or (1,))[0]
    masks = rows_of(group, "mask") if shared.lesions else None
    count = len(known)
    return pd.DataFrame(
        {
            "stamp": [""] * count,
            "spacing_z_mm": np.full(count, np.nan),
            "size_z": np.ones(count, np.int32),
            "size_y": np.full(count, size, np.int32),
            "size_x": np.full(count, size, np.int32),
            "image_digest": [digest(images.read(row)) for row in range(count)],
            "mask_digest": [_mask_digest(masks, row, bool(known["has_masks"].iat[row]), size) for row in range(count)],
            "geometry": [_geometry(row, size).to_json() for _, row in known.iterrows()],
            "acquisition": [json.dumps({})] * count,
        }
    )


def _mask_digest(masks: Any, row: int, annotated: bool, size: int) -> str:
    if not annotated:
        return ""
    return digest(np.zeros((0, size, size), bool) if masks is None else masks.read(row))


def _geometry(row: "pd.Series[Any]", size: int) -> Geometry:
    """The cut and the grid; format 1 did not keep how far the photograph reaches beyond the cut."""
    top, left, height, width = (int(row[name]) for name in CUT)
    spacing = (float(row["spacing_y_mm"]), float(row["spacing_x_mm"]))
    if (top, left, height, width) == (0, 0, size, size):
        return Geometry(Grid((size, size), spacing))
    scale = (height / size, width / size)
    source = Grid((max(1, top + height), max(1, left + width)), (spacing[0] / scale[0], spacing[1] / scale[1]))
    return Geometry(source, (Crop((top, left), (height, width)), Resample((size, size), scale, "area")))
