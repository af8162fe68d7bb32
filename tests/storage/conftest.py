"""Small photographs and cohorts that the storage tests share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage import Case, Cohort
from storage.geometry import Crop, Geometry, Grid, Resample

SIDE = 32
SHOWN = Geometry(
    Grid((64, 64), (0.1, 0.2)), (Crop((-1, 2), (30, 30)), Resample((SIDE, SIDE), (30 / SIDE, 30 / SIDE), "area"))
)


def _noise(seed: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with six RGB photographs of 32 × 32 pixels, p0.png to p5.png."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(_noise(number)).save(folder / f"p{number}.png")
    return folder


@pytest.fixture
def make_case() -> Callable[..., Case]:
    def make(number: int, **changes: object) -> Case:
        mask = np.zeros((SIDE, SIDE), bool)
        mask[number % SIDE, :3] = True
        given = {
            "case_id": f"c{number}",
            "patient_id": f"patient {number // 2}",
            "file": f"c{number}.png",
            "sha256": f"{number:064x}",
            "image": _noise(number).transpose(2, 0, 1),
            "labels": {"grade": float(number % 5)},
            "masks": {"MA": mask},
            "geometry": SHOWN,
        }
        return Case(**{**given, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def empty_cohort(tmp_path: Path) -> Cohort:
    return Cohort.create(
        tmp_path / "cohort",
        grid=(SIDE, SIDE),
        dims=("y", "x"),
        channels=("red", "green", "blue"),
        dtype="uint8",
        lesions=("HE", "MA"),
        labels=("grade",),
    )


@pytest.fixture
def cohort(empty_cohort: Cohort, make_case: Callable[..., Case]) -> Cohort:
    """A cohort of eight cases of four patients."""
    empty_cohort.append([make_case(number) for number in range(8)])
    return empty_cohort
