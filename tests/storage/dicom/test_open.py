"""What a folder of DICOM files holds, which series are read, and what a CSV says of them."""

import os
import pickle
import shutil

import numpy as np
import pytest
from pydicom import dcmread

from storage import SourceError
from storage.sources.dicom import open_dicom


def test_modality_is_to_be_named_where_there_are_several(write_series, opened):
    write_series("CT", name="ct")
    write_series("PT", name="pet")
    with pytest.raises(SourceError, match="holds CT, PT; name one with --modality CT"):
        opened()
    assert opened(modality="PET").channels == ("PET",)
    assert len(opened(modality="CT").listing()) == 1
    with pytest.raises(SourceError, match="has no series of modality MR; it has: CT, PT"):
        opened(modality="MR")


def test_scouts_and_other_files_are_passed_over(write_series, opened, tmp_path):
    write_series("CT", name="ct")
    write_series("CT", name="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (tmp_path / "dicom" / "notes.txt").write_text("nothing")
    (tmp_path / "dicom" / "empty").touch()
    assert len(opened().listing()) == 1


def test_folder_without_series_is_an_error(tmp_path, opened):
    with pytest.raises(SourceError, match="there is no folder"):
        opened()
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "a.txt").write_text("nothing")
    with pytest.raises(SourceError, match="has no DICOM series"):
        opened()


def test_file_without_preamble_is_read(write_series, read_only, files_of):
    write_series("MR")
    whole = read_only().image
    for path in files_of():
        path.write_bytes(path.read_bytes()[132:])  # the meta header is left, its mark is gone
        dataset = dcmread(path, force=True)
        dataset.file_meta.clear()
        dataset.save_as(path, implicit_vr=True, little_endian=True)
    np.testing.assert_array_equal(read_only().image, whole)


def test_links_that_lead_outside_and_pipes_are_not_opened(write_series, opened, tmp_path):
    write_series("MR", tmp_path / "elsewhere", name="other")
    write_series("MR")
    (tmp_path / "dicom" / "link.dcm").symlink_to(next((tmp_path / "elsewhere").iterdir()))
    (tmp_path / "dicom" / "linked").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "dicom" / "pipe.dcm")
    assert len(opened().listing()) == 1


def test_file_that_became_a_link_outside_is_rejected(write_series, opened, files_of, tmp_path):
    write_series("MR")
    source = opened()
    moved = shutil.move(files_of()[0], tmp_path / "moved")
    (tmp_path / "dicom" / source.listing()[0].files[0]).unlink(missing_ok=True)
    (tmp_path / "dicom" / source.listing()[0].files[0]).symlink_to(moved)
    assert "leads outside" in source.read(source.listing()[0]).reason
    assert source.sha256(source.listing()[0]) == ""


@pytest.mark.parametrize("named", ["patient", "folder", "series", "study"])
def test_labels_are_found_by_patient_folder_series_or_study(write_series, opened, tmp_path, named):
    (slice_, *_) = write_series("MR", tmp_path / "dicom" / "anna" / "t1")
    name = {
        "patient": slice_.PatientID,
        "folder": "anna/t1",
        "series": slice_.SeriesInstanceUID,
        "study": slice_.StudyInstanceUID,
    }[named]
    (tmp_path / "labels.csv").write_text(f"who,grade,set,person\n{name},3,test,Jane\n")
    options = dict(file_column="who", label={"grade": "grade"}, split_column="set", patient_column="person")  # noqa: C408
    (key,) = opened(labels=tmp_path / "labels.csv", **options).listing()
    assert (dict(key.labels), key.split) == ({"grade": 3.0}, "test")
    assert "Jane" not in key.patient_id
    assert len(key.patient_id) == 16


def test_source_can_be_pickled_and_read_elsewhere(write_series, opened):
    write_series("MR")
    source = opened()
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.read(copy.listing()[0]).image, source.read(source.listing()[0]).image)


def test_shape_stacks_and_projection_flattens(write_series, read_only, opened):
    write_series("MR")
    assert opened(shape=(4, 4, 4)).grid == (4, 4, 4)
    assert read_only(shape=(4, 4, 4)).image.shape == (1, 4, 4, 4)
    projected = opened(project="coronal")
    assert (projected.dims, projected.grid) == (("y", "x"), None)
    assert read_only(project="coronal").image.shape == (1, 4, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_pattern": "{stem}.dcm"}, "leave --mask-pattern out"),
        ({"units": "kBq"}, "no units 'kBq'"),
        ({"id_key": None}, "there is no key"),
        ({"units": "raw"}, "units are chosen for PET alone"),
        ({"masks": "nowhere"}, "no folder of masks nowhere"),
        ({"label": {"grade": "grade"}}, "no labels file"),
    ],
)
def test_options_that_make_no_sense_are_named(write_series, opened, options, message):
    write_series("MR")
    with pytest.raises(SourceError, match=message):
        opened(**options)


def test_key_is_required(write_series, tmp_path):
    write_series("MR")
    with pytest.raises(SourceError, match="--keep-identifiers"):
        open_dicom(str(tmp_path / "dicom"))
