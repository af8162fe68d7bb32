"""Nothing of a person leaves the folder, and what stands for a person cannot be undone without the key."""

import re

import numpy as np
import pytest
from pydicom import Dataset

from storage import Rejected
from storage.sources.dicom import open_dicom

WHO = (
    "DOE",
    "JANE",
    "Jane",
    "4711",
    "ELSEWHERE",
    "Elsewhere",
    "19450203",
    "HOUSE",
    "0815",
    "20200312",
    "093Y",
    "second look",
)


def _shown(*things):
    """What a reader sees, without digests: any four digits come up in one by chance."""
    return re.sub(r"\b[0-9a-f]{16,}\b", "", " ".join(map(repr, things)))


def test_no_word_of_the_header_that_names_a_person_is_in_the_case(write_series, opened, tmp_path):
    slices = write_series("PT", tmp_path / "dicom" / "DOE_JANE" / "1945", name="19450203-")
    source = opened()
    (key,) = source.listing()
    shown = _shown(source, key, source.read(key))
    uids = [slices[0].SeriesInstanceUID, slices[0].StudyInstanceUID, slices[0].SOPInstanceUID]
    for word in (*WHO, *uids, str(tmp_path / "dicom" / "DOE")):
        assert word not in shown
    assert source.where(key) == "DOE_JANE/1945"


@pytest.mark.parametrize(
    "harm",
    [
        {"PatientWeight": None},
        {"BurnedInAnnotation": "YES"},
        {"PixelSpacing": None},
        {"Rows": 4000},
        {"PatientWeight": 0},
        {"ImagePositionPatient": [0, 0, 0]},
    ],
)
def test_no_reason_names_a_person_or_a_path(write_series, opened, tmp_path, harm):
    write_series(
        "PT", tmp_path / "dicom" / "DOE_JANE", name="4711-", change=lambda number, slice_: slice_.update(_set(harm))
    )
    source = opened()
    (key,) = source.listing()
    rejected = source.read(key)
    assert isinstance(rejected, Rejected)
    for word in WHO:
        assert word not in _shown(key, rejected)


def _set(elements):
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def test_damaged_file_is_found_again_by_the_source_alone(write_series, opened, tmp_path):
    write_series("MR", tmp_path / "dicom" / "a")
    bad = tmp_path / "dicom" / "DOE_JANE" / "broken.dcm"
    bad.parent.mkdir()
    bad.write_bytes(bytes(128) + b"DICM" + b"\x02\x00")
    source = opened()
    (key,) = [key for key in source.listing() if key.problem]
    assert "DOE" not in _shown(key, source.read(key))
    assert source.where(source.read(key)) == "DOE_JANE/broken.dcm"


def test_names_are_stable_under_one_key_and_unlinkable_under_another(write_series, opened):
    write_series("PT")
    (one,), (again,), (other,) = (opened(id_key=key).listing() for key in (b"one", b"one", b"other"))
    assert (one.case_id, one.patient_id, one.file) == (again.case_id, again.patient_id, again.file)
    assert not {one.case_id, one.patient_id} & {other.case_id, other.patient_id}
    assert one.file == f"{one.patient_id}/{one.case_id}"
    assert one.scan_day != other.scan_day


def test_patients_of_two_hospitals_with_one_number_are_two(write_series, opened):
    write_series("MR", name="a")
    write_series("MR", name="b")
    write_series("MR", name="c", IssuerOfPatientID="another")
    keys = opened().listing()
    assert len({key.patient_id for key in keys}) == 2
    assert len({key.case_id for key in keys}) == 3


def test_days_between_a_patients_scans_are_exact(write_series, opened):
    write_series("MR", name="first", StudyDate="20191231")
    write_series("MR", name="later", StudyDate="20200301")
    days = [key.scan_day for key in opened().listing()]
    assert abs(days[0] - days[1]) == 61


def test_day_zero_is_another_for_each_patient(write_series, opened):
    write_series("MR", name="one")
    write_series("MR", name="two", PatientID="other")
    first, second = opened().listing()
    assert first.scan_day != second.scan_day


@pytest.mark.parametrize(("said", "kept"), [("089Y", "089Y"), ("090Y", "90+"), ("018M", "018M"), ("Jane", None)])
def test_ages_above_89_are_one(write_series, read_only, said, kept):
    write_series("MR", PatientAge=said)
    assert read_only().acquisition.get("PatientAge") == kept


def test_identifiers_are_kept_on_request(write_series, tmp_path):
    slices = write_series("MR", tmp_path / "dicom" / "anna")
    source = open_dicom(str(tmp_path / "dicom"), keep_identifiers=True)
    (key,) = source.listing()
    tail = slices[0].SeriesInstanceUID[-8:]
    assert (key.patient_id, key.case_id, key.file) == ("MRN-4711", f"MRN-4711/7-{tail}", f"anna/7-{tail}")
    assert key.scan_day == (np.datetime64("2020-03-12") - np.datetime64("1970-01-01")).astype(int)
    assert source.read(key).patient_id == "MRN-4711"


def test_days_are_counted_for_the_person_that_the_csv_names(write_series, opened, tmp_path):
    write_series("MR", name="a", PatientID="A", StudyDate="20200101")
    write_series("MR", name="b", PatientID="B", StudyDate="20200111")
    (tmp_path / "people.csv").write_text("file,person\nA,Jane\nB,Jane\n")
    keys = opened(labels=tmp_path / "people.csv", patient_column="person").listing()
    assert len({key.patient_id for key in keys}) == 1
    assert abs(keys[0].scan_day - keys[1].scan_day) == 10


def test_warnings_do_not_quote_the_header(write_series, opened, recwarn, caplog):
    write_series("MR", PatientAge="Jane")
    recwarn.clear(), caplog.clear()
    source = opened()
    source.read(source.listing()[0])
    assert "Jane" not in caplog.text + " ".join(str(one.message) for one in recwarn)


def test_patient_without_a_number_is_known_by_the_study(write_series, opened):
    write_series("MR", name="a", PatientID="", StudyInstanceUID="1.2.1")
    write_series("MR", name="b", PatientID="", StudyInstanceUID="1.2.2")
    assert len({key.patient_id for key in opened().listing()}) == 2
