"""The order of features, against cases worked by hand and other implementations."""

import numpy as np
import pandas as pd
import pytest

from models.errors import ModelError
from models.outcome.selection import cox_score, lasso_order, mrmr_order, relevance
from tests.models.outcome.patients import BY_TIME, simulated_patients

STRENGTH = np.array([0.9, 0.8, 0.5])
LIKENESS = np.array([[1, 0.7, 0.1], [0.7, 1, 0.2], [0.1, 0.2, 1]])


def test_mrmr_by_hand():
    # second: 0.8 − 0.7 = 0.1 against 0.5 − 0.1 = 0.4
    assert mrmr_order(STRENGTH, LIKENESS, 3) == [0, 2, 1]
    # with 0.3 between the first two: 0.8 − 0.3 = 0.5 against 0.4
    milder = np.where(LIKENESS == 0.7, 0.3, LIKENESS)
    assert mrmr_order(STRENGTH, milder, 2) == [0, 1]


def test_mrmr_by_quotient_by_hand():
    # 0.8 / 0.7 = 1.14 against 0.5 / 0.1 = 5; scaled strengths change nothing
    assert mrmr_order(STRENGTH, LIKENESS, 2, "quotient") == [0, 2]
    assert mrmr_order(100 * STRENGTH, LIKENESS, 2, "quotient") == [0, 2]


def test_mrmr_takes_the_third_by_the_mean_over_both_that_are_taken():
    strength = np.array([1.0, 0.6, 0.5, 0.45])
    likeness = np.eye(4)
    likeness[0, 2] = likeness[2, 0] = 0.4
    likeness[1, 3] = likeness[3, 1] = 0.6
    # then 1 (0.6); last 0.5 − 0.4/2 = 0.30 against 0.45 − 0.6/2 = 0.15
    assert mrmr_order(strength, likeness, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["f", "mutual_information"])
def test_relevance_puts_what_is_planted_first(kind: str):
    patients = simulated_patients(200, 10, 0, strength=1.5)
    strongest = np.argsort(relevance(patients.table.to_numpy(), patients.outcome, kind))[-3:]
    assert set(strongest) == {0, 1, 2}


def test_cox_score_of_two_groups_is_the_log_rank_statistic():
    compare = pytest.importorskip("sksurv.compare")
    patients = simulated_patients(80, 2, 0, asked=BY_TIME)
    group = (patients.table["f0"] > 0).to_numpy(np.float64)
    outcome = patients.outcome
    statistic = cox_score(group[:, None], outcome["time"], outcome["event"])[0]
    assert statistic == pytest.approx(compare.compare_survival(outcome, group)[0], rel=1e-6)


def test_lasso_takes_planted_features_before_others():
    assert set(lasso_order(*arrays(simulated_patients(300, 20, 1)), 3)) == {0, 1, 2}
    pytest.importorskip("sksurv")
    assert set(lasso_order(*arrays(simulated_patients(300, 20, 1, asked=BY_TIME)), 3)) == {0, 1, 2}


def test_lasso_without_anything_to_say_is_refused():
    features = pd.DataFrame({"f0": [1.0, 1.0, 1.0, 1.0]}).to_numpy()
    with pytest.raises(ModelError, match="no feature enters"):
        lasso_order(features, np.array([0, 1, 0, 1]), 1)


def arrays(patients):
    return patients.table.to_numpy(), patients.outcome
