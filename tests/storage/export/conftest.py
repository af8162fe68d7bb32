"""Three small cohorts that are exported: photographs, ragged PET volumes, CT volumes of one shape."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storage.case import Case
from storage.cohort import Cohort
from storage.export import Content, heat_scale
from storage.export.delivery import map_file_names
from storage.geometry import Crop, Geometry, Grid, Resample
from storage.sources.volumes.volume import Regrid, Volume, regridded

TILT = np.array([[np.cos(0.2), 0, np.sin(0.2)], [0, 1, 0], [-np.sin(0.2), 0, np.cos(0.2)]])
OBLIQUE = np.eye(4)  # sagittal slices, tilted about the patient's front-to-back axis
OBLIQUE[:3, :3] = TILT @ [[0, 0, 3.0], [2.0, 0, 0], [0, -2.5, 0]]
OBLIQUE[:3, 3] = -40, 15, 700
MARKED = (4, 2, 5)  # the one voxel of a mask, (z, y, x) in the axis order of the file


def case_of(
    number: int, image: np.ndarray, masks: dict[str, np.ndarray] | None, geometry: Geometry, **more: str
) -> Case:
    return Case(
        **{"case_id": f"c{number}", "patient_id": f"p{number}", "split": "train" if number else "test", **more},  # type: ignore[arg-type]
        file=f"c{number}",
        sha256=f"{number:064x}",
        image=image,
        labels={"grade": float(number)},
        masks=masks,
        geometry=geometry,
    )


def write_maps(cohort: Cohort, name: str, cases: list[int]) -> None:
    rng = np.random.default_rng(7)
    saliency = [rng.random(cohort.shape(case), np.float32) - np.float32(0.2) for case in cases]
    cohort.write_maps(name, cases, saliency, pd.DataFrame({"score": [0.5] * len(cases)}))


@pytest.fixture
def photographs(tmp_path: Path) -> Cohort:
    """Three colour pictures, 24 × 20, cropped and halved from 52 × 44; the third has no masks and no map."""
    cohort = Cohort.create(
        tmp_path / "photographs",
        grid=(24, 20),
        dims=("y", "x"),
        channels=("red", "green", "blue"),
        dtype="uint8",
        lesions=("HE", "MA"),
        labels=("grade",),
    )
    geometry = Geometry(
        Grid((52, 44), (np.nan, np.nan)), (Crop((2, 2), (48, 40)), Resample((24, 20), (2.0, 2.0), "area"))
    )
    rng, cases = np.random.default_rng(0), []
    for number in range(3):
        mask = np.zeros((24, 20), bool)
        mask[3 + number, 5] = True
        image = rng.integers(0, 256, (3, 24, 20), np.uint8)
        cases.append(case_of(number, image, {"MA": mask} if number < 2 else None, geometry))
    cohort.append(cases)
    write_maps(cohort, "loop/1/S", [0, 1])
    return cohort


@pytest.fixture
def pets(tmp_path: Path) -> Cohort:
    """Two PET volumes of differing shape whose files have sagittal, oblique axes; the second has no masks."""
    cohort = Cohort.create(
        tmp_path / "pets",
        grid=None,
        dims=("z", "y", "x"),
        channels=("PET",),
        dtype="float32",
        lesions=("GTV",),
        labels=("grade",),
    )
    rng, cases = np.random.default_rng(1), []
    for number, shape in enumerate([(7, 9, 8), (6, 11, 9)]):
        mask = np.zeros(shape, bool)
        mask[MARKED] = True
        volume = Volume(rng.gamma(1, 2, (1, *shape)).astype(np.float32), OBLIQUE, {"GTV": mask} if not number else None)
        image, masks, geometry = regridded(volume, Regrid())
        cases.append(case_of(number, image, masks, geometry))
    cohort.append(cases)
    write_maps(cohort, "cam/1", [0])
    return cohort


@pytest.fixture
def scans(tmp_path: Path) -> Cohort:
    """Two CT and PET volumes of one shape, 5 × 150 × 140, straight in the patient."""
    cohort = Cohort.create(
        tmp_path / "scans",
        grid=(5, 150, 140),
        dims=("z", "y", "x"),
        channels=("CT", "PET"),
        dtype="int16",
        lesions=("GTV", "node"),
        labels=("grade",),
    )
    affine = np.array([[-1.5, 0, 0, 100.0], [0, -1.5, 0, 90.0], [0, 0, 4.0, -30.0], [0, 0, 0, 1]])
    rng, cases = np.random.default_rng(2), []
    for number in range(2):
        masks = {"GTV": np.zeros((5, 150, 140), bool), "node": np.zeros((5, 150, 140), bool)}
        masks["GTV"][2, 41, 33] = True
        masks["node"][2, 40:44, 32:36] = True
        volume = Volume(rng.integers(-200, 300, (2, 5, 150, 140), np.int16), affine, masks)
        cases.append(case_of(number, *regridded(volume, Regrid())))
    cohort.append(cases)
    write_maps(cohort, "cam/1", [1])
    return cohort


def content_of(cohort: Cohort, **changes: object) -> Content:
    """All masks and maps."""
    maps = map_file_names(cohort.map_names())
    scales = {name: heat_scale(cohort, name) for name in maps.values()}
    lesions = {name: name for name in cohort.lesions}
    return Content(**{"lesions": lesions, "maps": maps, "scales": scales, **changes})  # type: ignore[arg-type]
