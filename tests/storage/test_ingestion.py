import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storage import Case, Cohort, CohortError, SourceError, ingest, open_source
from storage.admission import Register, admit
from storage.geometry import plain
from storage.layout import Layout, rows_for


def take_in(folder, cohort, batch=64, fractions=None, **options):
    source = open_source(str(folder), **{"size": 32, "crop": False, **options})
    return ingest(source, cohort, batch=batch, fractions=fractions)


def write_labels(folder, *rows, header="file,g"):
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    return {"labels": folder / "labels.csv", "label": {"grade": "g"}}


def test_every_photograph_becomes_a_case(photographs, tmp_path):
    report = take_in(photographs, tmp_path / "cohort", batch=4)
    cohort = Cohort.open(tmp_path / "cohort")
    assert (report.added, report.known, report.quarantined) == (6, 0, [])
    assert report.snapshot == cohort.snapshot
    for row in cohort.table.itertuples():
        assert np.array_equal(
            cohort.image(row.Index), np.asarray(Image.open(photographs / row.file)).transpose(2, 0, 1)
        )


def test_ingesting_twice_adds_nothing_and_makes_no_snapshot(photographs, tmp_path):
    first = take_in(photographs, tmp_path / "cohort")
    second = take_in(photographs, tmp_path / "cohort")
    assert (second.added, second.known, second.snapshot) == (0, 6, first.snapshot)


def test_new_photographs_join_and_nobody_changes_split(photographs, tmp_path):
    take_in(photographs, tmp_path / "cohort")
    before = Cohort.open(tmp_path / "cohort").table.set_index("patient_id")["split"]
    for number in range(6, 12):
        Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(photographs / f"p{number}.png")
    assert take_in(photographs, tmp_path / "cohort").added == 6
    after = Cohort.open(tmp_path / "cohort").table.set_index("patient_id")["split"]
    assert after[before.index].equals(before)


def test_progress_is_told_after_each_batch(photographs, tmp_path):
    told = []
    ingest(open_source(str(photographs), size=32), tmp_path / "c", batch=4, on_progress=lambda *done: told.append(done))
    assert told == [(4, 6), (6, 6)]


def test_a_broken_file_is_set_aside_and_the_rest_goes_on(photographs, tmp_path):
    (photographs / "p2.png").write_bytes(b"broken")
    report = take_in(photographs, tmp_path / "cohort", batch=2)
    assert report.added == 5
    assert [one.file for one in report.quarantined] == ["p2.png"]
    assert Cohort.open(tmp_path / "cohort").quarantine["file"].tolist() == ["p2.png"]


def test_a_repaired_file_leaves_the_quarantine(photographs, tmp_path):
    whole = (photographs / "p2.png").read_bytes()
    (photographs / "p2.png").write_bytes(whole[:100])
    take_in(photographs, tmp_path / "cohort")
    (photographs / "p2.png").write_bytes(whole)
    assert take_in(photographs, tmp_path / "cohort").added == 1
    assert Cohort.open(tmp_path / "cohort").quarantine.empty


def test_a_file_that_stays_broken_is_reported_again_without_a_new_snapshot(photographs, tmp_path):
    (photographs / "p2.png").write_bytes(b"broken")
    first = take_in(photographs, tmp_path / "cohort")
    second = take_in(photographs, tmp_path / "cohort")
    assert second.snapshot == first.snapshot
    assert len(second.quarantined) == 1


def test_broken_files_before_the_first_good_one_are_kept_in_quarantine(photographs, tmp_path):
    for name in ("p0.png", "p1.png", "p2.png"):
        (photographs / name).write_bytes(b"broken")
    report = take_in(photographs, tmp_path / "cohort", batch=1)
    assert (report.added, len(report.quarantined)) == (3, 3)
    assert len(Cohort.open(tmp_path / "cohort").quarantine) == 3


def test_a_folder_of_nothing_but_broken_files_is_a_mistake(photographs, tmp_path):
    for file in photographs.iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(SourceError, match=r"none of the 6 files .* p0.png: is not an image"):
        take_in(photographs, tmp_path / "cohort")
    assert not Cohort.exists(tmp_path / "cohort")


def test_the_same_bytes_under_two_names_are_one_case(photographs, tmp_path):
    (photographs / "z.png").write_bytes((photographs / "p1.png").read_bytes())
    report = take_in(photographs, tmp_path / "cohort")
    assert report.added == 6
    assert [(one.file, one.reason.split(":")[0]) for one in report.quarantined] == [("z.png", "duplicate of p1.png")]
    assert take_in(photographs, tmp_path / "cohort").quarantined == report.quarantined


def test_the_same_folder_under_another_path_is_known(photographs, tmp_path):
    take_in(photographs, tmp_path / "cohort")
    report = take_in(photographs.parent, tmp_path / "cohort")
    assert (report.added, report.known, report.quarantined) == (0, 6, [])


def test_a_file_that_changed_since_is_set_aside(photographs, tmp_path):
    take_in(photographs, tmp_path / "cohort")
    original = (photographs / "p3.png").read_bytes()
    Image.new("RGB", (32, 32), "red").save(photographs / "p3.png")
    report = take_in(photographs, tmp_path / "cohort")
    assert "changed since it was ingested" in report.quarantined[0].reason
    (photographs / "p3.png").write_bytes(original)
    assert take_in(photographs, tmp_path / "cohort").quarantined == []
    assert Cohort.open(tmp_path / "cohort").quarantine.empty


def test_a_photograph_without_row_has_a_missing_label(photographs, tmp_path):
    take_in(photographs, tmp_path / "cohort", **write_labels(photographs, "p0,2", "p1.png,4"))
    grades = Cohort.open(tmp_path / "cohort").table["grade"].tolist()
    assert grades[:2] == [2.0, 4.0]
    assert all(math.isnan(grade) for grade in grades[2:])


def test_a_corrected_label_is_taken_over(photographs, tmp_path):
    take_in(photographs, tmp_path / "cohort", **write_labels(photographs, "p0,2", "p1,4"))
    digest = Cohort.open(tmp_path / "cohort").content_digest()
    report = take_in(photographs, tmp_path / "cohort", **write_labels(photographs, "p0,3", "p1,4"))
    cohort = Cohort.open(tmp_path / "cohort")
    assert (report.added, report.updated, cohort.table.loc[0, "grade"]) == (0, 1, 3.0)
    assert cohort.content_digest() != digest


def test_a_label_that_is_no_number_sets_the_file_aside_until_it_is_corrected(photographs, tmp_path):
    report = take_in(photographs, tmp_path / "cohort", **write_labels(photographs, "p0,severe", "p1,4"))
    assert report.added == 5
    assert report.quarantined[0].reason == "labels.csv says 'severe' in column 'g', which is not a number"
    report = take_in(photographs, tmp_path / "cohort", **write_labels(photographs, "p0,3", "p1,4"))
    assert (report.added, report.quarantined) == (1, [])


def test_a_known_file_whose_label_became_nonsense_keeps_its_label_and_is_reported(photographs, tmp_path):
    take_in(photographs, tmp_path / "cohort", **write_labels(photographs, "p0,2"))
    report = take_in(photographs, tmp_path / "cohort", **write_labels(photographs, "p0,two"))
    assert [one.file for one in report.quarantined] == ["p0.png"]
    assert Cohort.open(tmp_path / "cohort").table.loc[0, "grade"] == 2.0


def test_patients_and_splits_come_from_their_columns(photographs, tmp_path):
    labels = write_labels(photographs, "p0,2,ann,test", "p1,4,ann,test", "p2,0,bob,", header="file,g,who,s")
    take_in(photographs, tmp_path / "cohort", **labels, patient_column="who", split_column="s")
    table = Cohort.open(tmp_path / "cohort").table
    assert table["patient_id"].tolist() == ["ann", "ann", "bob", "p3", "p4", "p5"]
    assert table["split"].tolist()[:2] == ["test", "test"]


def test_a_cohort_of_another_kind_says_what_differs(photographs, tmp_path):
    take_in(photographs, tmp_path / "cohort")
    with pytest.raises(
        CohortError, match="the source has grid 64 × 64, the cohort has 32 × 32; labels grade, the cohort has none"
    ):
        take_in(photographs, tmp_path / "cohort", size=64, **write_labels(photographs, "p0,2"))


def test_a_grey_folder_does_not_fit_a_colour_cohort(photographs, tmp_path):
    take_in(photographs, tmp_path / "cohort")
    (tmp_path / "grey").mkdir()
    Image.new("L", (32, 32), 9).save(tmp_path / "grey" / "a.png")
    with pytest.raises(CohortError, match="channels grey, the cohort has red, green, blue"):
        take_in(tmp_path / "grey", tmp_path / "cohort")


def test_masks_do_not_fit_a_cohort_without_lesion_classes(photographs, tmp_path):
    take_in(photographs, tmp_path / "cohort")
    Image.new("1", (32, 32), 1).save(photographs / "p0_MA.png")
    with pytest.raises(CohortError, match="lesion classes MA, the cohort has none"):
        take_in(photographs, tmp_path / "cohort", masks=photographs)


def test_photographs_without_masks_fit_a_cohort_with_lesion_classes(photographs, tmp_path):
    (tmp_path / "masks").mkdir()
    Image.new("1", (32, 32), 1).save(tmp_path / "masks" / "p0_MA.png")
    take_in(photographs, tmp_path / "cohort", masks=tmp_path / "masks")
    (tmp_path / "weekly").mkdir()
    Image.new("RGB", (32, 32), "green").save(tmp_path / "weekly" / "new.png")
    assert take_in(tmp_path / "weekly", tmp_path / "cohort").added == 1
    assert Cohort.open(tmp_path / "cohort").table["has_masks"].tolist() == [True] * 6 + [False]


def test_other_fractions_than_the_cohort_was_split_in_are_refused(photographs, tmp_path):
    take_in(photographs, tmp_path / "cohort", fractions=(0.5, 0.25, 0.25))
    with pytest.raises(CohortError, match="split fractions"):
        take_in(photographs, tmp_path / "cohort", fractions=(0.8, 0.1, 0.1))
    assert take_in(photographs, tmp_path / "cohort").known == 6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.data())
def test_all_cases_of_a_patient_are_in_one_split_whatever_the_batches(patients, data):
    layout = Layout((1, 1), ("y", "x"), ("grey",), "uint8", (), (), (0.4, 0.3, 0.3))
    register, rest, tables = Register(), list(enumerate(patients)), []
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        admission = admit(register, [tiny_case(number, patient) for number, patient in rest[:count]], layout.fractions)
        tables.append(rows_for(admission.cases, admission.splits, layout))
        register.learn(tables[-1])
        rest = rest[count:]
    table = pd.concat(tables)
    assert len(table) == len(patients)
    assert (table.groupby("patient_id")["split"].nunique() == 1).all()


def tiny_case(number, patient):
    image = np.zeros((1, 1, 1), np.uint8)
    geometry = plain((1, 1), (1.0, 1.0))
    return Case(f"c{number}", f"p{patient}", f"c{number}.png", str(number), image, {}, None, geometry)


def test_an_ingestion_cut_short_before_its_first_case_goes_on_with_a_broken_file(tmp_path):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "a.png").write_bytes(b"broken")
    Cohort.create(tmp_path / "cohort", grid=(32, 32), dims=("y", "x"), channels=("red", "green", "blue"), dtype="uint8")
    report = take_in(tmp_path / "photographs", tmp_path / "cohort", source="photographs")
    assert (report.added, [one.file for one in report.quarantined]) == (0, ["a.png"])
    assert Cohort.open(tmp_path / "cohort").quarantine["file"].tolist() == ["a.png"]
