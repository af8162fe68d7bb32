"""APTOS 2019 and EyePACS: retinal photographs with grades of diabetic retinopathy, as Kaggle hands them out."""

from dataclasses import replace
from pathlib import Path

from storage.sources.datasets.layout import columns_of, holds, unlike
from storage.sources.photographs.folder import Photographs, open_photographs

APTOS_LAYOUT = "'train.csv' with the columns id_code and diagnosis, and 'train_images/000c1434d8d7.png'"
EYEPACS_LAYOUT = "'trainLabels.csv' with the columns image and level, and 'train/10_left.jpeg'"


def is_aptos(folder: Path) -> bool:
    """Whether `folder` has the layout of APTOS 2019."""
    return {"id_code", "diagnosis"} <= set(columns_of(folder / "train.csv")) and holds(folder, "train_images/*.png")


def is_eyepacs(folder: Path) -> bool:
    """Whether `folder` has the layout of EyePACS."""
    return {"image", "level"} <= set(columns_of(folder / "trainLabels.csv")) and holds(folder, "train/*.jpeg")


def open_aptos(address: str, *, size: int = 512, crop: bool = True) -> Photographs:
    """The graded part of APTOS 2019; the label is `grade`. SourceError for another layout."""
    folder = Path(address)
    if not is_aptos(folder):
        raise unlike(folder, "APTOS 2019", APTOS_LAYOUT)
    found = open_photographs(
        str(folder / "train_images"),
        size=size,
        crop=crop,
        labels=folder / "train.csv",
        file_column="id_code",
        label={"grade": "diagnosis"},
    )
    return replace(found, name="aptos")


def open_eyepacs(address: str, *, size: int = 512, crop: bool = True) -> Photographs:
    """The graded part of EyePACS; the label is `grade`, a patient has two eyes. SourceError for another layout."""
    folder = Path(address)
    if not is_eyepacs(folder):
        raise unlike(folder, "EyePACS", EYEPACS_LAYOUT)
    found = open_photographs(
        str(folder / "train"),
        size=size,
        crop=crop,
        labels=folder / "trainLabels.csv",
        file_column="image",
        label={"grade": "level"},
    )
    both_eyes = tuple(replace(key, patient_id=_patient(key.case_id)) for key in found.listed)
    return replace(found, name="eyepacs", listed=both_eyes)


def _patient(case: str) -> str:
    """The patient of '10_left'."""
    patient, _, side = case.rpartition("_")
    return patient if side in ("left", "right") and patient else case
