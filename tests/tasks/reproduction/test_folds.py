"""Protocol `folds`: which patients a trial trains on, chooses its epoch on, and is judged on."""

from typing import Any

import pytest

from models.config import validated
from models.errors import ModelError
from storage.cohort import Cohort
from storage.errors import CohortError
from storage.ingestion import ingest
from storage.sources import open_source
from tasks.reproduction.arms import annotated_ids, training_cases
from tasks.reproduction.experiment import Experiment
from tasks.reproduction.folds import fold_of, parts
from tasks.reproduction.plan import Plan, Trial

CASES, FOLDS = 30, 3


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("folds") / "cohort"
    ingest(open_source(f"sim:fundus?cases={CASES}&size=32&seed=1"), path)
    return str(path)


def plan(cohort: str, **changes: Any) -> Plan:
    content = {"system": "classifier", "protocol": "folds", "folds": FOLDS, "arms": {"a": {}}, **changes}
    experiment = validated(Experiment, content, where="test")
    return Plan(name="e", preset="small", experiment=experiment, cohort=cohort, content="0", chosen=("a",))


def test_the_folds_hold_out_every_case_once(cohort: str):
    made = plan(cohort)
    held_out = [case for seed in range(FOLDS) for case in fold_of(made, seed).held_out]
    assert sorted(held_out) == list(range(CASES))


def test_a_trial_is_judged_on_patients_that_it_never_saw(cohort: str):
    made, table = plan(cohort), Cohort.open(cohort).table.set_index("case_id")
    for seed in range(FOLDS):
        learnt = training_cases(made, "classifier", seed)
        judged = set(table.loc[annotated_ids(made, seed), "patient_id"])
        seen = Cohort.open(cohort).table.loc[[*learnt["train"], *learnt["validation"]], "patient_id"]
        assert judged
        assert not judged & set(seen)


def test_beyond_the_folds_patients_are_divided_anew(cohort: str):
    made = plan(cohort)
    assert fold_of(made, FOLDS).repeat == 2
    assert fold_of(made, FOLDS).held_out != fold_of(made, 0).held_out


def test_all_arms_of_a_seed_have_one_fold(cohort: str):
    two = plan(cohort, arms={"a": {}, "b": {"settings": {"saliency": "gradient"}}})
    assert fold_of(two, 1) == fold_of(plan(cohort), 1)


def test_what_was_judged_is_counted_over_the_folds_once(cohort: str):
    done = [{"arm": arm, "seed": seed} for seed in range(FOLDS + 1) for arm in "ab"]
    assert parts(plan(cohort), done, "a") == [{"arm": "a", "seed": seed} for seed in range(FOLDS)]
    assert parts(plan(cohort, protocol="held_out"), done, "a") == [{"arm": "a", "seed": 0}]


def test_another_number_of_folds_is_another_trial(cohort: str):
    trial = Trial(arm="a", seed=0)
    assert plan(cohort).trial_key(trial) != plan(cohort, folds=5).trial_key(trial)


def test_more_folds_than_patients_are_refused(cohort: str):
    with pytest.raises(CohortError, match="every fold needs a patient"):
        fold_of(plan(cohort, folds=1000), 0)


def test_folds_leave_no_split_to_choose_on():
    among = [{"saliency": "gradient"}, {"saliency": "smoothgrad"}]
    with pytest.raises(ModelError, match="protocol folds has not"):
        plan("/c", arms={"a": {"choose": {"metric": "energy", "among": among}}})
