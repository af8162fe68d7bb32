"""The outcome studies of an experiment by folds: the lesions of all folds in one table, beside the true masks."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from models.config import validated
from models.errors import ModelError
from storage.cohort import Cohort
from storage.errors import CohortError
from storage.ingestion import ingest
from storage.sources import open_source
from tasks.maps import LESION_FROM, maps_digest
from tasks.reproduction.experiment import MASKS, Experiment
from tasks.reproduction.folds import fold_of
from tasks.reproduction.plan import Plan, planned
from tasks.reproduction.rules import judged, parsed_rule
from tasks.reproduction.studies import found_features, outcome_studies, study_values
from tasks.reproduction.tables import study_table
from tasks.tracking.runs import tracked_run

CASES, FOLDS = 60, 2
QUICK = {"repeats": 1, "folds": 2, "inner_folds": 2, "permutations": 0, "resamples": 100, "numbers": [2]}
STUDIES: dict[str, Any] = {
    "arms": ["exact", "nothing"],
    "radiomics": {"families": ["intensity_statistics"]},
    "settings": QUICK,
    "outcomes": {
        "all": {"outcome": "response", "reported": {MASKS: {"auc": 0.7}}},
        "lung": {"outcome": "response", "where": {"oesophagus": 0}},
    },
}
CONTENT: dict[str, Any] = {
    "system": "class-response",
    "target": "oesophagus",
    "protocol": "folds",
    "folds": FOLDS,
    "arms": {"exact": {}, "nothing": {}, "other": {}},
    "studies": STUDIES,
}

pytestmark = pytest.mark.usefixtures("shared_workspace")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    path = tmp_path_factory.mktemp("studies") / "cohort"
    ingest(open_source(f"sim:pet?cases={CASES}&spacing=8&seed=1"), path)
    experiment = validated(Experiment, CONTENT, where="test")
    content, chosen = Cohort.open(path).content_digest(), tuple(CONTENT["arms"])
    return Plan(name="e", preset="small", experiment=experiment, cohort=str(path), content=content, chosen=chosen)


@pytest.fixture(scope="module")
def done(plan: Plan, shared_workspace) -> list[dict[str, Any]]:
    """Trials of an arm that finds each held-out tumour exactly, and of one that finds nothing."""
    cohort, trials = Cohort.open(plan.cohort), []
    for seed in range(FOLDS):
        held_out = list(fold_of(plan, seed).held_out)
        masks = [cohort.mask(case).astype(np.float32) for case in held_out]
        for arm, share in (("exact", 1.0), ("nothing", 0.0)):
            name = f"{arm}/{seed}/map"
            table = pd.DataFrame({"score": np.zeros(len(held_out))})
            cohort.write_maps(name, held_out, [share * mask for mask in masks], table, attrs={LESION_FROM: 0.5})
            digest = maps_digest(Cohort.open(plan.cohort), [name])
            trials.append({"arm": arm, "seed": seed, "maps": [name], "maps_digest": digest})
    return trials


@pytest.fixture(scope="module")
def studies(plan: Plan, done) -> dict[str, Any]:
    with tracked_run("reproduce", {}) as run:
        return outcome_studies(plan, done, run)


def test_the_table_of_an_arm_has_each_patient_once(plan: Plan, done):
    asked, trials = plan.experiment.studies, [one for one in done if one["arm"] == "exact"]
    assert asked
    with tracked_run("reproduce", {}) as run:
        table = pd.read_parquet(found_features(plan, asked, "exact", trials, run))
    single = table[table["lesion_class"] != "all"]
    assert single.groupby("patient_id").size().tolist() == [1] * CASES


def test_lesions_found_exactly_say_what_the_true_masks_say(plan: Plan, studies):
    lung = int((Cohort.open(plan.cohort).table["oesophagus"] == 0).sum())
    for study, patients in (("all", CASES), ("lung", lung)):
        rows = studies[study]["rows"]
        assert rows["exact"]["patients"] == rows[MASKS]["patients"] == patients
        assert rows["exact"]["auc"] == rows[MASKS]["auc"]
        assert list(rows["exact"]["difference"]["auc_interval"]) == [0, 0]


def test_an_arm_that_finds_nothing_has_a_reason(studies):
    assert set(studies["all"]["rows"]["nothing"]) == {"reason"}


def test_rules_speak_of_studies(studies):
    values = study_values(studies)
    assert judged(parsed_rule("exact.all_auc >= masks.all_auc", "dice"), values)["holds"]
    assert judged(parsed_rule("nothing.all_auc > 0.5", "dice"), values)["reason"] == "no figures of nothing"


def test_the_table_has_ours_and_the_papers(studies):
    table = study_table({"studies": studies}).set_index(["study", "lesions of"])
    assert table.loc[("all", "the true masks"), "paper, auc"] == "0.700"
    assert table.loc[("lung, oesophagus 0", "exact"), "auc − that of the masks"] == "+0.000 [+0.000, +0.000]"
    assert table.loc[("all", "nothing"), "auc"] == "–"


@pytest.mark.parametrize(
    ("study", "words"),
    [
        (
            {"outcomes": {"all": {"outcome": "cured"}}},
            "outcomes.all: .* has no label 'cured'; labels: oesophagus",
        ),
        ({"outcomes": {"all": {"outcome": "response", "where": {"lung": 1}}}}, "no label 'lung'"),
        ({"radiomics": {"bins": 3}}, "bins is not a setting"),
    ],
)
def test_what_the_cohort_cannot_answer_is_told_before_anything_is_trained(plan: Plan, study, words):
    experiment = validated(Experiment, {**CONTENT, "studies": {**STUDIES, **study}}, where="test")
    with pytest.raises(ModelError, match=words):
        planned("e", "small", experiment, plan.cohort, [])


def test_a_label_to_judge_by_must_be_the_cohorts(plan: Plan):
    experiment = validated(Experiment, {**CONTENT, "by": "stage"}, where="test")
    with pytest.raises(CohortError, match="no label 'stage' to divide the cases by"):
        planned("e", "small", experiment, plan.cohort, [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"protocol": "held_out"}, "studies take lesions found in each patient once"),
        ({"studies": {**STUDIES, "arms": ["exactly"]}}, "studies.arms: no arm 'exactly'"),
        ({"studies": {**STUDIES, "settings": {"fold": 3}}}, "studies.settings"),
        ({"expect": ["exact.lung_f1 > 0.5"]}, "no metric 'lung_f1'"),
        ({"expect": ["other.lung_auc > 0.5"]}, "no metric 'lung_auc'"),
        ({"arms": {**CONTENT["arms"], MASKS: {}}}, "name the arm otherwise"),
    ],
)
def test_a_study_that_cannot_be_is_told_in_one_line(changes, words):
    with pytest.raises(ModelError, match=words):
        validated(Experiment, {**CONTENT, **changes}, where="test")
