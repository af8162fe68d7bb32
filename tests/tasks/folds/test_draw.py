"""Folds are drawn by patient: what must hold of every draw."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import CohortError
from tasks.folds.draw import Fold, draw_folds, rare_values, strata

QUICK = settings(deadline=None, max_examples=40)
GRADES = st.integers(0, 4).map(float)
NUMBERS = st.floats(-1e3, 1e3, allow_nan=False) | st.just(float("nan"))


@st.composite
def cohorts(draw: st.DrawFn, label: st.SearchStrategy[float]) -> tuple[list[str], list[float], int]:
    """Patients with one to three cases each, their labels, and a number of folds that they allow."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=8, max_size=30))
    patients = [f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]
    labels = draw(st.lists(label, min_size=len(patients), max_size=len(patients)))
    return patients, labels, draw(st.integers(2, len(sizes)))


def patients_of(patients: list[str], positions: tuple[int, ...]) -> set[str]:
    return {patients[position] for position in positions}


def by_patient(folds: list[Fold], patients: list[str]) -> list[list[set[str]]]:
    return [[patients_of(patients, part) for part in (fold.train, fold.validation, fold.held_out)] for fold in folds]


@QUICK
@given(cohorts(GRADES | NUMBERS), st.integers(0, 5))
def test_every_fold_divides_all_cases_into_three_parts_and_no_patient_is_in_two(cohort, seed: int):
    patients, labels, count = cohort
    for fold in draw_folds(patients, labels, count, seed=seed):
        parts = (fold.train, fold.validation, fold.held_out)
        assert all(parts)
        assert sorted(sum(parts, ())) == list(range(len(patients)))
        assert sum(len(patients_of(patients, part)) for part in parts) == len(set(patients))


@QUICK
@given(cohorts(GRADES), st.integers(1, 3))
def test_every_case_is_held_out_once_a_repeat(cohort, repeats: int):
    patients, labels, count = cohort
    folds = draw_folds(patients, labels, count, repeats)
    for repeat in range(1, repeats + 1):
        held_out = [position for fold in folds if fold.repeat == repeat for position in fold.held_out]
        assert sorted(held_out) == list(range(len(patients)))


@QUICK
@given(st.lists(GRADES, min_size=10, max_size=60), st.integers(2, 10), st.integers(0, 5))
def test_where_a_patient_is_a_case_each_value_is_spread_to_within_one_case(labels, count: int, seed: int):
    patients = [f"p{number}" for number in range(len(labels))]
    common = {value for value, cases in Counter(labels).items() if cases >= count}
    folds = draw_folds(patients, labels, count, seed=seed)
    for value in common:
        shares = [sum(labels[position] == value for position in fold.held_out) for fold in folds]
        assert max(shares) - min(shares) <= 1


@QUICK
@given(cohorts(GRADES | NUMBERS), st.randoms(use_true_random=False))
def test_the_draw_does_not_depend_on_the_order_in_which_cases_arrived(cohort, random):
    patients, labels, count = cohort
    order = random.sample(range(len(patients)), len(patients))
    moved, moved_labels = [patients[place] for place in order], [labels[place] for place in order]
    assert by_patient(draw_folds(patients, labels, count), patients) == by_patient(
        draw_folds(moved, moved_labels, count), moved
    )


def test_other_repeats_and_seeds_are_other_draws():
    patients, labels = [f"p{number}" for number in range(40)], [0.0, 1.0] * 20
    first, second = (
        [fold.held_out for fold in draw_folds(patients, labels, 4, repeats=2) if fold.repeat == repeat]
        for repeat in (1, 2)
    )
    other = [fold.held_out for fold in draw_folds(patients, labels, 4, seed=1)]
    assert first != second
    assert first != other


def test_leaving_one_out_leaves_out_one_patient_with_all_cases():
    patients = ["b", "a", "a", "c", "d", "d"]
    folds = draw_folds(patients, [0, 1, 1, 0, 2, 0], "loo")
    assert [patients_of(patients, fold.held_out) for fold in folds] == [{"a"}, {"b"}, {"c"}, {"d"}]


def test_validation_takes_about_its_share_of_the_training_patients_and_their_grades():
    patients, labels = [f"p{number}" for number in range(400)], [0.0, 1.0, 2.0, 3.0] * 100
    for fold in draw_folds(patients, labels, 5):
        assert len(fold.validation) / 320 == pytest.approx(0.15, abs=0.02)
        assert set(Counter(labels[place] for place in fold.validation).values()) <= {11, 12}


def test_the_patient_with_most_cases_is_not_in_every_validation_part():
    patients = ["large"] * 8 + [f"p{number}" for number in range(30)]
    folds = draw_folds(patients, [0.0] * len(patients), 2, repeats=10)
    validated = [0 in fold.validation for fold in folds if 0 not in fold.held_out]
    assert not all(validated)


def test_continuous_labels_are_spread_by_their_quantiles():
    values = np.random.default_rng(0).lognormal(size=200)
    folds = draw_folds([f"p{number}" for number in range(200)], values, 5)
    above = [np.mean(values[list(fold.held_out)] > np.quantile(values, 0.9)) for fold in folds]
    assert np.ptp(above) <= 0.06


def test_values_rarer_than_folds_are_spread_and_told():
    patients, labels = [f"p{number}" for number in range(23)], [0.0] * 20 + [4.0] * 3
    rare = [sum(labels[place] == 4.0 for place in fold.held_out) for fold in draw_folds(patients, labels, 5)]
    assert sorted(rare) == [0, 0, 1, 1, 1]
    assert rare_values(patients, labels, 5) == {4.0: 3}
    assert rare_values([*patients, "p22"], [*labels, float("nan")], 5) == {4.0: 3}
    assert rare_values(patients, labels, "loo") == {}


def test_neighbouring_values_count_as_one_where_all_are_rarer_than_folds():
    patients, labels = [f"p{number}" for number in range(40)], [float(number % 5) for number in range(40)]
    low = [sum(labels[place] <= 1 for place in fold.held_out) for fold in draw_folds(patients, labels, 10)]
    assert max(low) - min(low) <= 1


def test_unknown_labels_are_a_stratum_of_their_own():
    assert strata(np.array([2.0, np.nan, 1.0, np.nan]), 2).tolist() == [1, 2, 0, 2]


@pytest.mark.parametrize(
    ("patients", "folds", "repeats", "words"),
    [
        (10, 1, 1, "2 or more"),
        (10, 11, 1, "10 patients"),
        (10, 5, 0, "repeats"),
        (2, "loo", 1, "too few"),
        (3, 2, 1, "more folds"),
    ],
)
def test_what_cannot_be_divided_is_one_clear_line(patients: int, folds, repeats: int, words: str):
    with pytest.raises(CohortError, match=words) as error:
        draw_folds([f"p{number}" for number in range(patients)], [0.0] * patients, folds, repeats)
    assert "\n" not in str(error.value)
