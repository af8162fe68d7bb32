"""The kernel inception distance against sums over pairs, and where its value is known."""

import itertools
import math

import numpy as np
import pytest

from models.metrics.kid import kernel_inception_distance


def kernel(x, y):
    return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def test_it_is_what_sums_over_pairs_give():
    drawn = np.random.default_rng(0)
    real, made = drawn.normal(size=(7, 3)), drawn.normal(1, 2, size=(5, 3))
    within = [mean(kernel(x, y) for x, y in itertools.permutations(one, 2)) for one in (real, made)]
    between = mean(kernel(x, y) for x, y in itertools.product(real, made))
    assert kernel_inception_distance(real, made) == pytest.approx(sum(within) - 2 * between)


def test_of_two_points_it_is_their_distance_by_the_kernel():
    """Images that are all at 0, and all at 1: k(0, 0) + k(1, 1) − 2 k(0, 1) = 1 + 8 − 2."""
    assert kernel_inception_distance(np.zeros((4, 1)), np.ones((3, 1))) == pytest.approx(7)


def test_it_is_zero_in_the_mean_over_sets_of_one_distribution():
    drawn = np.random.default_rng(0)
    of_sets = [kernel_inception_distance(*drawn.normal(size=(2, 40, 8))) for _ in range(200)]
    assert min(of_sets) < 0 < max(of_sets)
    assert abs(mean(of_sets)) < 3 * np.std(of_sets) / math.sqrt(len(of_sets))


def test_it_grows_as_the_sets_part():
    drawn = np.random.default_rng(0)
    real, made = drawn.normal(size=(2, 100, 4))
    near, far = (kernel_inception_distance(real, made + shift) for shift in (0.5, 1.0))
    assert 0 < near < far


def test_of_a_single_image_it_is_unknown():
    assert math.isnan(kernel_inception_distance(np.zeros((1, 2)), np.zeros((5, 2))))
