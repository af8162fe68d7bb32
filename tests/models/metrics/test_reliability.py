import numpy as np
import pytest

from models.metrics.reliability import intraclass_correlation

# Shrout and Fleiss 1979, table 2: six targets rated by four judges
JUDGES = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


@pytest.mark.parametrize(
    ("kind", "icc", "low", "high"),
    [("1,1", 0.17, -0.13, 0.72), ("2,1", 0.29, 0.02, 0.76), ("3,1", 0.71, 0.34, 0.95)],
)
def test_the_published_example_comes_out_with_the_intervals_of_psych_and_pingouin(kind, icc, low, high):
    found = intraclass_correlation(JUDGES, kind)
    assert (found.icc, found.low, found.high) == pytest.approx((icc, low, high), abs=0.006)
    assert found.subjects == 6


def test_a_judge_who_adds_a_constant_agrees_in_order_and_not_in_value():
    ratings = np.arange(8.0)[:, None] + np.array([0, 20])
    assert intraclass_correlation(ratings, "3,1").icc == pytest.approx(1)
    assert intraclass_correlation(ratings, "1,1").icc < 0


@pytest.mark.parametrize("kind", ["1,1", "2,1", "3,1"])
def test_a_common_factor_and_offset_change_nothing(kind):
    ratings = np.array(JUDGES, dtype=float)
    assert intraclass_correlation(1e-9 * ratings + 3e-9, kind)[:3] == pytest.approx(
        intraclass_correlation(ratings, kind)[:3]
    )


def test_equal_repetitions_are_perfect_and_equal_ratings_say_nothing():
    assert intraclass_correlation(np.repeat([[1.0], [2.0], [4.0]], 3, axis=1))[:3] == (1, 1, 1)
    assert np.isnan(intraclass_correlation(np.ones((5, 3))).icc)


def test_a_subject_with_a_gap_takes_no_part():
    with_gap = np.array([*JUDGES, [1, np.nan, 2, 3]], dtype=float)
    assert intraclass_correlation(with_gap) == intraclass_correlation(JUDGES)


def test_one_subject_or_one_repetition_says_nothing():
    assert np.isnan(intraclass_correlation([[1.0, 2.0]]).icc)
    assert np.isnan(intraclass_correlation([[1.0], [2.0]]).icc)


@pytest.mark.parametrize("kind", ["1,1", "3,1"])
def test_the_interval_holds_the_true_value_in_95_of_100_draws(kind):
    # between variance 3, within 1: the true correlation is 0.75
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        ratings = np.sqrt(3) * random.normal(size=(20, 1)) + random.normal(size=(20, 4))
        found = intraclass_correlation(ratings, kind)
        held += found.low <= 0.75 <= found.high
    assert 0.92 <= held / 400 <= 0.98
