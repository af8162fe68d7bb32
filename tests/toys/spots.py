"""A folder of photographs that grows: grey noise, bright spots by the grade, and a table of the grades."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from PIL import Image

from storage.splits import Split

SIDE = 64
GRADES = 3
SPOTS_A_GRADE = 4
TABLE = "labels.csv"
Labels = Literal["right", "random", "reversed"]

INGESTION = {
    "size": SIDE,
    "crop": False,
    "file_column": "image",
    "patient_column": "patient",
    "split_column": "split",
    "label": {"grade": "grade"},
}


def add_photographs(folder: Path, split: Split, count: int, seed: int, labels: Labels = "right") -> None:
    """`count` more photographs, each of a patient of its own, with their rows in `folder`/labels.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        grade = int(rng.integers(GRADES))
        name = f"{split}-{seed}-{number}"
        Image.fromarray(photograph(rng, grade * SPOTS_A_GRADE)).save(folder / f"{name}.png")
        said = {"right": grade, "random": int(rng.integers(GRADES)), "reversed": GRADES - 1 - grade}[labels]
        rows.append({"image": f"{name}.png", "patient": name, "split": split, "grade": said})
    append_rows(folder / TABLE, rows)


def photograph(rng: np.random.Generator, spots: int) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8."""
    image = rng.normal(90, 12, (SIDE, SIDE, 3))
    for y, x in rng.integers(4, SIDE - 6, (spots, 2)):
        image[y : y + 3, x : x + 3] += 100
    return image.clip(0, 255).astype(np.uint8)


def append_rows(file: Path, rows: list[dict[str, object]]) -> None:
    """The table with `rows` after those that it has, appearing whole."""
    known = pd.read_csv(file) if file.exists() else pd.DataFrame()
    partial = file.with_suffix(".partial")
    pd.concat([known, pd.DataFrame(rows)]).to_csv(partial, index=False)
    partial.replace(file)
