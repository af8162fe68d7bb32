"""Frozen cases: the same ones for every version, and refused once the cohort no longer has them as they were."""

from pathlib import Path

import numpy as np
import pytest

from storage.cohort import Cohort
from storage.errors import CohortError
from storage.ingestion import ingest
from storage.layout import Corrections
from storage.sources import open_source
from tasks.errors import PromotionError
from tasks.promotion.frozen import freeze, frozen_cases, indices_of
from tasks.tracking.runs import tracking_client

pytestmark = pytest.mark.usefixtures("shared_workspace")


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    ingest(open_source("sim:fundus?cases=20&size=32&seed=3"), tmp_path / "fundus", fractions=(0.4, 0.2, 0.4))
    return Cohort.open(tmp_path / "fundus")


def test_frozen_cases_are_those_of_the_test_split_and_lie_in_mlflow(led: str, cohort: Cohort):
    frozen = freeze(led, cohort.path, "grade")
    known = frozen_cases(led)
    assert known.table.equals(frozen.table)
    assert (known.run_id, known.snapshot, known.target) == (frozen.run_id, cohort.snapshot, "grade")
    is_test = cohort.table["split"] == "test"
    assert indices_of(cohort, known) == np.flatnonzero(is_test).tolist()
    assert known.table["label"].tolist() == cohort.table.loc[is_test, "grade"].tolist()
    assert tracking_client().get_registered_model(led).tags["frozen.run"] == frozen.run_id


def test_freezing_makes_the_registered_model_where_there_is_none(cohort: Cohort):
    assert frozen_cases("fresh") is None
    freeze("fresh", cohort.path, "grade")
    assert len(frozen_cases("fresh").table)


def test_freezing_anew_judges_by_the_new_cases(led: str, cohort: Cohort):
    freeze(led, cohort.path, "grade")
    second = freeze(led, cohort.path, "grade", split="validation")
    assert frozen_cases(led).run_id == second.run_id
    assert set(frozen_cases(led).table["split"]) == {"validation"}


def test_new_cases_in_the_cohort_leave_the_frozen_ones_where_they_are(led: str, cohort: Cohort):
    frozen = freeze(led, cohort.path, "grade")
    ingest(open_source("sim:fundus?cases=30&size=32&seed=3"), cohort.path)
    grown = Cohort.open(cohort.path)
    assert len(grown) > len(cohort)
    assert grown.table.loc[indices_of(grown, frozen), "case_id"].tolist() == frozen.table["case_id"].tolist()


@pytest.mark.parametrize("change", ["other pixels", "other masks", "another 'grade'"])
def test_frozen_case_that_has_changed_is_named(led: str, cohort: Cohort, change: str):
    frozen = freeze(led, cohort.path, "grade")
    case = indices_of(cohort, frozen)[2]
    corrections = {
        "other pixels": Corrections(images={case: 255 - cohort.image(case)}),
        "other masks": Corrections(masks={case: {cohort.lesions[0]: ~cohort.masks(case)[0]}}),
        "another 'grade'": Corrections(labels={case: {"grade": (cohort.label("grade")[case] + 1) % 5}}),
    }
    cohort.record([], corrections=corrections[change])
    with pytest.raises(PromotionError, match=f"case {frozen.table['case_id'][2]} has {change}.*--freeze COHORT"):
        indices_of(cohort, frozen)


def test_frozen_case_that_the_cohort_does_not_have_is_named(led: str, cohort: Cohort, tmp_path: Path):
    frozen = freeze(led, cohort.path, "grade")
    ingest(open_source("sim:fundus?cases=4&size=32&seed=9"), tmp_path / "other")
    with pytest.raises(PromotionError, match=f"{frozen.table['case_id'][0]} is gone"):
        indices_of(Cohort.open(tmp_path / "other"), frozen)


def test_frozen_case_that_can_be_trained_on_now_is_refused(led: str, cohort: Cohort):
    frozen = freeze(led, cohort.path, "grade")
    frozen.table.loc[0, "split"] = "train"
    with pytest.raises(PromotionError, match="has another split"):
        indices_of(cohort, frozen)


def test_what_cannot_be_frozen_is_refused_in_one_line(led: str, cohort: Cohort):
    with pytest.raises(CohortError, match="no label 'stage'"):
        freeze(led, cohort.path, "stage")
    with pytest.raises(CohortError, match="no case in split holdout"):
        freeze(led, cohort.path, "grade", split="holdout")
    assert frozen_cases(led) is None


def test_frozen_cases_whose_run_is_gone_are_missed(led: str):
    tracking_client().set_registered_model_tag(led, "frozen.run", "0" * 32)
    with pytest.raises(PromotionError, match="which is gone; freeze the test cases anew"):
        frozen_cases(led)
