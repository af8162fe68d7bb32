"""Means over seeds."""

import numpy as np
import pytest
from scipy import stats

from tasks.reproduction.statistics import common_seeds, estimate, relative_gains


def test_interval_is_that_of_a_one_sample_t_test():
    sample = np.random.default_rng(0).normal(0.4, 0.1, 5)
    low, high = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    found = estimate(sample.tolist())
    assert found.mean == pytest.approx(sample.mean())
    assert found.interval == pytest.approx((low, high))


def test_interval_holds_the_true_mean_19_times_in_20():
    rng = np.random.default_rng(1)
    samples = [estimate(rng.normal(0, 1, 3).tolist()).interval for _ in range(4000)]
    covered = np.mean([low <= 0 <= high for low, high in samples if low is not None])
    assert covered == pytest.approx(0.95, abs=0.012)


def test_one_value_has_no_interval_and_equal_values_one_of_no_width():
    assert estimate([0.3]) == (0.3, None, 1)
    assert estimate([0.3, 0.3]) == (0.3, (0.3, 0.3), 2)


def test_gains_are_relative_and_paired_by_seed():
    assert relative_gains({0: 1.1, 1: 2.4, 2: 9.0}, {0: 1.0, 1: 2.0, 3: 1.0}) == pytest.approx({0: 0.1, 1: 0.2})


def test_there_is_no_gain_over_nothing():
    assert relative_gains({0: 1.0}, {0: 0.0}) == {}


def test_common_seeds_are_those_that_all_have():
    assert common_seeds({2: 0.0, 0: 0.0}, {0: 1.0, 1: 1.0, 2: 1.0}) == [0, 2]
    assert common_seeds() == []
