"""From rows of lesions to rows of patients."""

import numpy as np
import pandas as pd
import pytest

from models.errors import ModelError
from models.outcome import Asked, StudyConfig, patients_of

LESIONS = pd.DataFrame(
    {
        "case_id": ["c1", "c1", "c1", "c2", "c2", "c3", "c4", "c4"],
        "patient_id": ["b", "b", "b", "a", "a", "c", "d", "d"],
        "split": "train",
        "lesion_class": ["all", "t", "t", "all", "t", "all", "all", "t"],
        "n_pixels": [12, 9, 3, 5, 5, 0, 4, 4],
        "stat_mean": [3.0, 4.0, 2.0, 7.0, 8.0, np.nan, 1.0, np.inf],
        "response": [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, np.nan, np.nan],
        "grade": [0.0, 0.0, 0.0, 2.0, 2.0, 4.0, 1.0, 1.0],
        "days": [30.0, 30.0, 30.0, 9.0, 9.0, 4.0, 5.0, 5.0],
        "death": [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        "site": ["x", "x", "x", "y", "y", "y", "x", "x"],
    }
)
FEATURES = ["stat_mean"]
BY_CLASS = Asked(outcome="response")


def patients(asked: Asked = BY_CLASS, **settings):
    return patients_of(LESIONS, FEATURES, asked, StudyConfig(**settings))


@pytest.mark.parametrize(("lesions", "values"), [("largest", [8, 4]), ("mean", [8, 3]), ("whole", [7, 3])])
def test_lesion_that_speaks_for_a_patient(lesions: str, values: list[float]):
    found = patients(lesions=lesions)
    assert found.names == ["a", "b"]
    assert found.table["stat_mean"].tolist() == values
    assert found.outcome.tolist() == [0, 1]


def test_who_lacks_an_outcome_or_a_lesion_is_left_out_and_counted():
    assert patients().left_out == {"without response": 1, "without a lesion": 1}


def test_infinite_feature_is_a_gap():
    found = patients(Asked(time="days", event="death"))
    assert np.isnan(found.table.loc["d", "stat_mean"])


def test_survival_beside_a_class_is_followed():
    found = patients(Asked(outcome="response", time="days", event="death"))
    assert not found.is_survival
    assert found.followed["time"].tolist() == [9, 30]
    assert found.followed["event"].tolist() == [True, False]


def test_more_than_two_values_need_a_limit():
    with pytest.raises(ModelError, match=r"grade has 3 values.*positive_from"):
        patients(Asked(outcome="grade"))
    assert patients(Asked(outcome="grade"), positive_from=2).outcome.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("asked", "settings", "message"),
    [
        (Asked(outcome="respnse"), {}, "no column 'respnse'; labels are: response, grade, days, death, site"),
        (Asked(outcome="stat_mean"), {}, "'stat_mean' is a feature"),
        (Asked(outcome="grade"), {"positive_from": 9}, "grade is the same for all 3 patients once divided at 9"),
        (Asked(outcome="site"), {}, "site is no number"),
        (Asked(time="days", event="grade"), {}, "grade must be 1 where it happened"),
    ],
)
def test_question_that_cannot_be_answered(asked: Asked, settings: dict, message: str):
    with pytest.raises(ModelError, match=message):
        patients(asked, **settings)


def test_constant_outcome_is_refused():
    rows = LESIONS.assign(response=1.0)
    with pytest.raises(ModelError, match="response is the same for all 3 patients"):
        patients_of(rows, FEATURES, Asked(outcome="response"), StudyConfig())


def test_patient_with_two_outcomes_is_named():
    rows = LESIONS.assign(response=[1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    with pytest.raises(ModelError, match="patient b has several values of response: 0, 1"):
        patients_of(rows, FEATURES, Asked(outcome="response"), StudyConfig())
    highest = patients_of(rows, FEATURES, BY_CLASS, StudyConfig(differing="highest"))
    assert highest.outcome.tolist() == [0, 1, 0]
