import pickle

import nibabel
import numpy as np
import pytest
import SimpleITK

from storage.case import Case
from storage.sources.volumes.files import open_mha, open_nifti, open_nrrd, open_volumes
from tests.real_images import REAL_IMAGES
from tests.storage.volumes.volume_twins import LPS, itk, nifti, patched, read_all, voxels

PET_STS = REAL_IMAGES / "pet_sts"
EXACT = {"rtol": 0, "atol": 1e-5}


def oblique() -> np.ndarray:
    turn = np.deg2rad(12)
    turned = LPS.copy()
    turned[:3, :3] = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]] @ LPS[:3, :3]
    return turned


ORDERS = ["LPS", "RAS", "SLA", "PIR", "ASL", "IRP"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("affine", [LPS, oblique()], ids=["straight", "oblique"])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd"])
def test_one_volume_in_any_axis_order_and_format_is_one_array(tmp_path, order, affine, suffix):
    original = nibabel.Nifti1Image(voxels(), affine)
    steps = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(affine), nibabel.orientations.axcodes2ornt(order)
    )
    turned = original.as_reoriented(steps)
    path = tmp_path / f"a.{suffix}"
    if suffix.startswith("nii"):
        turned.to_filename(path)
    else:
        itk(path, np.asarray(turned.dataobj), turned.affine)
    name = {"ni": "nifti", "nr": "nrrd", "nh": "nrrd", "mh": "mha"}[suffix[:2]]
    case = read_all(open_volumes(str(tmp_path), format=name))["a"]
    assert case.image.dtype == np.int16
    assert np.array_equal(case.image[0], voxels().transpose(2, 1, 0))
    np.testing.assert_allclose(case.geometry.grid.affine, affine, **EXACT)
    assert case.geometry.grid.spacing_mm == pytest.approx((4, 3, 2))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize("compress", [False, True], ids=["raw", "compressed"])
@pytest.mark.parametrize("suffix", ["nrrd", "nhdr", "mha", "mhd"])
def test_nrrd_and_metaimage_hold_the_voxels_that_itk_wrote(tmp_path, dtype, compress, suffix):
    path = itk(tmp_path / f"a.{suffix}", voxels(dtype=dtype), compress=compress)
    case = read_all((open_nrrd if suffix[0] == "n" else open_mha)(str(path)))["a"]
    assert case.image.dtype == ("float32" if dtype == "float64" else dtype)
    assert np.array_equal(case.image[0], SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)))


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_vector_voxels_are_channels(tmp_path, suffix):
    array = np.random.default_rng(0).random((4, 5, 6, 2), np.float32)
    itk(tmp_path / f"a.{suffix}", array, vector=True)
    source = open_volumes(str(tmp_path), format="nrrd" if suffix == "nrrd" else "mha")
    assert source.channels == ("image_0", "image_1")
    assert np.array_equal(read_all(source)["a"].image, array.transpose(3, 2, 1, 0))


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_a_2d_image_is_a_volume_of_one_slice(tmp_path, suffix):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels()[0]), tmp_path / f"a.{suffix}")
    case = read_all(open_volumes(str(tmp_path), format="nrrd" if suffix == "nrrd" else "mha"))["a"]
    assert np.array_equal(case.image, voxels()[0][None, None])


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 1, 1)])
def test_a_2d_image_in_nifti_is_a_volume_of_one_slice(tmp_path, shape):
    nifti(tmp_path / "a.nii", voxels(shape))
    case = read_all(open_nifti(str(tmp_path)))["a"]
    assert np.array_equal(case.image, voxels(shape).reshape(5, 6).T[None, None])


def test_nrrd_in_right_anterior_superior_is_turned(tmp_path):
    header = (
        "NRRD0004\ntype: uint8\ndimension: 3\nspace: right-anterior-superior\nsizes: 2 1 1\n"
        "space directions: (2,0,0) (0,2,0) (0,0,2)\nencoding: raw\nspace origin: (1,2,3)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + bytes([7, 9]))
    case = read_all(open_nrrd(str(tmp_path)))["a"]
    assert case.image.ravel().tolist() == [9, 7]
    assert np.array_equal(case.geometry.source.affine, [[2, 0, 0, 1], [0, 2, 0, 2], [0, 0, 2, 3], [0, 0, 0, 1]])


def test_a_fourth_axis_of_nifti_is_channels(tmp_path):
    nifti(tmp_path / "a.nii.gz", voxels((5, 6, 7, 2)))
    source = open_nifti(str(tmp_path))
    assert source.channels == ("image_0", "image_1")
    assert np.array_equal(read_all(source)["a"].image, voxels((5, 6, 7, 2)).transpose(3, 2, 1, 0))


def test_slope_and_intercept_make_floating_point_numbers(tmp_path):
    nifti(tmp_path / "a.nii", voxels())
    patched(tmp_path / "a.nii", 112, np.array([0.5, -10], "<f4"))
    case = read_all(open_nifti(str(tmp_path)))["a"]
    assert case.image.dtype == np.float32
    assert np.array_equal(case.image[0], voxels().transpose(2, 1, 0) * 0.5 - 10)


def test_big_endian_and_nifti_2_are_read(tmp_path):
    nibabel.Nifti2Image(voxels(), LPS).to_filename(tmp_path / "two.nii.gz")
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nibabel.Nifti1Image(voxels(), LPS, header).to_filename(tmp_path / "big.nii")
    for case in read_all(open_nifti(str(tmp_path))).values():
        assert np.array_equal(case.image[0], voxels().transpose(2, 1, 0))


def test_files_of_different_types_come_in_the_one_that_holds_all(tmp_path):
    nifti(tmp_path / "a.nii", voxels(dtype=np.int16))
    nifti(tmp_path / "b.nii", voxels(dtype=np.float64) + 0.5)
    source = open_nifti(str(tmp_path))
    assert source.dtype == np.float32
    assert {case.image.dtype.name for case in read_all(source).values()} == {"float32"}


def test_a_millimetre_is_a_thousand_micrometres(tmp_path):
    image = nibabel.Nifti1Image(voxels(), np.diag([50.0, 50, 50, 1]))
    image.header.set_xyzt_units("micron")
    image.to_filename(tmp_path / "a.nii")
    assert read_all(open_nifti(str(tmp_path)))["a"].geometry.grid.spacing_mm == pytest.approx((0.05,) * 3)


def test_spacing_shape_and_projection_make_the_grid(tmp_path):
    nifti(tmp_path / "a.nii", voxels())
    stacked = open_nifti(str(tmp_path), spacing=(4.0, 3.0, 4.0), shape=(8, 8, 8))
    assert stacked.grid == (8, 8, 8)
    assert read_all(stacked)["a"].image.shape == (1, 8, 8, 8)
    projected = open_nifti(str(tmp_path), project="coronal")
    assert (projected.grid, projected.dims) == (None, ("y", "x"))
    assert np.array_equal(read_all(projected)["a"].image[0], voxels().max(axis=1).T)


def test_a_source_survives_pickling(tmp_path):
    nifti(tmp_path / "a.nii", voxels())
    source = pickle.loads(pickle.dumps(open_nifti(str(tmp_path))))
    assert isinstance(read_all(source)["a"], Case)


@pytest.mark.skipif(not PET_STS.is_dir(), reason=f"no volumes in {PET_STS}")
def test_all_sarcoma_pet_reads_as_ragged_volumes_with_masks():
    source = open_nifti(str(PET_STS), image_pattern="{case}/PET_image.nii.gz", mask_pattern="{case}/PET_mask.nii.gz")
    assert (source.channels, source.grid, source.lesions) == (("PET",), None, ("lesion",))
    read = read_all(source)
    assert len(read) == len(list(PET_STS.glob("*/PET_image.nii.gz"))) > 0
    for case_id, case in read.items():
        assert isinstance(case, Case), case
        mask, pet = case.masks["lesion"], case.image[0]
        assert pet[mask].mean() > pet[~mask].mean()
        image = nibabel.load(PET_STS / case_id / "PET_image.nii.gz")
        assert np.array_equal(pet, image.get_fdata(dtype=np.float32).T)  # stored as left, posterior, superior
        np.testing.assert_allclose(case.geometry.grid.affine, image.affine, **EXACT)
