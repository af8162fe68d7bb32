from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from storage.cohort import Cohort
from storage.errors import CohortError
from storage.export import write_nifti
from storage.export.nifti import save_nifti
from storage.geometry import Grid

from .conftest import MARKED, OBLIQUE, content_of


def names(files: list[Path]) -> list[str]:
    return [file.name for file in files]


def test_a_case_becomes_a_file_for_each_channel_mask_and_map(photographs: Cohort, tmp_path: Path):
    written = write_nifti(photographs, 0, tmp_path / "case", content_of(photographs))
    assert names(written) == [
        *("image_red.nii.gz", "image_green.nii.gz", "image_blue.nii.gz"),
        *("mask_HE.nii.gz", "mask_MA.nii.gz", "map_S.nii.gz"),
    ]


def test_a_case_that_nobody_annotated_gets_no_masks(photographs: Cohort, tmp_path: Path):
    written = write_nifti(photographs, 2, tmp_path / "case", content_of(photographs))
    assert names(written) == ["image_red.nii.gz", "image_green.nii.gz", "image_blue.nii.gz"]


def test_nibabel_reads_the_voxels_and_the_affine_of_the_cohort(pets: Cohort, tmp_path: Path):
    write_nifti(pets, 0, tmp_path / "case", content_of(pets))
    read = nibabel.load(tmp_path / "case" / "image.nii.gz")
    assert read.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(read.dataobj).transpose(2, 1, 0), pets.image(0)[0])
    np.testing.assert_allclose(read.affine, pets.geometry(0).grid.affine, atol=1e-4)
    assert read.header["sform_code"] == 1


def test_simpleitk_finds_the_marked_voxel_where_the_source_has_it_on_either_grid(pets: Cohort, tmp_path: Path):
    z, y, x = MARKED
    world = np.diag([-1, -1, 1, 1]) @ OBLIQUE @ [x, y, z, 1]
    for grid in ("cohort", "source"):
        write_nifti(pets, 0, tmp_path / grid, content_of(pets, grid=grid))
        read = sitk.ReadImage(str(tmp_path / grid / "mask_GTV.nii.gz"))
        marked = np.argwhere(sitk.GetArrayFromImage(read))
        assert len(marked) == 1
        place = read.TransformIndexToPhysicalPoint([int(index) for index in marked[0][::-1]])
        np.testing.assert_allclose(place, world[:3], atol=1e-3)


def test_on_the_source_grid_masks_and_maps_have_the_axes_of_the_file_and_there_is_no_image(
    pets: Cohort, tmp_path: Path
):
    written = write_nifti(pets, 0, tmp_path / "case", content_of(pets, grid="source"))
    assert names(written) == ["mask_GTV.nii.gz", "map_1.nii.gz"]
    read = nibabel.load(written[1])
    np.testing.assert_allclose(read.affine, OBLIQUE, atol=1e-4)
    geometry = pets.geometry(0)
    expected = geometry.map_to_source(pets.maps("cam/1").saliency(0))
    np.testing.assert_array_equal(np.asarray(read.dataobj).transpose(2, 1, 0), expected)


def test_a_mask_on_a_cropped_and_halved_photograph_covers_its_four_source_pixels(photographs: Cohort, tmp_path: Path):
    write_nifti(photographs, 0, tmp_path / "case", content_of(photographs, grid="source"))
    mask = np.asarray(nibabel.load(tmp_path / "case" / "mask_MA.nii.gz").dataobj)[..., 0].T
    assert mask.shape == (52, 44)
    assert np.argwhere(mask).tolist() == [[8, 12], [8, 13], [9, 12], [9, 13]]


def test_maps_are_raw(photographs: Cohort, tmp_path: Path):
    write_nifti(photographs, 1, tmp_path / "case", content_of(photographs))
    read = nibabel.load(tmp_path / "case" / "map_S.nii.gz")
    expected = photographs.maps("loop/1/S").saliency(1)
    assert read.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(read.dataobj)[..., 0].T, expected)
    assert expected.min() < 0


def test_simpleitk_reads_a_photograph_upright_with_pixels_of_1_mm(photographs: Cohort, tmp_path: Path):
    write_nifti(photographs, 0, tmp_path / "case", content_of(photographs))
    read = sitk.ReadImage(str(tmp_path / "case" / "image_green.nii.gz"))
    assert read.GetSpacing() == (1.0, 1.0, 1.0)
    assert read.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read)[0], photographs.image(0)[1])


def test_a_side_that_nifti_cannot_hold_is_refused(tmp_path: Path):
    with pytest.raises(CohortError, match="NIfTI takes 32767"):
        save_nifti(tmp_path / "wide.nii.gz", np.zeros((1, 40000), np.uint8), Grid((1, 40000), (1.0, 1.0)))
