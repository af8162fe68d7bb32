"""Stability of selections, and whether two sources of features are equally good."""

import numpy as np
import pytest

from models.outcome.agreement import (
    delong_p,
    nogueira_stability,
    permutation_p,
    selection_matrix,
    two_sided_p,
)


def test_same_selection_each_time_has_stability_one():
    assert nogueira_stability(selection_matrix([["a", "b"]] * 4, ["a", "b", "c", "d"])) == pytest.approx(1)


def test_stability_by_hand():
    # p = (1, ½, ½, 0), M = 2: mean of 2 p (1 − p) = 0.25; k̄/d = ½: Φ = 1 − 0.25 / 0.25
    assert nogueira_stability(selection_matrix([["a", "b"], ["a", "c"]], ["a", "b", "c", "d"])) == pytest.approx(0)


def test_selections_by_lot_have_a_stability_near_zero():
    rng = np.random.default_rng(0)
    drawn = np.array([np.isin(np.arange(50), rng.choice(50, 10, replace=False)) for _ in range(200)])
    assert abs(nogueira_stability(drawn)) < 0.02


def test_stability_of_one_selection_is_unknown():
    assert np.isnan(nogueira_stability(np.ones((1, 3), bool)))


def test_delong_agrees_with_a_paired_bootstrap():
    rng = np.random.default_rng(1)
    truth = rng.random(400) < 0.5
    a, b = truth + rng.normal(size=400), 0.6 * truth + rng.normal(size=400)
    p = delong_p(truth, a, b)
    differences = []
    for _ in range(2000):
        rows = rng.integers(0, 400, 400)
        differences.append(quick_auc(truth[rows], a[rows]) - quick_auc(truth[rows], b[rows]))
    z = (quick_auc(truth, a) - quick_auc(truth, b)) / np.std(differences)
    from scipy.stats import norm

    assert norm.isf(p / 2) == pytest.approx(z, rel=0.1)


def test_delong_of_equal_scores_is_unknown():
    assert np.isnan(delong_p(np.array([True, False, True]), np.arange(3.0), np.arange(3.0)))


def test_permutation_p_is_never_zero():
    assert permutation_p(0.9, [0.5, 0.6, 0.4]) == 0.25
    assert permutation_p(0.5, [0.5, 0.6, 0.4]) == 0.75


def test_two_sided_p_of_resampled_differences():
    assert two_sided_p(np.array([0.1, 0.2, 0.3])) == 0.5
    assert two_sided_p(np.array([-0.1, 0.1])) == 1.0


def quick_auc(truth: np.ndarray, score: np.ndarray) -> float:
    ranks = score.argsort().argsort() + 1
    positives = truth.sum()
    return (ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * (~truth).sum())
