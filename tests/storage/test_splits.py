from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import CohortError
from storage.splits import checked_fractions, split_of

FRACTIONS = (0.7, 0.15, 0.15)


def test_splits_come_in_about_the_proportion_asked_for():
    counts = Counter(split_of(f"patient {number}", FRACTIONS) for number in range(20_000))
    assert counts["train"] / 20_000 == pytest.approx(0.7, abs=0.02)
    assert counts["validation"] / 20_000 == pytest.approx(0.15, abs=0.02)


def test_a_split_is_the_same_in_every_process_and_year():
    assert [split_of(f"patient {number}", FRACTIONS) for number in (0, 3, 5)] == ["train", "test", "validation"]


def test_another_salt_is_another_draw():
    patients = [f"patient {number}" for number in range(1000)]
    moved = sum(split_of(patient, FRACTIONS) != split_of(patient, FRACTIONS, "again") for patient in patients)
    assert moved / 1000 == pytest.approx(1 - 0.7**2 - 2 * 0.15**2, abs=0.05)


@given(st.text())
def test_a_fraction_of_nothing_gets_no_patient(patient):
    assert split_of(patient, (1.0, 0.0, 0.0)) == "train"
    assert split_of(patient, (0.0, 0.0, 1.0)) == "test"


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1), (0.5, 0.5)])
def test_fractions_that_are_no_shares_of_one_are_refused(fractions):
    with pytest.raises(CohortError, match="sum to 1"):
        checked_fractions(fractions)
