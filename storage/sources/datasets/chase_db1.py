"""CHASE_DB1: photographs of both eyes of fourteen children, their vessels outlined by two observers.

Fraz et al., IEEE Transactions on Biomedical Engineering 2012;59(9):2538–2548.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from storage.sources.datasets.layout import Photograph, holds, photographs, unlike
from storage.sources.listing import files_below
from storage.sources.photographs.folder import Photographs

OBSERVERS = {"vessels": "1stHO", "vessels_second": "2ndHO"}
LAYOUT = "'Image_01L.jpg' with 'Image_01L_1stHO.png' and 'Image_01L_2ndHO.png'"
LAST_TO_TRAIN, LAST_TO_VALIDATE = 8, 10  # children; the last eight photographs are the usual test part


def is_chase_db1(folder: Path) -> bool:
    """Whether `folder` has the layout of CHASE_DB1."""
    return holds(folder, "Image_??[LR].jpg") and holds(folder, "Image_??[LR]_1stHO.png")


def open_chase_db1(
    address: str, *, size: int = 512, crop: bool = True, lesions: Sequence[str] | None = None
) -> Photographs:
    """CHASE_DB1 with masks of the first observer, `vessels`, and of the second; a child's eyes are one patient.

    Children 1–8 are there to train on, 9 and 10 to validate, 11–14 to test. SourceError for another layout.
    """
    folder = Path(address)
    if not is_chase_db1(folder):
        raise unlike(folder, "CHASE_DB1", LAYOUT)
    found = [
        Photograph(file, case, _split(int(case[:-1])), _masks(folder, file))
        for file in files_below(folder, (".jpg",))
        if (case := _case(file))
    ]
    classes = tuple(lesions or OBSERVERS)
    whole = photographs("chase_db1", folder, found, {}, labels=(), lesions=classes, size=size, crop=crop)
    return replace(whole, listed=tuple(replace(key, patient_id=key.case_id[:-1]) for key in whole.listed))


def _case(file: str) -> str:
    """`01L` of 'Image_01L.jpg'; nothing of other names."""
    match = re.fullmatch(r"Image_(\d\d[LR])\.jpg", file)
    return match[1] if match else ""


def _masks(folder: Path, file: str) -> dict[str, str]:
    """Mask files by class."""
    of_file = {lesion: f"{Path(file).stem}_{observer}.png" for lesion, observer in OBSERVERS.items()}
    return {lesion: name for lesion, name in of_file.items() if (folder / name).is_file()}


def _split(child: int) -> str:
    if child <= LAST_TO_TRAIN:
        return "train"
    return "validation" if child <= LAST_TO_VALIDATE else "test"
