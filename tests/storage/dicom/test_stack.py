"""Slices in the order of the patient, and what is said where they make no volume."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from storage import Rejected

OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)  # a turned coronal view
SIDEWAYS = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)  # sagittal


def _stored(slices):
    return np.stack([slice_.pixel_array for slice_ in slices])


def test_slices_are_sorted_by_position_whatever_their_numbers_and_names(write_series, read_only):
    slices = write_series("MR", change=lambda number, slice_: setattr(slice_, "InstanceNumber", 99 - number))
    np.testing.assert_array_equal(read_only().image[0], _stored(slices))


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), OBLIQUE, SIDEWAYS])
def test_each_voxel_lies_where_the_standards_equation_puts_it(write_series, read_only, orientation):
    """DICOM PS3.3 C.7.6.2.1.1: P = IPP + column · Δcolumn · row cosines + row · Δrow · column cosines, in LPS."""
    slices = write_series("MR", orientation=orientation)
    case = read_only()
    affine = np.array(case.geometry.grid.affine)
    back = case.geometry
    for z, y, x in [(0, 0, 0), (3, 4, 5), (1, 2, 3)]:
        lps = np.array(slices[z].ImagePositionPatient, float)
        lps += x * 1.5 * np.array(orientation[:3]) + y * 2.0 * np.array(orientation[3:])
        index = np.linalg.inv(affine) @ [-lps[0], -lps[1], lps[2], 1]
        np.testing.assert_allclose(index, np.round(index), atol=1e-6)
        there = tuple(np.round(index[:3]).astype(int)[::-1])
        assert case.image[0][there] == slices[z].pixel_array[y, x]
    np.testing.assert_allclose(np.array(back.source.affine)[:3, 3], lps_to_ras(slices[0].ImagePositionPatient))


def lps_to_ras(position):
    x, y, z = map(float, position)
    return [-x, -y, z]


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), OBLIQUE])
def test_affine_and_values_are_those_of_simpleitk(write_series, read_only, tmp_path, orientation):
    write_series("CT", orientation=orientation)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "dicom")))
    oracle = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(oracle.GetDirection()).reshape(3, 3) * oracle.GetSpacing()
    affine[:3, 3] = oracle.GetOrigin()
    case = read_only()
    np.testing.assert_allclose(np.array(case.geometry.source.affine), np.diag([-1, -1, 1, 1]) @ affine, atol=1e-6)
    np.testing.assert_array_equal(case.geometry.apply(SimpleITK.GetArrayFromImage(oracle)[None]), case.image)


def test_axial_series_stays_as_it_is(write_series, read_only):
    write_series("MR")
    assert read_only().geometry.operations == ()


def test_missing_slice_is_named_by_its_place(write_series, read_only, files_of):
    write_series("CT", count=6)
    files_of()[3].unlink()
    reason = read_only().reason
    assert "a slice is missing" in reason
    assert "-24.00 mm" in reason
    assert "6.00 mm apart, the others 3.00 mm" in reason


def test_spacing_may_vary_as_between_bed_positions(write_series, read_only):
    def uneven(number, slice_):
        slice_.ImagePositionPatient = [0, 0, number * 3.27 + (0.02 if number > 2 else 0)]

    write_series("MR", count=6, change=uneven)
    assert read_only().image.shape == (1, 6, 5, 6)


def test_second_copy_of_a_slice_is_dropped(write_series, read_only, files_of, tmp_path):
    write_series("MR")
    before = read_only()
    shutil.copy(files_of()[1], tmp_path / "dicom" / "copy.dcm")
    after = read_only()
    np.testing.assert_array_equal(after.image, before.image)
    assert after.sha256 == before.sha256


def test_two_slices_of_one_place_that_differ_are_rejected(write_series, read_only):
    def twice(number, slice_):
        slice_.ImagePositionPatient = [0, 0, 3.0 * (number % 3)]

    write_series("MR", change=twice)
    reason = read_only().reason
    assert reason.startswith("two different slices at 0.00 mm (instance ")
    assert "instance 1" in reason
    assert "instance 4" in reason


def test_mixed_orientations_are_rejected(write_series, read_only):
    def turn(number, slice_):
        if number == 2:
            slice_.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]

    write_series("MR", change=turn)
    assert "mixed orientations" in read_only().reason
    assert "instance 3" in read_only().reason


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("PixelSpacing", [2.5, 1.5], "mixed pixel spacings"),
        ("Units", "CNTS", "mixed units"),
        ("ImagePositionPatient", None, "Image Position (Patient) (0020,0032) is missing"),
        ("PixelSpacing", [0, 1.5], "not positive"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "right angle"),
        ("ImagePositionPatient", [0, 9, -24], "shifted sideways"),
    ],
)
def test_a_slice_that_does_not_fit_is_named(write_series, read_only, keyword, value, reason):
    def change(number, slice_):
        if number == 2:
            setattr(slice_, keyword, value)

    write_series("PT", change=change)
    case = read_only()
    assert isinstance(case, Rejected)
    assert reason in case.reason


def test_tilted_gantry_is_kept_as_a_sheared_affine(write_series, read_only):
    def tilt(number, slice_):
        slice_.ImagePositionPatient = [0, 1.0 * number, 3.0 * number]

    write_series("CT", change=tilt)
    assert np.array(read_only().geometry.source.affine)[:3, 2].tolist() == pytest.approx([0, -1, 3])


def test_one_slice_is_a_volume_as_thick_as_it_says(write_series, read_only):
    write_series("CT", count=1)
    assert read_only().geometry.source.spacing_mm == pytest.approx((3, 2, 1.5))


def test_renaming_and_moving_files_does_not_change_the_identity(write_series, opened, tmp_path):
    write_series("MR")
    source = opened()
    before = source.sha256(source.listing()[0])
    deep = tmp_path / "dicom" / "deeper"
    deep.mkdir()
    for number, path in enumerate(sorted(path for path in (tmp_path / "dicom").iterdir() if path.is_file())):
        path.rename(deep / f"{99 - number}.dcm")
    source = opened()
    assert source.sha256(source.listing()[0]) == before == source.read(source.listing()[0]).sha256


def test_stamp_changes_with_any_file(write_series, opened, files_of):
    write_series("MR")
    before = opened().listing()[0].stamp
    with Path(files_of()[2]).open("ab") as file:
        file.write(b"\0\0")
    assert opened().listing()[0].stamp != before
