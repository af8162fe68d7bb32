"""Retraining as it runs unattended: by a worker, through Prefect's API, with MLflow's server beside it."""

from pathlib import Path

import pytest

from storage.cohort import Cohort
from tests.services.processes import Services
from tests.services.retraining import Retraining
from tests.toys.spots import add_photographs


@pytest.fixture(scope="module")
def retraining(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Retraining:
    made = Retraining(services, tmp_path_factory.mktemp("retrain"), name="spots")
    add_photographs(made.photos, "test", 60, seed=1)
    add_photographs(made.photos, "validation", 16, seed=2)
    add_photographs(made.photos, "train", 24, seed=3, labels="random")
    return made


@pytest.mark.timeout(600)
def test_first_run_trains_a_champion_and_writes_a_map_for_every_case(retraining: Retraining):
    assert retraining.run() == "COMPLETED"
    assert retraining.champion() == 1
    assert retraining.ending()["cases"] == 100


def test_run_with_nothing_new_leaves_no_trace(retraining: Retraining):
    before, snapshot = len(retraining.runs()), Cohort.open(retraining.cohort).snapshot
    assert retraining.run() == "COMPLETED"
    assert len(retraining.runs()) == before
    assert Cohort.open(retraining.cohort).snapshot == snapshot


@pytest.mark.timeout(600)
def test_added_cases_that_help_are_promoted(retraining: Retraining):
    add_photographs(retraining.photos, "train", 120, seed=4)
    assert retraining.run() == "COMPLETED"
    assert retraining.decisions() == ["promoted", "promoted"]
    assert retraining.champion() == 2
    assert retraining.ending()["cases"] == 220


@pytest.mark.timeout(600)
def test_mislabelled_cases_are_refused_and_the_champion_is_untouched(retraining: Retraining):
    before = retraining.ending()
    add_photographs(retraining.photos, "train", 160, seed=5, labels="reversed")
    assert retraining.run() == "COMPLETED"
    assert retraining.decisions()[0] == "refused"
    assert retraining.champion() == 2
    after = retraining.ending()
    assert after["weights"] == before["weights"]
    assert after["cases"] == 380
    assert not [name for name in Cohort.open(retraining.cohort).map_names() if name.endswith("/S")][2:]


def test_champions_maps_are_the_same_as_those_of_the_command(retraining: Retraining, tmp_path: Path):
    maps = Cohort.open(retraining.cohort).maps(f"iterative-refinement/{retraining.ending()['weights']}/S")
    assert set(maps.table["stop_reason"]) <= {"score", "cap", "empty_mask"}
    assert len(maps) == 380
