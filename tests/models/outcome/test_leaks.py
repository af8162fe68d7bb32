"""What is known in advance: noise predicts nothing, a planted outcome is found, a leak would show."""

import numpy as np
import pytest
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from models.metrics.bootstrap import with_intervals
from models.outcome import Judged, StudyConfig, concordance, metric_draws, permuted, study_fold, whole_repeat
from models.outcome.nested import nested_fold, outer_folds
from tests.models.outcome.patients import BY_TIME, FAST, simulated, simulated_patients

NOISE = {"patients": 80, "features": 200, "informative": 0}


def auc_interval(seed: int, config: StudyConfig) -> list[float]:
    """The 95 % interval of the AUC on pure noise."""
    patients = simulated_patients(**NOISE, seed=seed)
    scores = np.array([whole_repeat(patients, config, repeat) for repeat in range(config.repeats)])
    draws = metric_draws(Judged(patients.outcome, scores, scores > 0.5, patients.names), 500, seed)
    interval = with_intervals(draws)["auc_interval"]
    assert isinstance(interval, list)
    return interval


def test_interval_of_noise_holds_a_half():
    low, high = auc_interval(0, FAST)
    assert low < 0.5 < high


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_interval_of_noise_holds_a_half_in_nine_of_ten():
    config = StudyConfig(repeats=3)
    intervals = [auc_interval(seed, config) for seed in range(10)]
    assert sum(low <= 0.5 <= high for low, high in intervals) >= 9


def test_selection_outside_of_the_folds_would_show():
    patients = simulated_patients(**NOISE, seed=0)
    leaky = SelectKBest(k=10).fit_transform(patients.table, patients.outcome)
    predicted = cross_val_predict(LogisticRegression(), leaky, patients.outcome, cv=5, method="predict_proba")
    assert roc_auc_score(patients.outcome, predicted[:, 1]) > 0.75


def test_planted_outcome_is_predicted_as_well_as_can_be():
    drawn, patients = simulated(300, 20, 3), simulated_patients(300, 20, 3)
    best = roc_auc_score(patients.outcome, drawn.log_odds)
    assert best > 0.75
    assert abs(concordance(patients.outcome, whole_repeat(patients, FAST, 0)) - best) < 0.05


def test_planted_survival_is_predicted_as_well_as_can_be():
    drawn, patients = simulated(300, 20, 4), simulated_patients(300, 20, 4, asked=BY_TIME)
    best = concordance(patients.outcome, drawn.log_odds)
    assert best > 0.7
    assert abs(concordance(patients.outcome, whole_repeat(patients, FAST, 0)) - best) < 0.05


@pytest.mark.parametrize("config", [FAST, FAST.model_copy(update={"selection": "lasso", "threshold": "half"})])
def test_outcomes_of_held_out_patients_change_nothing_that_is_predicted_of_them(config: StudyConfig):
    patients = simulated_patients(60, 30, 1)
    train, held_out = outer_folds(patients, config, 0)[0]
    flipped = patients.outcome.copy()
    flipped[held_out] = 1 - flipped[held_out]
    answer = nested_fold(patients, train, held_out, config, 7)
    other = nested_fold(patients.with_outcome(flipped), train, held_out, config, 7)
    assert np.array_equal(answer.scores, other.scores)
    assert (answer.threshold, answer.median, answer.setting) == (other.threshold, other.median, other.setting)
    assert answer.selected == other.selected


def test_features_of_a_held_out_patient_change_the_prediction_of_no_other():
    patients = simulated_patients(60, 30, 2)
    train, held_out = outer_folds(patients, FAST, 0)[0]
    before = nested_fold(patients, train, held_out, FAST, 7)
    patients.table.iloc[held_out[0], :30] = 50.0
    patients.table.iloc[held_out[1], :10] = np.nan
    after = nested_fold(patients, train, held_out, FAST, 7)
    assert after.scores[0] != before.scores[0]
    assert np.array_equal(after.scores[2:], before.scores[2:])
    assert after.threshold == before.threshold


def test_same_seed_gives_the_same_answer_and_another_one_other_folds():
    patients = simulated_patients(60, 30, 5)
    first, again = (study_fold(patients, FAST, 0, 1) for _ in range(2))
    assert np.array_equal(first.scores, again.scores)
    other = study_fold(patients, FAST.model_copy(update={"seed": 1}), 0, 1)
    assert not np.array_equal(first.held_out, other.held_out)


def test_permutation_keeps_times_with_their_events():
    patients = simulated_patients(40, 5, 6, asked=BY_TIME)
    shuffled = permuted(patients, 0, 1)
    assert not np.array_equal(shuffled.outcome, patients.outcome)
    assert sorted(shuffled.outcome.tolist()) == sorted(patients.outcome.tolist())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_permutation_p_of_noise_is_spread_over_zero_to_one():
    from models.outcome.agreement import permutation_p

    cheap = StudyConfig(repeats=1, folds=3, inner_folds=2, numbers=(3,), penalties=(1.0,))
    values = []
    for seed in range(30):
        patients = simulated_patients(40, 20, 100 + seed, informative=0)
        shuffles = [permuted(patients, seed, number) for number in range(9)]
        null = [concordance(one.outcome, whole_repeat(one, cheap, 0)) for one in shuffles]
        values.append(permutation_p(concordance(patients.outcome, whole_repeat(patients, cheap, 0)), null))
    assert 0.35 < np.mean(values) < 0.75  # uniform on 0.1 … 1: 0.55, with a standard error of 0.05
    assert np.min(values) <= 0.3
    assert np.mean(np.array(values) <= 0.1) <= 0.3
