"""Metrics against other implementations, and intervals against a plain loop."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve

from models.metrics.bootstrap import patient_resamples
from models.outcome import Judged, concordance, metric_draws
from models.outcome.curves import calibration_groups, roc_band
from models.outcome.judging import calibration_draws, calibration_line, observed_share, pair_draws, survival_draws
from models.outcome.nested import youden_threshold
from models.outcome.survival import kaplan_meier
from tests.models.outcome.patients import BY_TIME, simulated, simulated_patients

RNG = np.random.default_rng(0)
TRUTH = RNG.random(120) < 0.4
PROBABILITY = 1 / (1 + np.exp(-(1.7 * RNG.normal(size=120) + 1.2 * TRUTH - 0.3)))
NAMES = [f"p{number}" for number in range(120)]


def test_metrics_of_two_classes_equal_those_of_scikit_learn():
    called = PROBABILITY > 0.3
    drawn = metric_draws(Judged(TRUTH.astype(int), PROBABILITY[None], called[None], NAMES), 100, 0)
    assert drawn["auc"][0] == pytest.approx(roc_auc_score(TRUTH, PROBABILITY))
    assert drawn["brier"][0] == pytest.approx(brier_score_loss(TRUTH, PROBABILITY))
    assert drawn["sensitivity"][0] == pytest.approx(called[TRUTH].mean())
    assert drawn["specificity"][0] == pytest.approx((~called[~TRUTH]).mean())
    assert drawn["accuracy"][0] == pytest.approx((called == TRUTH).mean())


def test_calibration_equals_a_logistic_regression_of_each_resample():
    resampled = patient_resamples(NAMES, 3, 1)
    slopes, intercepts = calibration_draws(TRUTH, PROBABILITY, resampled)
    logit = np.log(PROBABILITY / (1 - PROBABILITY))
    weights = resampled.weights[:, resampled.rows]
    for slope, intercept, weight in zip(slopes, intercepts, weights, strict=True):
        other = LogisticRegression(C=np.inf, tol=1e-9).fit(logit[:, None], TRUTH, weight)
        assert slope == pytest.approx(other.coef_[0, 0], abs=1e-3)
        expected = 1 / (1 + np.exp(-(logit + intercept)))
        assert np.average(expected, weights=weight) == pytest.approx(np.average(TRUTH, weights=weight), abs=1e-5)


def test_calibration_line_equals_a_logistic_regression():
    logit = np.log(PROBABILITY / (1 - PROBABILITY))
    other = LogisticRegression(C=np.inf, tol=1e-9).fit(logit[:, None], TRUTH)
    expected = (other.coef_[0, 0], other.intercept_[0])
    assert calibration_line(TRUTH, PROBABILITY) == pytest.approx(expected, abs=1e-3)


def test_right_probabilities_have_slope_one_and_intercept_zero():
    rng = np.random.default_rng(3)
    probability = rng.uniform(0.05, 0.95, 20_000)
    truth = rng.random(20_000) < probability
    slope, intercept = calibration_draws(truth, probability, patient_resamples(range(20_000), 0, 0))
    assert slope[0] == pytest.approx(1, abs=0.06)
    assert intercept[0] == pytest.approx(0, abs=0.06)


def test_repeats_count_as_their_mean():
    scores = np.stack([PROBABILITY, 1 - PROBABILITY])
    drawn = metric_draws(Judged(TRUTH.astype(int), scores, scores > 0.5, NAMES), 100, 0)
    assert np.allclose(drawn["auc"], 0.5)


def test_concordances_equal_those_of_scikit_survival():
    metrics = pytest.importorskip("sksurv.metrics")
    outcome, risk = simulated_patients(120, 3, 0, asked=BY_TIME).outcome, simulated(120, 3, 0).log_odds.round(1)
    drawn = survival_draws(outcome, risk, patient_resamples(NAMES, 0, 0))
    assert drawn["harrell_c"][0] == pytest.approx(
        metrics.concordance_index_censored(outcome["event"], outcome["time"], risk)[0]
    )
    assert drawn["uno_c"][0] == pytest.approx(metrics.concordance_index_ipcw(outcome, outcome, risk)[0], abs=2e-3)


def test_resampled_concordance_equals_that_of_the_repeated_patients():
    outcome, risk = simulated_patients(40, 3, 1, asked=BY_TIME).outcome, simulated(40, 3, 1).log_odds
    resampled = patient_resamples([f"p{number:02d}" for number in range(40)], 3, 0)
    drawn = pair_draws(outcome, risk, np.ones(40), resampled)
    for value, weight in zip(drawn, resampled.weights, strict=True):
        rows = np.repeat(np.arange(40), weight.astype(int))
        assert value == pytest.approx(concordance(outcome[rows], risk[rows]))


def test_share_under_observation_by_hand():
    outcome = np.array(
        [(True, 1.0), (False, 2.0), (True, 3.0), (False, 4.0)], dtype=[("event", bool), ("time", np.float64)]
    )
    assert observed_share(outcome) == pytest.approx([1, 1, 2 / 3, 2 / 3])


def test_kaplan_meier_by_hand():
    pytest.importorskip("sksurv")
    outcome = np.array(
        [(True, 1.0), (False, 2.0), (True, 3.0), (False, 4.0)], dtype=[("event", bool), ("time", np.float64)]
    )
    curve = kaplan_meier(outcome)
    assert curve.time.tolist() == [0, 1, 2, 3, 4]
    assert curve.survival.tolist() == [1, 0.75, 0.75, 0.375, 0.375]
    assert curve.at_risk.tolist() == [4, 4, 3, 2, 1]


def test_concordance_without_a_pair_is_a_half():
    assert concordance(np.zeros(3, int), np.arange(3.0)) == 0.5


def test_youden_threshold_by_hand():
    is_positive = np.array([False, False, True, False, True, True])
    assert youden_threshold(is_positive, np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.8])) == pytest.approx(0.25)
    assert youden_threshold(is_positive, np.array([0.1, 0.2, 0.15, 0.4, 0.6, 0.8])) == pytest.approx(0.5)


def test_roc_band_follows_scikit_learns_curve():
    band = roc_band(Judged(TRUTH.astype(int), PROBABILITY[None], PROBABILITY[None] > 0.5, NAMES), 100, 0)
    false, found, _ = roc_curve(TRUTH, PROBABILITY, drop_intermediate=False)
    step = 0.5 / (~TRUTH).sum()
    between = band.false_positive_rate[(band.false_positive_rate > step)]
    assert np.allclose(np.interp(between, false, found), band.sensitivity[band.false_positive_rate > step], atol=0.05)
    assert (band.low <= band.sensitivity + 1e-9).all()
    assert (band.sensitivity <= band.high + 1e-9).all()


def test_calibration_groups_hold_everybody_once():
    groups = calibration_groups(TRUTH, PROBABILITY, 7)
    assert groups.patients.sum() == 120
    assert np.average(groups.share, weights=groups.patients) == pytest.approx(TRUTH.mean())
    assert (np.diff(groups.predicted) > 0).all()
