"""Figures that a system gives of each case: means, classes, intervals, both sets, reuse."""

import math

import numpy as np
import pytest
import torch

from models.errors import ModelError
from models.metrics.kid import kernel_inception_distance
from models.registry import build
from storage.cohort import Cohort
from storage.errors import CohortError
from storage.ingestion import ingest
from storage.sources import open_source
from tasks import case_figures as module
from tasks.case_figures import case_figures, means, named_columns, of_both_sets
from tasks.model_files import save_model

SETTINGS = {
    "network": {"size": 32, "generator_width": 0.05, "critic_width": 0.05, "critic_strided": 3},
    "classifier": {"network": {"width": 0.05, "stem_stride": 1}},
    "vessels": {"network": {"width": 0.05}},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    path = tmp_path_factory.mktemp("cohorts") / "glaucoma"
    ingest(open_source("sim:glaucoma?cases=12&size=32&seed=0"), path, fractions=(0.3, 0.2, 0.5))
    return Cohort.open(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    torch.manual_seed(0)
    return saved(tmp_path_factory.mktemp("models"), "patho-gan", SETTINGS)


def saved(folder, name, settings) -> str:
    system = build(name, settings)
    save_model(folder, name, system.config.model_dump(mode="json"), system.state_dict(), target="glaucoma")
    return str(folder)


def test_every_figure_has_a_mean_over_abnormal_cases_with_an_interval(cohort: Cohort, model: str, workspace):
    found = case_figures(cohort.path, model, "test", resamples=100)
    own = {"pathology_loss", "score", "score_gain"}
    energies = {
        f"{what}_energy_{lesion}" for what in ("low", "high", "real_low", "real_high") for lesion in cohort.lesions
    }
    assert own | energies | {"kid", "milliseconds", "cases", "patients"} <= set(found)
    for name in own:
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high
    assert found["milliseconds"] > 0
    table = cohort.table[cohort.table["split"] == "test"]
    assert (found["cases"], found["patients"]) == (len(table), table["patient_id"].nunique())


def test_asked_again_nothing_is_measured(cohort: Cohort, model: str, workspace, monkeypatch):
    first = case_figures(cohort.path, model, "test", resamples=100)
    monkeypatch.setattr(module, "load_model", None)
    again = case_figures(cohort.path, model, "test", resamples=100)
    assert again == {**first, "reused": True}


def test_cases_in_which_a_figure_does_not_apply_take_no_part():
    found = means({"loss": np.array([1.0, math.nan, 3.0])}, (), ["a", "b", "c"], resamples=50, seed=0)
    assert found["loss"] == 2


def test_a_column_a_class_is_a_figure_a_class():
    found = named_columns("energy", np.array([[1.0, 2.0], [3.0, 4.0]]), ("rim", "wedge"))
    assert {name: column.tolist() for name, column in found.items()} == {
        "energy_rim": [1, 3],
        "energy_wedge": [2, 4],
    }


def test_sets_are_compared_by_the_features_of_cases_that_have_them():
    drawn = np.random.default_rng(0)
    real, made = drawn.normal(size=(2, 6, 3))
    with_gap = np.vstack([real, np.full((1, 3), math.nan)])
    found = of_both_sets({"real_features": with_gap, "synthetic_features": made})
    assert found == {"kid": kernel_inception_distance(real, made)}
    assert of_both_sets({"score": real}) == {}


def test_a_system_without_figures_of_its_own_is_refused(cohort: Cohort, workspace, tmp_path):
    with pytest.raises(ModelError, match="classifier measures nothing by itself"):
        case_figures(cohort.path, saved(tmp_path, "classifier", {"network": {"width": 0.05}}), "test")


def test_a_split_without_cases_is_refused(cohort: Cohort, model: str, workspace):
    with pytest.raises(CohortError, match="nowhere"):
        case_figures(cohort.path, model, "nowhere")
