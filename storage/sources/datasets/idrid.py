"""IDRiD: retinal photographs with lesion masks (segmentation part) or with grades (grading part).

Porwal et al., Data 2018;3(3):25. Also read: `images/` with `masks/` or `labels.csv`, as smaller copies of it have.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from storage.sources.datasets.layout import Photograph, columns_of, holds, photographs, unlike
from storage.sources.label_table import LabelColumns, Row, read_label_table
from storage.sources.listing import files_below
from storage.sources.photographs.folder import Photographs, open_photographs

LESIONS = ("EX", "HE", "MA", "SE")  # OD, the optic disc, is none; --lesions EX,HE,MA,SE,OD takes it along
IMAGES, MASKS = "1. Original Images", "2. All Segmentation Groundtruths"
GRADES = {"grade": "Retinopathy grade", "macular_edema": "Risk of macular edema"}
LAYOUT = (
    f"'{IMAGES}/a. Training Set/IDRiD_01.jpg' with '{MASKS}/a. Training Set/1. Microaneurysms/IDRiD_01_MA.tif' or "
    "'2. Groundtruths/a. IDRiD_Disease Grading_Training Labels.csv'"
)


def is_idrid(folder: Path) -> bool:
    """Whether `folder` has the layout of either part, or of a copy."""
    return holds(folder / IMAGES, "*/IDRiD_*.jpg") or _is_lesion_copy(folder) or _is_grade_copy(folder)


def open_idrid(
    address: str, *, size: int = 512, crop: bool = True, lesions: Sequence[str] | None = None
) -> Photographs:
    """Either part of IDRiD with its own splits: masks of `lesions`, or the labels `grade` and `macular_edema`.

    Each photograph is a patient: IDRiD does not say whose eyes belong together. SourceError for another layout.
    """
    folder, classes = Path(address), tuple(lesions or LESIONS)
    if holds(folder / IMAGES, "*/IDRiD_*.jpg"):
        return _original(folder, size, crop, classes)
    if _is_lesion_copy(folder):
        table = folder / "lesion_pixels.csv"
        split = "idrid_split" if "idrid_split" in columns_of(table) else None
        copy = open_photographs(
            str(folder / "images"),
            size=size,
            crop=crop,
            masks=folder / "masks",
            lesions=classes,
            labels=table if split else None,
            file_column="image",
            split_column=split,
        )
        return replace(copy, name="idrid")
    if not _is_grade_copy(folder):
        raise unlike(folder, "IDRiD", LAYOUT)
    graded = open_photographs(
        str(folder / "images"),
        size=size,
        crop=crop,
        labels=folder / "labels.csv",
        label={"grade": "dr_grade", "macular_edema": "macular_edema_risk"},
        split_column="idrid_split",
    )
    return replace(graded, name="idrid")


def _is_lesion_copy(folder: Path) -> bool:
    return holds(folder / "images", "IDRiD_*.jpg") and holds(folder / "masks", "IDRiD_*_??.png")


def _is_grade_copy(folder: Path) -> bool:
    return {"dr_grade", "macular_edema_risk", "idrid_split"} <= set(columns_of(folder / "labels.csv"))


def _original(folder: Path, size: int, crop: bool, lesions: Sequence[str]) -> Photographs:
    files = [f"{IMAGES}/{file}" for file in files_below(folder / IMAGES, (".jpg",))]
    masks = _masks(folder)
    found = [Photograph(file, _case(file), _split(file), masks.get(_case(file), {})) for file in files]
    rows = dict[str, Row]()
    for table in sorted(folder.glob("2. Groundtruths/*.csv")):
        of_split = [file for file in files if _split(file) == _split(table.name)]
        rows |= read_label_table(table, LabelColumns("Image name", GRADES), of_split) if of_split else {}
    annotated = bool(masks)
    return photographs(
        "idrid",
        folder,
        found,
        rows,
        labels=tuple(GRADES) if rows else (),
        lesions=lesions if annotated else (),
        size=size,
        crop=crop,
    )


def _masks(folder: Path) -> dict[str, dict[str, str]]:
    """Mask files by case and class, relative to `folder`."""
    found: dict[str, dict[str, str]] = {}
    for file in files_below(folder / MASKS, (".tif", ".tiff")):
        if match := re.search(r"/(IDRiD_\d+)_([A-Z]{2})\.tiff?$", file):
            found.setdefault(f"{_split(file)}/{match[1]}", {})[match[2]] = f"{MASKS}/{file}"
    return found


def _split(path: str) -> str:
    """Of 'a. Training Set' and 'a. IDRiD_Disease Grading_Training Labels.csv'."""
    return "train" if "Training" in path else "test"


def _case(file: str) -> str:
    """Numbers begin anew in the test part of the grading part."""
    return f"{_split(file)}/{Path(file).stem}"
