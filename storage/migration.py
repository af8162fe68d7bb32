"""Cohorts of older formats brought up to date, in one transaction each.

Format 1 (lesionflow 0.1): pictures of one square grid, with the cut in four columns and no digests.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from storage import engine, layout
from storage.errors import CohortError
from storage.geometry import Crop, Geometry, Grid, Resample
from storage.layout import ATTRIBUTE, Layout, digest
from storage.maps import Maps, map_names, record_maps
from storage.rows import rows_of

TOGETHER = 64  # rows in memory at once
CUT = ("crop_top", "crop_left", "crop_height", "crop_width")


def migrate(path: str) -> bool:
    """Bring the cohort at `path` to the format of this lesionflow; whether there was anything to do.

    Snapshots of the past stay as they are. CohortError for a format that is later than this lesionflow.
    """
    repository, migrated = engine.open_repository(path), False

    def change(group: engine.Group, base: str) -> str | None:
        nonlocal migrated
        stored: Any = group.attrs.get(ATTRIBUTE)
        if stored is None or stored["format"] == layout.FORMAT:
            return None
        if stored["format"] != 1:
            raise CohortError(f"{path} has format {stored['format']}, this lesionflow knows 1 and {layout.FORMAT}")
        _from_format_1(engine.read_group(repository, path, base), group, stored)
        migrated = True
        return f"format 1 brought to {layout.FORMAT}"

    engine.transact(repository, path, change)
    return migrated


def _from_format_1(old: engine.Group, group: engine.Group, stored: dict[str, Any]) -> None:
    """Write all of `old` anew: format 1 had no checksums in its chunks, so that a flipped bit was read as a pixel."""
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
    for name in list(group.keys()):
        del group[name]
    layout.lay_out(group, shared)
    kept = [name for name in layout.COLUMNS if name in old]
    known = engine.read_columns(old, [*kept, *CUT, *shared.labels])
    fresh = _columns(old, known, shared)
    engine.append_columns(group, pd.concat([known.drop(columns=list(CUT)), fresh], axis=1))
    for name in ("image", "mask") if shared.lesions else ("image",):
        for rows in _batches(range(len(known))):
            rows_of(group, name).append(rows.start, [rows_of(old, name).read(row) for row in rows])
    engine.rewrite_columns(engine.subgroup(group, "quarantine"), layout.read_quarantine(old))
    for name in map_names(old):
        _copy_maps(Maps(name, old), group, shared)


def _copy_maps(maps: Maps, group: engine.Group, shared: Layout) -> None:
    for places in _batches(range(len(maps))):
        cases = maps.indices[places.start : places.stop]
        arrays = {name: np.stack([maps.array(name, case) for case in cases]) for name in maps.array_names}
        saliency = np.stack([maps.saliency(case) for case in cases])
        record_maps(group, maps.name, cases, saliency, maps.table.loc[cases], arrays, maps.attrs, shared.dims, False)


def _batches(rows: range) -> Iterator[range]:
    return (rows[start : start + TOGETHER] for start in range(0, len(rows), TOGETHER))


def _columns(group: engine.Group, known: pd.DataFrame, shared: Layout) -> pd.DataFrame:
    """The columns that format 1 lacks; every image is read for its digest."""
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
