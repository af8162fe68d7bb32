import numpy as np
import pandas as pd
import pytest

from storage import Cohort, CohortError, Rejected, engine
from storage.differences import differences
from storage.layout import Corrections

EMPTY = {
    **{name: [] for name in ("added", "gone", "pixels", "masks", "labels", "split", "set aside", "freed")},
    "maps": {},
}


def changes(cohort: Cohort, before: str) -> dict:
    """What differs since, without what is empty."""
    found = differences(cohort.path, before, cohort.snapshot)
    assert set(found) == set(EMPTY)
    return {name: value for name, value in found.items() if value != EMPTY[name]}


def write_maps(cohort: Cohort, name: str, cases: list[int]) -> str:
    saliency = np.zeros((len(cases), 32, 32), np.float32)
    return cohort.write_maps(name, cases, saliency, pd.DataFrame({"score": [1.0] * len(cases)}))


def test_a_state_does_not_differ_from_itself(cohort):
    assert differences(cohort.path, cohort.snapshot, cohort.snapshot) == EMPTY


def test_new_cases_are_added_and_seen_from_the_other_side_gone(cohort, make_case):
    before = cohort.snapshot
    cohort.append([make_case(9), make_case(8)])
    assert changes(cohort, before) == {"added": ["c8", "c9"]}
    assert differences(cohort.path, cohort.snapshot, before) == {**EMPTY, "gone": ["c8", "c9"]}


def test_each_kind_of_correction_is_listed_under_its_own_name(cohort, make_case):
    before = cohort.snapshot
    better = Corrections(
        labels={2: {"grade": 9.0}, 3: {"grade": float("nan")}},
        masks={4: {"HE": np.ones((32, 32), bool)}, 5: None},
        images={6: make_case(60).image},
    )
    cohort.record([], corrections=better)
    assert changes(cohort, before) == {"labels": ["c2", "c3"], "masks": ["c4", "c5"], "pixels": ["c6"]}


def test_two_missing_labels_are_the_same(cohort, make_case):
    cohort.append([make_case(8, labels={})])
    before = cohort.snapshot
    cohort.append([make_case(9, labels={})])
    assert changes(cohort, before) == {"added": ["c9"]}


def test_what_was_written_anew_as_it_was_is_no_difference(cohort, make_case):
    before = cohort.snapshot
    same = Corrections(labels={1: {"grade": 1.0}}, masks={1: make_case(1).masks}, images={1: make_case(1).image})
    assert cohort.record([], corrections=same).snapshot != before
    assert differences(cohort.path, before, cohort.snapshot) == EMPTY


def test_a_new_stamp_is_no_difference(cohort):
    before = cohort.snapshot
    cohort.record([], corrections=Corrections(stamps={0: "1:2"}))
    assert differences(cohort.path, before, cohort.snapshot) == EMPTY


def test_a_case_in_another_split_is_listed(cohort):
    before = cohort.snapshot
    was = cohort.table["split"].iat[3]

    def moved(group, _):
        engine.replace_values(group, "split", {3: "test" if was != "test" else "train"})
        return "moved by hand"

    engine.transact(engine.open_repository(cohort.path), cohort.path, moved)
    assert changes(Cohort.open(cohort.path), before) == {"split": ["c3"]}


def test_files_that_were_set_aside_and_freed_are_listed(cohort):
    before = cohort.snapshot
    cohort.append([], [Rejected("b.png", "x"), Rejected("a.png", "y")])
    middle = cohort.snapshot
    assert changes(cohort, before) == {"set aside": ["a.png", "b.png"]}
    cohort.record([], settled=["a.png"])
    assert changes(cohort, middle) == {"freed": ["a.png"]}
    assert changes(cohort, before) == {"set aside": ["b.png"]}


def test_maps_are_counted_by_set(cohort):
    write_maps(cohort, "gone", [1])
    before = write_maps(cohort, "m", [0, 1])
    cohort.drop_maps("gone")
    write_maps(cohort, "m", [1, 2])
    write_maps(cohort, "new/v1", [3])
    assert changes(cohort, before) == {"maps": {"gone": "1 → 0", "m": "2 → 3", "new/v1": "0 → 1"}}


def test_an_unknown_snapshot_is_named(cohort):
    with pytest.raises(CohortError, match="has no snapshot 'nonsense'"):
        differences(cohort.path, "nonsense", cohort.snapshot)
