"""Plain Zarr v3: a cohort as a store that xarray reads without lesionflow.

A shared grid: `xarray.open_zarr(OUT)` gives `image` (case, channel, …), `mask` (case, lesion, …), a coordinate for each
column of the table and a variable for each label; `xarray.open_datatree(OUT, engine="zarr")` has the maps as well, one
group a set, NaN for cases without a map. Ragged: a group a case, `cases/<name>`, with `image`, `mask`, and its maps
below; the root has the table. Copied case by case, so memory holds one case.
"""

import shutil
import uuid
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from storage import engine
from storage.cohort import Cohort
from storage.errors import CohortError
from storage.export.content import Content, maps_of, masks_of
from storage.export.delivery import safe_names, writing

MARK = "lesionflow_export"
BLOCK = 1 << 20
Advance = Callable[[int, str], None]


def export_zarr(
    cohort: Cohort,
    out: Path,
    cases: Sequence[int] | None = None,
    content: Content | None = None,
    advance: Advance = lambda done, note: None,
    key: str = "",
) -> bool:
    """Write `cases` (default: all) with masks and maps as the store `out`; False where it holds just this already.

    The store appears whole, in place of an older export. `key` tells from what it is made.

    Raises:
        CohortError: `out` is something else, or cannot be written.
    """
    if out.exists() and not _is_export(out):
        raise CohortError(f"{out} is no export of a cohort; name a new folder")
    if key and out.exists() and zarr.open_group(out, mode="r").attrs.get(MARK) == key:
        return False
    chosen = range(len(cohort)) if cases is None else [int(case) for case in cases]
    partial = out.with_name(f".{out.name}-{uuid.uuid4().hex[:12]}.partial")
    with writing(out):
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            _write_store(cohort, partial, chosen, content or _everything(cohort), advance, key)
            _take_place(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return True


def _is_export(out: Path) -> bool:
    try:
        return MARK in zarr.open_group(out, mode="r").attrs
    except (FileNotFoundError, ValueError, OSError):
        return False


def _take_place(partial: Path, out: Path) -> None:
    """Only an empty folder can be replaced by one, so an older export steps aside first."""
    aside = partial.with_suffix(".old")
    if out.exists():
        out.rename(aside)
    partial.rename(out)
    shutil.rmtree(aside, ignore_errors=True)


def _everything(cohort: Cohort) -> Content:
    lesions = dict(zip(safe_names(cohort.lesions), cohort.lesions, strict=True))
    return Content(lesions=lesions, maps={name: name for name in cohort.map_names()})


def _write_store(
    cohort: Cohort, path: Path, cases: Sequence[int], content: Content, advance: Advance, key: str
) -> None:
    root = zarr.open_group(path, mode="w", zarr_format=3)
    root.attrs[MARK] = key
    _write_table(root, cohort, cohort.table.iloc[list(cases)])
    if cohort.grid is None:
        _write_ragged(root, cohort, cases, content, advance)
    else:
        _write_stacked(root, cohort, cases, content, advance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr says that v3 has no consolidated metadata yet; xarray reads it
        zarr.consolidate_metadata(root.store)


def _write_table(root: zarr.Group, cohort: Cohort, table: pd.DataFrame) -> None:
    """The columns; all but the labels are coordinates, and so are the names of channels and lesions."""
    columns = {str(name): table[name] for name in table.columns}
    for name, column in columns.items():
        kind = column.dtype.kind if getattr(column.dtype, "kind", "O") in "fiub" else "T"
        _write_column(root, name, column.to_numpy() if kind != "T" else _texts(column), "case")
    root.attrs["coordinates"] = " ".join(name for name in columns if name not in cohort.labels)
    root.attrs["snapshot"] = cohort.snapshot


def _write_column(group: zarr.Group, name: str, values: np.ndarray, dim: str) -> None:
    kind = "string" if values.dtype.kind == "O" else values.dtype.str
    array = group.create_array(
        name, shape=values.shape, chunks=(max(1, len(values)),), dtype=kind, dimension_names=(dim,)
    )
    array[...] = values


def _texts(values: Any) -> np.ndarray:
    return np.array([str(value) for value in values], dtype=object)


def _write_stacked(root: zarr.Group, cohort: Cohort, cases: Sequence[int], content: Content, advance: Advance) -> None:
    shape = tuple(cohort.grid or ())
    image = _rows(root, "image", len(cases), (len(cohort.channels), *shape), cohort.dtype, ("channel", *cohort.dims))
    _write_column(root, "channel", _texts(cohort.channels), "channel")
    mask = None
    if content.lesions:
        mask = _rows(root, "mask", len(cases), (len(content.lesions), *shape), "bool", ("lesion", *cohort.dims))
        _write_column(root, "lesion", _texts(content.lesions.values()), "lesion")
    maps = {name: _map_rows(root, maps, len(cases), shape, cohort.dims) for name, maps in content.maps.items()}
    for row, case in enumerate(cases):
        image[row] = cohort.image(case)
        if mask is not None:
            for place, (_, one) in enumerate(masks_of(cohort, case, content)):
                mask[row, place] = one
        for name, saliency in maps_of(cohort, case, content):
            maps[name][row] = saliency
        advance(1, "")


def _rows(
    group: zarr.Group, name: str, count: int, shape: Sequence[int], dtype: Any, dims: Sequence[str], fill: Any = 0
) -> engine.Array:
    """Empty rows; what is not written shows `fill` and takes no room."""
    return group.create_array(
        name,
        shape=(count, *shape),
        chunks=(1, *_block(shape, np.dtype(dtype).itemsize)),
        dtype=dtype,
        fill_value=fill,
        compressors=engine.COMPRESSOR,
        dimension_names=("case", *dims),
    )


def _map_rows(root: zarr.Group, name: str, count: int, shape: Sequence[int], dims: Sequence[str]) -> engine.Array:
    return _rows(root.create_group(f"maps/{name}"), "saliency", count, shape, "float32", dims, np.nan)


def _block(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """`shape` halved along its longest axis until it holds a megabyte; a picture stays whole up to 4."""
    block = [max(1, side) for side in shape]
    limit = BLOCK if len(shape) > 3 else 4 * BLOCK
    while int(np.prod(block)) * itemsize > limit:
        longest = int(np.argmax(block))
        block[longest] = -(-block[longest] // 2)
    return tuple(block)


def _write_ragged(root: zarr.Group, cohort: Cohort, cases: Sequence[int], content: Content, advance: Advance) -> None:
    """A group a case, named as its files would be; column `zarr_group` of the root says which."""
    names = safe_names([str(cohort.table["case_id"].iloc[case]) for case in cases])
    _write_column(root, "zarr_group", _texts(f"cases/{name}" for name in names), "case")
    root.attrs["coordinates"] = f"{root.attrs['coordinates']} zarr_group"
    for name, case in zip(names, cases, strict=True):
        group = root.create_group(f"cases/{name}")
        row = cohort.table.iloc[case]
        spacing = {f"spacing_{axis}_mm": float(row[f"spacing_{axis}_mm"]) for axis in cohort.dims}
        affine = cohort.geometry(case).grid.affine
        group.attrs.update({"case_id": str(row["case_id"]), **_known(spacing), "affine_ras": affine})
        _write_column(group, "channel", _texts(cohort.channels), "channel")
        _write_array(group, "image", cohort.image(case), ("channel", *cohort.dims))
        if masks := [mask for _, mask in masks_of(cohort, case, content)]:
            _write_column(group, "lesion", _texts(content.lesions.values()), "lesion")
            _write_array(group, "mask", np.stack(masks), ("lesion", *cohort.dims))
        for map_name, saliency in maps_of(cohort, case, content):
            maps = group.create_group(f"maps/{content.maps[map_name]}")
            _write_array(maps, "saliency", saliency, cohort.dims)
        advance(1, "")


def _known(numbers: dict[str, float]) -> dict[str, float]:
    """JSON has no word for NaN."""
    return {name: value for name, value in numbers.items() if np.isfinite(value)}


def _write_array(group: zarr.Group, name: str, values: np.ndarray, dims: Sequence[str]) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=_block(values.shape, values.dtype.itemsize),
        dtype=values.dtype,
        compressors=engine.COMPRESSOR,
        dimension_names=tuple(dims),
    )
    array[...] = values
