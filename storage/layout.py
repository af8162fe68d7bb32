"""How a cohort lies in its store: which arrays there are, and how cases become rows of them.

`image` and `mask`: a row a case (`storage.rows`), stacked where all cases share a grid, else an array each; a column
(case,) for all that the row of a case in the table holds; the names of channels and lesions; the group `quarantine`;
under `maps/` a group for each set of maps. How many cases there are is the length of the columns, written in the same
transaction as the pixels: a chunk that is missing would read as 0.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from storage import engine
from storage.case import Case
from storage.errors import CohortError
from storage.rows import add_ragged, add_stacked, rows_of
from storage.splits import Fractions, checked_fractions

FORMAT = 2
ATTRIBUTE = "lesionflow"
ORIGINS = "origins"
AXES = ("z", "y", "x")
COLUMNS = {
    **dict.fromkeys(("case_id", "patient_id", "split", "file", "sha256", "stamp"), "string"),
    **{f"spacing_{axis}_mm": "float64" for axis in AXES},
    **{f"size_{axis}": "int32" for axis in AXES},
    "has_masks": "bool",
    **dict.fromkeys(("image_digest", "mask_digest", "geometry", "acquisition"), "string"),
}
QUARANTINE = dict.fromkeys(("file", "sha256", "reason"), "string")
TAKEN = {*COLUMNS, *AXES, "image", "mask", "channel", "lesion", "case", "quarantine", "maps"}


@dataclass(frozen=True)
class Layout:
    """What all cases of a cohort share; `grid` is None where each case has its own."""

    grid: tuple[int, ...] | None
    dims: tuple[str, ...]
    channels: tuple[str, ...]
    dtype: str
    lesions: tuple[str, ...]
    labels: tuple[str, ...]
    fractions: Fractions


@dataclass
class Corrections:
    """What is now known better of cases that are there, by their row."""

    labels: dict[int, dict[str, float]] = field(default_factory=dict)
    masks: dict[int, dict[str, np.ndarray] | None] = field(default_factory=dict)
    images: dict[int, np.ndarray] = field(default_factory=dict)
    stamps: dict[int, str] = field(default_factory=dict)

    @property
    def updated(self) -> int:
        """Cases whose content changes; a new stamp alone is none."""
        return len({*self.labels, *self.masks, *self.images})


def read_layout(group: engine.Group) -> Layout | None:
    """The layout of a cohort, or None where `group` is not the root of one; CohortError for one of another format."""
    stored: Any = group.attrs.get(ATTRIBUTE)
    if stored is None:
        return None
    if stored["format"] != FORMAT:
        raise CohortError(_OTHER_FORMAT[stored["format"] < FORMAT].format(stored["format"], FORMAT))
    return Layout(
        grid=None if stored["grid"] is None else tuple(stored["grid"]),
        dims=tuple(stored["dims"]),
        channels=tuple(stored["channels"]),
        dtype=str(stored["dtype"]),
        lesions=tuple(stored["lesions"]),
        labels=tuple(stored["labels"]),
        fractions=checked_fractions(stored["fractions"]),
    )


_OTHER_FORMAT = {
    True: "the cohort has format {}, this lesionflow {}; `lesionflow check COHORT --repair` brings it up to date",
    False: "the cohort has format {}, this lesionflow reads {}; update lesionflow",
}


def lay_out(group: engine.Group, layout: Layout) -> None:
    """Make the empty arrays of a cohort in an empty store."""
    for label in layout.labels:
        _check_label(label)
    if set(layout.dims) - set(AXES) or (layout.grid is not None and len(layout.grid) != len(layout.dims)):
        raise CohortError(
            f"a grid of {layout.grid} has no axes {', '.join(layout.dims)}; (y, x) or (z, y, x) are meant"
        )
    add_case_rows(group, "image", ("channel", layout.channels), layout.dtype, layout)
    engine.add_columns(group, {**COLUMNS, **dict.fromkeys(layout.labels, "float64")})
    if layout.lesions:
        add_case_rows(group, "mask", ("lesion", layout.lesions), "bool", layout)
    engine.add_columns(group.create_group("quarantine"), QUARANTINE, dim="file")
    group.attrs[ATTRIBUTE] = described(layout)
    group.attrs[ORIGINS] = []


def add_case_rows(group: engine.Group, name: str, first: tuple[str, Sequence[str]], dtype: str, layout: Layout) -> None:
    """Empty rows of `name` with a first axis of these names, and the names themselves."""
    axis, names = first
    if layout.grid is None:
        add_ragged(group, name, dtype, (axis, *layout.dims))
    else:
        add_stacked(group, name, (len(names), *layout.grid), dtype, (axis, *layout.dims))
    engine.add_columns(group, {axis: "string"}, dim=axis)
    engine.rewrite_columns(group, pd.DataFrame({axis: names}))


def described(layout: Layout) -> dict[str, Any]:
    """The layout as the store keeps it."""
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(layout).items()}
    return {"format": FORMAT, **lists}


def _check_label(label: str) -> None:
    if label in TAKEN or not label or "/" in label or label.startswith((".", "__")):
        raise CohortError(f"a label cannot be called '{label}'; choose another NAME in --label NAME=COLUMN")


def read_table(group: engine.Group, layout: Layout) -> pd.DataFrame:
    """A row a case: the columns of COLUMNS and a column a label."""
    return engine.read_columns(group, [*COLUMNS, *layout.labels])


def read_quarantine(group: engine.Group) -> pd.DataFrame:
    """The files that were set aside: file, sha256, reason."""
    return engine.read_columns(engine.subgroup(group, "quarantine"), list(QUARANTINE))


def check_fits(case: Case, layout: Layout) -> None:
    """CohortError where `case` has another grid, dtype, label or lesion class than the cohort."""
    shape = case.image.shape
    lead = (len(layout.channels), *(shape[1:] if layout.grid is None else layout.grid))
    if shape != lead or len(shape) != 1 + len(layout.dims) or str(case.image.dtype) != layout.dtype:
        held = lead if layout.grid else f"({len(layout.channels)}, {', '.join(layout.dims)})"
        raise CohortError(
            f"case '{case.case_id}' is {case.image.dtype} {shape}; the cohort holds {layout.dtype} {held}"
        )
    if case.geometry.grid.shape != shape[1:]:
        raise CohortError(f"case '{case.case_id}' has a geometry of {case.geometry.grid.shape} and pixels of {shape}")
    for kind, given, known in (
        ("label", case.labels, layout.labels),
        ("lesion class", case.masks or {}, layout.lesions),
    ):
        if unknown := sorted(set(given) - set(known)):
            raise CohortError(
                f"case '{case.case_id}' has {kind} '{unknown[0]}'; the cohort has only: {', '.join(known) or 'none'}"
            )


def rows_for(cases: Sequence[Case], splits: Sequence[str], layout: Layout) -> pd.DataFrame:
    """The rows of the table for new cases."""
    rows = [_row(case, split, layout) for case, split in zip(cases, splits, strict=True)]
    kinds = {name: "str" if kind == "string" else kind for name, kind in COLUMNS.items()}
    columns = [*kinds, *layout.labels]
    return pd.DataFrame(rows, columns=columns).astype({**kinds, **dict.fromkeys(layout.labels, "float64")})


def _row(case: Case, split: str, layout: Layout) -> tuple[Any, ...]:
    grid = case.geometry.grid
    flat = len(AXES) - len(grid.shape)
    return (
        *(case.case_id, case.patient_id, split, case.file, case.sha256, case.stamp),
        *([np.nan] * flat + list(grid.spacing_mm)),
        *([1] * flat + list(grid.shape)),
        case.masks is not None,
        *(digest(case.image), mask_digest(case.masks, grid.shape, layout)),
        *(case.geometry.to_json(), json.dumps(dict(case.acquisition), sort_keys=True)),
        *(float(case.labels.get(label, np.nan)) for label in layout.labels),
    )


def digest(pixels: np.ndarray) -> str:
    """SHA-256 of the values; two arrays of one shape and dtype have the same one iff they are equal."""
    return hashlib.sha256(np.ascontiguousarray(pixels).view(np.uint8).data).hexdigest()


def mask_digest(masks: Mapping[str, np.ndarray] | None, grid: Sequence[int], layout: Layout) -> str:
    """Digest of the masks of a case as the cohort keeps them; '' where nobody annotated it."""
    return "" if masks is None else digest(mask_stack(masks, grid, layout))


def append_cases(group: engine.Group, cases: Sequence[Case], rows: pd.DataFrame, layout: Layout) -> None:
    """Write new cases after those that are there."""
    if not cases:
        return
    first = engine.array_of(group, "case_id").shape[0]
    engine.append_columns(group, rows)
    rows_of(group, "image").append(first, [case.image for case in cases])
    if layout.lesions:
        stacks = [
            None if case.masks is None else mask_stack(case.masks, case.image.shape[1:], layout) for case in cases
        ]
        rows_of(group, "mask").append(first, stacks)


def mask_stack(masks: Mapping[str, np.ndarray], grid: Sequence[int], layout: Layout) -> np.ndarray:
    """(L, *grid) bool; a chunk of nothing but False takes no room in the store."""
    stack = np.zeros((len(layout.lesions), *grid), bool)
    for lesion, mask in masks.items():
        stack[layout.lesions.index(lesion)] = mask
    return stack


def correct(group: engine.Group, better: Corrections, layout: Layout) -> None:
    """Replace the labels, masks, pixels and stamps of cases."""
    for label in layout.labels:
        engine.replace_values(group, label, {row: said[label] for row, said in better.labels.items() if label in said})
    for row, masks in better.masks.items():
        grid = rows_of(group, "image").shape(row)[1:]
        rows_of(group, "mask").write(row, mask_stack(masks or {}, grid, layout))
        engine.replace_values(group, "has_masks", {row: masks is not None})
        engine.replace_values(group, "mask_digest", {row: mask_digest(masks, grid, layout)})
    for row, image in better.images.items():
        rows_of(group, "image").write(row, image)
    engine.replace_values(group, "image_digest", {row: digest(image) for row, image in better.images.items()})
    engine.replace_values(group, "stamp", better.stamps)
