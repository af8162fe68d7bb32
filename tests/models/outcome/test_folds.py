"""Who is in which fold."""

import numpy as np
import pytest

from models.errors import ModelError
from models.outcome import check_folds
from models.outcome.nested import outer_folds
from tests.models.outcome.patients import BY_TIME, FAST, simulated_patients


def test_each_patient_is_held_out_once_and_never_trained_on_then():
    patients = simulated_patients(53, 3, 0)
    folds = outer_folds(patients, FAST, 0)
    assert np.array_equal(np.sort(np.concatenate([held_out for _, held_out in folds])), np.arange(53))
    assert all(len(np.intersect1d(train, held_out)) == 0 for train, held_out in folds)


def test_positives_are_spread_evenly():
    patients = simulated_patients(53, 3, 0)
    counts = [int(patients.event[held_out].sum()) for _, held_out in outer_folds(patients, FAST, 0)]
    assert max(counts) - min(counts) <= 1


def test_repeats_draw_other_folds():
    patients = simulated_patients(53, 3, 0)
    first, second = (outer_folds(patients, FAST, repeat)[0][1] for repeat in (0, 1))
    assert not np.array_equal(first, second)


def test_too_few_of_a_class_are_refused_with_how_many_are_needed():
    patients = simulated_patients(30, 3, 0)
    patients.outcome[:] = 0
    patients.outcome[:4] = 1
    with pytest.raises(ModelError, match=r"4 patients with response are too few for 5 folds with 3 inside: 5 are need"):
        check_folds(patients, 5, 3, "response")
    check_folds(patients, 2, 2, "response")


def test_survival_needs_enough_events_only():
    patients = simulated_patients(30, 3, 0, asked=BY_TIME)
    patients.outcome["event"] = True
    check_folds(patients, 5, 3, "death")
    patients.outcome["event"] = np.arange(30) < 2
    with pytest.raises(ModelError, match="2 patients with death"):
        check_folds(patients, 5, 3, "death")
