"""How a cohort lies in its store: which arrays there are, and how cases become rows of them.

`image` (case, channel, y, x) and `mask` (case, lesion, y, x), one case a chunk; a column (case,) for all that the
row of a case in the table holds; the names of channels and lesions; the group `quarantine`; under `maps/` a group for
each set of maps. How many cases there are is the length of the columns, written in the same transaction as the pixels:
a chunk that is missing would read as 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from storage import engine
from storage.case import Case
from storage.errors import CohortError
from storage.splits import Fractions, checked_fractions

FORMAT = 1
ATTRIBUTE = "lesionflow"
COLUMNS = {
    **dict.fromkeys(("case_id", "patient_id", "split", "file", "sha256"), "string"),
    **dict.fromkeys(("spacing_y_mm", "spacing_x_mm"), "float64"),
    **dict.fromkeys(("crop_top", "crop_left", "crop_height", "crop_width"), "int32"),
    "has_masks": "bool",
}
QUARANTINE = dict.fromkeys(("file", "sha256", "reason"), "string")
TAKEN = {*COLUMNS, "image", "mask", "channel", "lesion", "case", "y", "x", "quarantine", "maps"}


@dataclass(frozen=True)
class Layout:
    """What all cases of a cohort share; `size` is the grid's side in pixels."""

    size: int
    channels: tuple[str, ...]
    dtype: str
    lesions: tuple[str, ...]
    labels: tuple[str, ...]
    fractions: Fractions
    source: str


def read_layout(group: engine.Group) -> Layout | None:
    """The layout of a cohort, or None where `group` is not the root of one; CohortError for one of a later format."""
    stored: Any = group.attrs.get(ATTRIBUTE)
    if stored is None:
        return None
    if stored["format"] != FORMAT:
        raise CohortError(
            f"the cohort has format {stored['format']}, this lesionflow reads {FORMAT}; update lesionflow"
        )
    return Layout(
        size=int(stored["size"]),
        channels=tuple(stored["channels"]),
        dtype=str(stored["dtype"]),
        lesions=tuple(stored["lesions"]),
        labels=tuple(stored["labels"]),
        fractions=checked_fractions(stored["fractions"]),
        source=str(stored["source"]),
    )


def lay_out(group: engine.Group, layout: Layout) -> None:
    """Make the empty arrays of a cohort in an empty store."""
    for label in layout.labels:
        _check_label(label)
    square = (layout.size, layout.size)
    engine.add_rows(group, "image", (len(layout.channels), *square), layout.dtype, ("channel", "y", "x"), together=1)
    engine.add_columns(group, {**COLUMNS, **dict.fromkeys(layout.labels, "float64")})
    engine.add_columns(group, {"channel": "string"}, dim="channel")
    engine.rewrite_columns(group, pd.DataFrame({"channel": layout.channels}))
    if layout.lesions:
        engine.add_rows(group, "mask", (len(layout.lesions), *square), "bool", ("lesion", "y", "x"), together=1)
        engine.add_columns(group, {"lesion": "string"}, dim="lesion")
        engine.rewrite_columns(group, pd.DataFrame({"lesion": layout.lesions}))
    engine.add_columns(group.create_group("quarantine"), QUARANTINE, dim="file")
    group.attrs[ATTRIBUTE] = {"format": FORMAT, **asdict(layout)}


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
    shape = (len(layout.channels), layout.size, layout.size)
    if case.image.shape != shape or str(case.image.dtype) != layout.dtype:
        raise CohortError(
            f"case '{case.case_id}' is {case.image.dtype} {case.image.shape}; the cohort holds {layout.dtype} {shape}"
        )
    for kind, given, known in (
        ("label", case.labels, layout.labels),
        ("lesion class", case.masks or {}, layout.lesions),
    ):
        if unknown := sorted(set(given) - set(known)):
            raise CohortError(
                f"case '{case.case_id}' has {kind} '{unknown[0]}'; the cohort has only: {', '.join(known) or 'none'}"
            )


def rows_of(cases: Sequence[Case], splits: Sequence[str], layout: Layout) -> pd.DataFrame:
    """The rows of the table for new cases."""
    rows = [
        (
            *(case.case_id, case.patient_id, split, case.file, case.sha256),
            *(*case.spacing_mm, *case.crop, case.masks is not None),
            *(float(case.labels.get(label, np.nan)) for label in layout.labels),
        )
        for case, split in zip(cases, splits, strict=True)
    ]
    kinds = {name: "str" if kind == "string" else kind for name, kind in COLUMNS.items()}
    columns = [*kinds, *layout.labels]
    return pd.DataFrame(rows, columns=columns).astype({**kinds, **dict.fromkeys(layout.labels, "float64")})


def append_cases(group: engine.Group, cases: Sequence[Case], rows: pd.DataFrame, layout: Layout) -> None:
    """Write new cases after those that are there."""
    if not cases:
        return
    engine.append_columns(group, rows)
    engine.append(engine.array_of(group, "image"), np.stack([case.image for case in cases]))
    if layout.lesions:
        engine.append(engine.array_of(group, "mask"), np.stack([_mask_stack(case, layout) for case in cases]))


def _mask_stack(case: Case, layout: Layout) -> np.ndarray:
    """(L, H, W) bool; a chunk of nothing but False takes no room in the store."""
    stack = np.zeros((len(layout.lesions), layout.size, layout.size), bool)
    for lesion, mask in (case.masks or {}).items():
        stack[layout.lesions.index(lesion)] = mask
    return stack


def write_labels(group: engine.Group, corrections: Mapping[int, Mapping[str, float]]) -> None:
    """Replace the labels of cases."""
    for index, labels in corrections.items():
        for label, value in labels.items():
            engine.array_of(group, label)[index] = value


def with_labels(table: pd.DataFrame, corrections: Mapping[int, Mapping[str, float]]) -> pd.DataFrame:
    """`table` with the labels of some cases replaced."""
    corrected = table.copy() if corrections else table
    for index, labels in corrections.items():
        for label, value in labels.items():
            corrected.loc[index, label] = value
    return corrected
