"""ISIC 2017: dermoscopic photographs of skin lesions with diagnoses, and outlines of the lesion.

Codella et al., arXiv:1710.05006. Also read: `images/`, `masks/` and `labels.csv`, as smaller copies of it have.
"""

import re
from dataclasses import replace
from pathlib import Path

from storage.sources.datasets.layout import (
    PartlyAnnotated,
    Photograph,
    columns_of,
    holds,
    partly_annotated,
    photographs,
    unlike,
)
from storage.sources.label_table import SPLIT_WORDS, LabelColumns, Row, read_label_table
from storage.sources.listing import files_below
from storage.sources.photographs.folder import open_photographs

LESION = "lesion"
DIAGNOSES = ("melanoma", "seborrheic_keratosis")
LAYOUT = (
    "'ISIC-2017_Training_Data/ISIC_0000000.jpg' with "
    "'ISIC-2017_Training_Part1_GroundTruth/ISIC_0000000_segmentation.png' and "
    "'ISIC-2017_Training_Part3_GroundTruth.csv' (image_id, melanoma, seborrheic_keratosis)"
)


def is_isic(folder: Path) -> bool:
    """Whether `folder` has the layout of ISIC 2017, or of a copy."""
    return holds(folder, "*_Data/ISIC_*.jpg") or _is_copy(folder)


def open_isic(address: str, *, size: int = 512, crop: bool = True) -> PartlyAnnotated:
    """ISIC 2017 with its own splits: the labels `melanoma` and `seborrheic_keratosis`, the lesion class `lesion`.

    A photograph without an outline was not annotated. SourceError for another layout.
    """
    folder = Path(address)
    if holds(folder, "*_Data/ISIC_*.jpg"):
        return _original(folder, size, crop)
    if not _is_copy(folder):
        raise unlike(folder, "ISIC 2017", LAYOUT)
    columns = columns_of(folder / "labels.csv")
    outlined = holds(folder, "masks/ISIC_*.png")
    copy = open_photographs(
        str(folder / "images"),
        size=size,
        crop=crop,
        labels=folder / "labels.csv",
        label={name: name for name in DIAGNOSES if name in columns},
        split_column="isic2017_split" if "isic2017_split" in columns else None,
        masks=folder / "masks" if outlined else None,
        mask_pattern="{stem}.png",
        lesions=[LESION] if outlined else None,
    )
    return replace(partly_annotated(copy), name="isic")


def _is_copy(folder: Path) -> bool:
    return holds(folder, "images/ISIC_*.jpg") and "melanoma" in columns_of(folder / "labels.csv")


def _original(folder: Path, size: int, crop: bool) -> PartlyAnnotated:
    found, rows, labels = list[Photograph](), dict[str, Row](), dict[str, str]()
    masks = _masks(folder)
    for part in sorted(folder.glob("*_Data")):
        files = [f"{part.name}/{file}" for file in files_below(part, (".jpg",))]
        found += [Photograph(file, Path(file).stem, _split(file), masks.get(Path(file).stem, {})) for file in files]
        for table in sorted(folder.glob(f"{part.name.removesuffix('Data')}*GroundTruth.csv")):
            own = {name: name for name in DIAGNOSES if name in columns_of(table)}
            labels |= own
            rows |= read_label_table(table, LabelColumns("image_id", own), files) if own else {}
    source = photographs(
        "isic", folder, found, rows, labels=tuple(labels), lesions=[LESION] if masks else [], size=size, crop=crop
    )
    return partly_annotated(source)


def _masks(folder: Path) -> dict[str, dict[str, str]]:
    """Outline files by case, relative to `folder`."""
    found = {}
    for part in folder.glob("*_Part1_GroundTruth"):
        for file in files_below(part, ("_segmentation.png",)):
            found[Path(file).name[: -len("_segmentation.png")]] = {LESION: f"{part.name}/{file}"}
    return found


def _split(file: str) -> str | None:
    """Of 'ISIC-2017_Test_v2_Data'."""
    words = re.split(r"[_\-/]", file.lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)
