"""A whole-body PET of a GE scanner, with contours, against the same patient converted by others (see its SOURCE.md)."""

import nibabel
import numpy as np
import pytest

from storage import Case
from storage.sources.dicom import open_dicom
from tests.real_images import REAL_IMAGES

DICOM, NIFTI = REAL_IMAGES / "pet_sts_wholebody_dicom", REAL_IMAGES / "pet_sts_wholebody"
ROUNDING = 0.00051  # the NIfTI holds SUV rounded to 0.001, in float32

pytestmark = pytest.mark.skipif(not (DICOM.is_dir() and NIFTI.is_dir()), reason=f"{DICOM} and {NIFTI} are not there")


@pytest.fixture(scope="module")
def case() -> Case:
    source = open_dicom(str(DICOM), id_key=b"key")
    assert source.lesions == ("GTV_Edema", "GTV_Mass")
    (key,) = source.listing()
    read = source.read(key)
    assert isinstance(read, Case), read
    return read


def _canonical(name):
    """(z, y, x) with x to the left, y to the back, z to the head, and its affine."""
    image = nibabel.load(NIFTI / name)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt("LPS")
    )
    turned = image.as_reoriented(turn)
    return np.asarray(turned.dataobj).transpose(2, 1, 0), turned.affine


def test_orientation_and_place_agree(case):
    _, affine = _canonical("STS_001_PET_SUVbw.nii.gz")
    np.testing.assert_allclose(np.array(case.geometry.grid.affine), affine, atol=1e-4)


def test_suv_agrees_within_a_thousandth(case):
    suv, _ = _canonical("STS_001_PET_SUVbw.nii.gz")
    error = np.maximum(np.abs(case.image[0] - suv) - ROUNDING, 0)
    assert (error[suv > 0.01] / suv[suv > 0.01]).max() < 1e-3
    assert abs(case.image[0][suv > 1].mean() / suv[suv > 1].mean() - 1) < 1e-5


def test_contours_agree(case):
    mask, _ = _canonical("STS_001_GTV_mask.nii.gz")
    ours = case.masks["GTV_Mass"]
    assert 2 * (ours & (mask > 0)).sum() / (ours.sum() + (mask > 0).sum()) >= 0.99


def test_physics_is_kept_and_dates_are_not(case):
    assert case.acquisition["uptake_minutes"] == pytest.approx(45.183, abs=1e-3)
    assert case.acquisition["ManufacturerModelName"] == "Discovery ST"
    assert "2000" not in repr(sorted(case.acquisition.items()))
    assert "STS_001" not in repr(case)
