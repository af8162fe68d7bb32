"""What `evaluate` says of a segmentation system's maps: within the field of view, beside a second observer."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.show import metric_table
from storage.case import Case
from storage.cohort import Cohort
from storage.geometry import Geometry, Grid
from tasks.evaluation import Evaluated, segmented_by, with_segmentation
from tasks.segmentation import SEGMENTATION, segmentation_of, view_of

SIDE, CASES, BORDER = 24, 4, 4
CLASSES = ("exudate", "vessels", "vessels_second")
PATIENTS = ["a", "a", "b", "b"]
MAPS = {"map": "vessel-unet/1/map", "other": "gdc/1/map"}
INSIDE = np.zeros((SIDE, SIDE), bool)
INSIDE[BORDER:-BORDER, BORDER:-BORDER] = True


def photograph(number: int) -> Case:
    """A grey square in a black surround; the second observer draws one of the first's two lines."""
    masks = {name: np.zeros((SIDE, SIDE), bool) for name in CLASSES}
    masks["vessels"][[8, 12 + number]] = INSIDE[8]
    masks["vessels_second"][8] = INSIDE[8]
    masks["exudate"][5] = INSIDE[8]
    return Case(
        case_id=f"c{number}",
        patient_id=PATIENTS[number],
        file=f"c{number}.png",
        sha256=f"{number:064x}",
        image=np.repeat((150 * INSIDE).astype(np.uint8)[None], 3, axis=0),
        labels={},
        masks=masks,
        geometry=Geometry(Grid((SIDE, SIDE), (np.nan, np.nan)), ()),
        split="test",
    )


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Two map sets of the same probabilities, which find the first line of two; the system of one segments."""
    cohort = Cohort.create(
        tmp_path / "cohort",
        grid=(SIDE, SIDE),
        dims=("y", "x"),
        channels=("red", "green", "blue"),
        dtype="uint8",
        lesions=CLASSES,
    )
    cohort.append([photograph(number) for number in range(CASES)])
    found = np.where(INSIDE, 0.2, 0).astype(np.float32)
    found[8] = 0.9 * INSIDE[8]
    table = pd.DataFrame({"score": np.zeros(CASES)})
    for name in MAPS.values():
        attributes = {"system": name.split("/")[0]}
        cohort.write_maps(name, list(range(CASES)), [found] * CASES, table, attrs=attributes)
    return Cohort.open(cohort.path)


def test_pixels_count_within_the_field_of_view_and_for_segmentation_systems_alone(cohort: Cohort):
    found = segmentation_of(cohort, MAPS, ["vessels"], range(CASES), PATIENTS, resamples=20, seed=0)
    assert set(found.methods) == {"map"}
    metrics, seen = found.methods["map"], INSIDE.sum()
    line = SIDE - 2 * BORDER
    assert metrics["sensitivity"] == pytest.approx(0.5)
    assert metrics["specificity"] == 1
    assert metrics["accuracy"] == pytest.approx(1 - line / seen)
    assert metrics["roc_auc"] == pytest.approx(0.75)


def test_the_second_observer_is_held_against_the_first(cohort: Cohort):
    found = segmentation_of(cohort, MAPS, ["vessels"], range(CASES), PATIENTS, resamples=20, seed=0)
    assert set(found.observers) == {"vessels_second"}
    metrics = found.observers["vessels_second"]
    assert metrics["dice_at_half"] == pytest.approx(2 / 3)
    assert not any(key.startswith("roc_auc") for key in metrics)
    several = segmentation_of(cohort, MAPS, ["vessels", "exudate"], range(CASES), PATIENTS, resamples=20, seed=0)
    assert several.observers == {}


def test_no_segmentation_system_no_figures(cohort: Cohort):
    other = {"other": MAPS["other"]}
    assert segmentation_of(cohort, other, ["vessels"], [0], ["a"], resamples=20, seed=0) == ({}, {})


def test_the_view_is_what_is_lit(cohort: Cohort):
    assert np.array_equal(view_of(cohort, 0), INSIDE)


def test_evaluate_has_them_beside_the_other_figures_of_a_map_set(cohort: Cohort):
    tested = Evaluated(list(range(CASES)), PATIENTS, evidence={}, thresholds={}, failed=[])
    methods = {"map": {"ap_pooled": 0.4}, "other": {"ap_pooled": 0.3}}
    given = {"methods": methods, "lesions": ["vessels"], "resamples": 20, "seed": 0}
    answer = with_segmentation(given, cohort, tested, MAPS)
    assert answer["methods"]["map"]["sensitivity"] == pytest.approx(0.5)
    assert answer["methods"]["map"]["ap_pooled"] == 0.4
    assert answer["methods"]["other"] == {"ap_pooled": 0.3}
    shown = segmented_by(answer)
    assert list(shown) == ["map", "vessels_second"]
    assert [column.header for column in metric_table("", shown, SEGMENTATION).columns] == ["method", *SEGMENTATION]
