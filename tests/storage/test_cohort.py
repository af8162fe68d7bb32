import pickle

import numpy as np
import pytest

from storage import Cohort, CohortError, Rejected, SourceError
from storage.layout import Corrections


def test_what_is_appended_is_read_back(cohort, make_case):
    reopened = Cohort.open(cohort.path)
    assert len(reopened) == 8
    assert np.array_equal(reopened.image(3), make_case(3).image)
    assert np.array_equal(reopened.images([5, 1]), np.stack([make_case(5).image, make_case(1).image]))
    row = reopened.table.loc[3]
    assert (row.case_id, row.patient_id, row.grade) == ("c3", "patient 1", 3.0)
    assert (row.size_z, row.size_y, row.size_x) == (1, 32, 32)
    assert reopened.geometry(3) == make_case(3).geometry
    assert reopened.spacing(3) == make_case(3).geometry.grid.spacing_mm


def test_masks_come_in_the_order_of_the_lesion_classes(cohort, make_case):
    masks = cohort.masks(4)
    assert cohort.lesions == ("HE", "MA")
    assert not masks[0].any()
    assert np.array_equal(masks[1], make_case(4).masks["MA"])
    assert np.array_equal(cohort.mask(4), masks[1])
    assert not cohort.mask(4, ["HE"]).any()


def test_an_unknown_lesion_class_is_named(cohort):
    with pytest.raises(CohortError, match="no lesion class 'SE'; it has: HE, MA"):
        cohort.mask(0, ["SE"])


def test_a_case_nobody_annotated_is_told_from_one_without_lesions(cohort, make_case):
    cohort.append([make_case(20, masks=None), make_case(21, masks={})])
    assert cohort.table["has_masks"].tolist()[-2:] == [False, True]


def test_a_snapshot_shows_the_older_state(cohort, make_case):
    before = cohort.snapshot
    after = cohort.append([make_case(8), make_case(9)])
    assert (len(cohort), cohort.snapshot) == (10, after)
    old = Cohort.open(cohort.path, before)
    assert len(old) == 8
    with pytest.raises(IndexError):
        old.image(8)


def test_a_cohort_opened_at_a_snapshot_stays_there_when_it_writes(cohort, make_case):
    old = Cohort.open(cohort.path, cohort.snapshot)
    old.append([make_case(8)])
    assert len(old) == 8
    assert len(Cohort.open(cohort.path)) == 9


def test_the_history_lists_the_states_newest_first(cohort, make_case):
    first = cohort.snapshot
    second = cohort.append([make_case(8)])
    assert [state.id for state in cohort.history()[:2]] == [second, first]
    assert "1 cases added" in cohort.history()[0].message
    assert Cohort.open(cohort.path, first).history()[0].id == first


def test_an_unknown_snapshot_is_named(cohort):
    with pytest.raises(CohortError, match="has no snapshot 'nonsense'"):
        Cohort.open(cohort.path, "nonsense")


def test_a_path_without_cohort_is_said_so_and_left_as_it_was(tmp_path):
    with pytest.raises(CohortError, match="there is no cohort at"):
        Cohort.open(tmp_path / "absent")
    assert not Cohort.exists(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_a_folder_of_something_else_is_no_cohort_and_becomes_none(photographs):
    assert not Cohort.exists(photographs)
    with pytest.raises(CohortError, match="cannot be made a cohort"):
        Cohort.create(photographs, grid=(8, 8), dims=("y", "x"), channels=("grey",), dtype="uint8")
    assert len(list(photographs.iterdir())) == 6


def test_a_cohort_is_not_created_over_another(cohort):
    with pytest.raises(CohortError, match="already"):
        Cohort.create(cohort.path, grid=(8, 8), dims=("y", "x"), channels=("grey",), dtype="uint8")
    assert len(Cohort.open(cohort.path)) == 8


@pytest.mark.parametrize("label", ["split", "image", "a/b", ""])
def test_a_label_cannot_take_a_name_that_the_cohort_needs(tmp_path, label):
    with pytest.raises(CohortError, match="a label cannot be called"):
        Cohort.create(tmp_path / "c", grid=(8, 8), dims=("y", "x"), channels=("grey",), dtype="uint8", labels=(label,))


def test_a_case_of_another_shape_is_refused_and_nothing_written(cohort, make_case):
    with pytest.raises(CohortError, match="case 'c9' is uint8"):
        cohort.append([make_case(8), make_case(9, image=np.zeros((3, 16, 16), np.uint8))])
    assert len(Cohort.open(cohort.path)) == 8


def test_a_case_with_an_unknown_lesion_class_is_refused(cohort, make_case):
    with pytest.raises(CohortError, match="lesion class 'SE'; the cohort has only: HE, MA"):
        cohort.append([make_case(9, masks={"SE": np.zeros((32, 32), bool)})])


def test_all_cases_of_a_patient_share_a_split(cohort):
    assert (cohort.table.groupby("patient_id")["split"].nunique() == 1).all()


def test_the_split_that_the_source_names_wins_for_the_whole_patient(cohort, make_case):
    cohort.append([make_case(20, patient_id="new", split="test"), make_case(21, patient_id="new")])
    cohort.append([make_case(22, patient_id="new")])
    assert cohort.table["split"].tolist()[-3:] == ["test", "test", "test"]


def test_a_patient_is_never_moved_into_a_second_split(cohort, make_case):
    cohort.append([make_case(20, patient_id="new", split="test")])
    with pytest.raises(SourceError, match="patient 'new' is in split test of the cohort and the source says train"):
        cohort.append([make_case(21, patient_id="new", split="train")])


def test_appending_a_case_twice_adds_nothing(cohort, make_case):
    snapshot = cohort.snapshot
    assert cohort.append([make_case(3)]) == snapshot
    assert len(cohort) == 8


def test_the_quarantine_keeps_one_row_a_file(cohort):
    cohort.append([], [Rejected("bad.png", "first", "1"), Rejected("other.png", "x")])
    cohort.append([], [Rejected("bad.png", "second", "2")])
    assert Cohort.open(cohort.path).quarantine.to_dict("records") == [
        {"file": "bad.png", "sha256": "2", "reason": "second"},
        {"file": "other.png", "sha256": "", "reason": "x"},
    ]


def test_the_digest_is_the_same_for_the_same_cases_in_any_order(tmp_path, cohort, make_case):
    other = Cohort.create(
        tmp_path / "other",
        grid=(32, 32),
        dims=("y", "x"),
        channels=("red", "green", "blue"),
        dtype="uint8",
        lesions=("HE", "MA"),
        labels=("grade",),
    )
    other.append([make_case(number) for number in reversed(range(8))])
    assert other.content_digest() == cohort.content_digest()


def test_the_digest_changes_with_a_label_and_with_a_case(cohort, make_case):
    digests = {cohort.content_digest()}
    cohort.record([], corrections=Corrections(labels={2: {"grade": 4.0}}))
    digests.add(cohort.content_digest())
    cohort.append([make_case(8)])
    digests.add(cohort.content_digest())
    assert len(digests) == 3
    assert Cohort.open(cohort.path).table.loc[2, "grade"] == 4.0


def test_a_pickled_cohort_opens_at_its_snapshot(cohort, make_case):
    copy = pickle.loads(pickle.dumps(cohort))
    cohort.append([make_case(8)])
    assert len(copy) == 8


def test_xarray_reads_the_cohort_with_its_coordinates(cohort):
    dataset = cohort.to_xarray()
    assert {"case_id", "patient_id", "split", "file", "sha256"} <= set(dataset.coords)
    assert dict(dataset.sizes) == {"case": 8, "channel": 3, "y": 32, "x": 32, "lesion": 2}
    assert np.array_equal(dataset["image"][2].values, cohort.image(2))
    assert dataset["grade"].values.tolist() == cohort.table["grade"].tolist()
    assert dataset["lesion"].values.tolist() == ["HE", "MA"]


def test_a_cohort_without_lesions_and_labels_has_none(tmp_path, make_case):
    bare = Cohort.create(tmp_path / "bare", grid=(32, 32), dims=("y", "x"), channels=("r", "g", "b"), dtype="uint8")
    bare.append([make_case(0, labels={}, masks=None)])
    assert bare.masks(0).shape == (0, 32, 32)
    assert not bare.mask(0).any()
    assert len(Cohort.open(bare.path)) == 1
