"""HRF: photographs of healthy eyes and of eyes with diabetic retinopathy or glaucoma, with their vessels.

Budai et al., International Journal of Biomedical Imaging 2013:154860. Also read: `vessels/*.png` in place of the
original `manual1/*.tif`, as smaller copies of it have.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from storage.sources.datasets.layout import Photograph, holds, photographs, unlike
from storage.sources.label_table import Row
from storage.sources.listing import files_below
from storage.sources.photographs.folder import FILES, Photographs

MASKS = ("vessels", "manual1")
LABELS = {"diabetic_retinopathy": "dr", "glaucoma": "g"}
LAYOUT = "'images/01_dr.JPG' with 'manual1/01_dr.tif'"


def is_hrf(folder: Path) -> bool:
    """Whether `folder` has the layout of HRF, or of a copy."""
    return holds(folder, "images/??_h.jpg") and (holds(folder, "manual1/??_h.tif") or holds(folder, "vessels/??_h.png"))


def open_hrf(address: str, *, size: int = 512, crop: bool = True, lesions: Sequence[str] | None = None) -> Photographs:
    """HRF with masks of the `vessels` and the labels `diabetic_retinopathy` and `glaucoma`, each photograph a patient.

    SourceError for another layout.
    """
    folder = Path(address)
    if not is_hrf(folder):
        raise unlike(folder, "HRF", LAYOUT)
    parts = {file: match for file in files_below(folder / "images", FILES) if (match := _named(file))}
    drawn = _masks(folder)
    found = [
        Photograph(f"images/{file}", match[0], None, {"vessels": drawn[match[0]]} if match[0] in drawn else {})
        for file, match in parts.items()
    ]
    rows = {
        f"images/{file}": Row({label: float(match[1] == disease) for label, disease in LABELS.items()})
        for file, match in parts.items()
    }
    classes = tuple(lesions or ("vessels",))
    return photographs("hrf", folder, found, rows, labels=tuple(LABELS), lesions=classes, size=size, crop=crop)


def _masks(folder: Path) -> dict[str, str]:
    """Mask files by photograph."""
    found = [f"{masks}/{file}" for masks in MASKS for file in files_below(folder / masks, FILES)]
    return {Path(file).stem: file for file in found}


def _named(file: str) -> re.Match[str] | None:
    """The number and the disease of '01_dr.JPG'."""
    return re.fullmatch(r"\d\d_(dr|g|h)", Path(file).stem)
