"""OME-Zarr 0.5 (Zarr v3): an image a case, its masks as labels, its maps as images below it.

    <case>.ome.zarr/    0, 1, …  image (c, y, x) or (c, z, y, x), each level half as fine in y and x
        labels/<lesion>/         one label image a lesion class, 0 and 1: classes may overlap
        maps/<name>/             raw saliency, one channel

Scale and translation are in mm, the translation in DICOM's axes (left, back, up), which a canonical volume has.
OME-Zarr 0.5 knows no rotation: the whole affine stands under `lesionflow` in the attributes.
https://ngff.openmicroscopy.org/0.5
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from storage import engine
from storage.cohort import Cohort
from storage.export import display
from storage.export.content import Content, maps_of, masks_of
from storage.geometry import Grid

VERSION = "0.5"
SMALLEST, LEVELS = 64, 4  # a level follows while the longer side in the plane has more pixels than that
BLOCKS = {2: (1, 512, 512), 3: (1, 32, 128, 128)}  # about a megabyte
RED_GREEN_BLUE = ("FF0000", "00FF00", "0000FF")
LPS = np.diag([-1.0, -1.0, 1.0])

Halve = Callable[[np.ndarray], np.ndarray]


def write_ome_zarr(cohort: Cohort, case: int, folder: Path, content: Content) -> list[Path]:
    """Write a case as the new `folder`; its path."""
    grid = cohort.geometry(case).grid
    image = cohort.image(case)
    name = str(cohort.table["case_id"].iloc[case])
    root = zarr.open_group(folder, mode="w", zarr_format=3)
    channels = [
        _channel(cohort, place, *display.window(channel, image[place])) for place, channel in enumerate(cohort.channels)
    ]
    _write_image(root, image, grid, name, {"omero": {"channels": channels}})
    root.attrs["lesionflow"] = _facts(cohort, case, grid)
    _write_labels(root, cohort, case, content, grid)
    for map_name, saliency in maps_of(cohort, case, content):
        scale = content.scales[content.maps[map_name]]
        shown = _described(map_name, "FF8000", (0.0, scale), (float(saliency.min()), float(saliency.max())))
        group = root.create_group(f"maps/{map_name}")
        _write_image(group, saliency[None], grid, map_name, {"omero": {"channels": [shown]}})
        group.attrs["lesionflow"] = {"maps": content.maps[map_name]}
    return [folder]


def _facts(cohort: Cohort, case: int, grid: Grid) -> dict[str, Any]:
    """What OME-Zarr has no place for."""
    row = cohort.table.iloc[case]
    labels = {label: float(row[label]) for label in cohort.labels if np.isfinite(row[label])}
    return {"case_id": str(row["case_id"]), "split": str(row["split"]), "labels": labels, "affine_ras": grid.affine}


def _write_labels(root: zarr.Group, cohort: Cohort, case: int, content: Content, grid: Grid) -> None:
    """A label image for each lesion class; no group of labels for a case without masks."""
    names = []
    for place, (name, mask) in enumerate(masks_of(cohort, case, content)):
        colour = display.LESION_COLOURS[place % len(display.LESION_COLOURS)]
        said = {
            "colors": [{"label-value": 1, "rgba": [*colour, 255]}],
            "properties": [{"label-value": 1, "class": content.lesions[name]}],
            "source": {"image": "../../"},
        }
        group = root.create_group(f"labels/{name}")
        _write_image(group, mask.astype(np.uint8), grid, name, {"image-label": said}, _any_of_four)
        names.append(name)
    if names:
        root["labels"].attrs["ome"] = {"version": VERSION, "labels": names}


def _write_image(
    group: zarr.Group, pixels: np.ndarray, grid: Grid, name: str, more: dict[str, Any], halve: "Halve | None" = None
) -> None:
    """`pixels`, with or without a first axis of channels, as levels of a pyramid with their metadata."""
    spatial = ("z", "y", "x")[-len(grid.shape) :]
    axes = ("c", *spatial)[-pixels.ndim :]
    levels = _level_count(grid.shape)
    for level in range(levels):
        blocks = tuple(map(min, BLOCKS[len(spatial)][-pixels.ndim :], pixels.shape))
        array = group.create_array(
            str(level),
            shape=pixels.shape,
            chunks=blocks,
            dtype=pixels.dtype,
            compressors=engine.COMPRESSOR,
            dimension_names=axes,
        )
        array[...] = pixels
        if level + 1 < levels:
            pixels = (halve or _mean_of_four)(pixels)
    datasets = [
        {"path": str(level), "coordinateTransformations": _placed(grid, axes, level)} for level in range(levels)
    ]
    described: dict[str, Any] = {"name": name, "axes": [_axis(axis, grid) for axis in axes], "datasets": datasets}
    group.attrs["ome"] = {"version": VERSION, "multiscales": [described], **more}


def _level_count(shape: Sequence[int]) -> int:
    """How often the plane is worth halving, plus one."""
    longest, count = max(shape[-2:]), 1
    while longest > SMALLEST and count < LEVELS:
        longest, count = -(-longest // 2), count + 1
    return count


def _axis(name: str, grid: Grid) -> dict[str, str]:
    if name == "c":
        return {"name": name, "type": "channel"}
    known = {"unit": "millimeter"} if all(mm > 0 for mm in grid.spacing_mm) else {}
    return {"name": name, "type": "space", **known}


def _placed(grid: Grid, axes: Sequence[str], level: int) -> list[dict[str, Any]]:
    """Pixel size and place of the first pixel's centre; a halved pixel's centre lies between those it is made of."""
    spacing = [mm if mm > 0 else 1.0 for mm in grid.spacing_mm]
    steps = [1] * (len(spacing) - 2) + [2**level] * 2
    scale = [mm * step for mm, step in zip(spacing, steps, strict=True)]
    corner = zip(_origin(grid), spacing, steps, strict=True)
    origin = [first + mm * (step - 1) / 2 for first, mm, step in corner]
    lead = len(axes) - len(scale)
    return [
        {"type": "scale", "scale": [1.0] * lead + scale},
        {"type": "translation", "translation": [0.0] * lead + origin},
    ]


def _origin(grid: Grid) -> list[float]:
    """Where the first voxel lies along each axis, in mm to the left, to the back, or up; 0 where nobody knows."""
    if grid.affine is None:
        return [0.0] * len(grid.shape)
    affine = np.array(grid.affine, np.float64)
    directions, place = LPS @ affine[:3, :3], LPS @ affine[:3, 3]
    along = [int(np.abs(directions[:, column]).argmax()) for column in range(3)]
    return [float(place[axis]) for axis in along[: len(grid.shape)][::-1]]


def _paired(pixels: np.ndarray) -> np.ndarray:
    """(…, y/2, 2, x/2, 2), the last row and column doubled where they stand alone."""
    odd = [(0, 0)] * (pixels.ndim - 2) + [(0, side % 2) for side in pixels.shape[-2:]]
    even = np.pad(pixels, odd, mode="edge")
    *lead, height, width = even.shape
    return even.reshape(*lead, height // 2, 2, width // 2, 2)


def _mean_of_four(pixels: np.ndarray) -> np.ndarray:
    """Half as fine in y and x, same dtype."""
    means = _paired(pixels).mean(axis=(-3, -1), dtype=np.float64 if pixels.dtype == np.float64 else np.float32)
    rounded = means.round() if pixels.dtype.kind in "iu" else means
    return np.asarray(rounded.astype(pixels.dtype))


def _any_of_four(mask: np.ndarray) -> np.ndarray:
    """Half as fine in y and x; a lesion of one pixel stays, which the nearest of four would lose 3 times of 4."""
    return np.asarray(_paired(mask).max(axis=(-3, -1)))


def _channel(cohort: Cohort, place: int, low: float, high: float) -> dict[str, Any]:
    """How viewers show a channel at first."""
    colours = RED_GREEN_BLUE if cohort.channels == ("red", "green", "blue") else ("FFFFFF",)
    return _described(cohort.channels[place], colours[place % len(colours)], (low, high), (low, high))


def _described(label: str, colour: str, shown: tuple[float, float], extent: tuple[float, float]) -> dict[str, Any]:
    (low, high), (least, most) = shown, extent
    limits = {"start": low, "end": high, "min": min(low, least), "max": max(high, most)}
    return {"label": label, "color": colour, "active": True, "window": limits}
