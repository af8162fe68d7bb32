from pathlib import Path

import nibabel
import numpy as np
import pytest

from storage.errors import SourceError
from storage.sources.volumes.files import open_mha, open_nifti, open_volumes
from tests.storage.volumes.volume_twins import LPS, itk, nifti, read_all, reason, voxels


def pet_ct(folder: Path, pet_affine: np.ndarray, shape=(10, 12, 14)) -> None:
    """CT whose value is the x position in mm + 500, PET likewise + 0, on a grid of its own."""
    for name, affine, size, base in (("CT", LPS, (5, 6, 7), 500), ("PET", pet_affine, shape, 0)):
        x = np.indices(size)
        world = np.tensordot(affine[0, :3], x, 1) + affine[0, 3]
        nifti(folder / "p" / f"{name}_image.nii.gz", (world + base).astype(np.float32), affine)


CHANNELS = {"CT": "{case}/CT_image.nii.gz", "PET": "{case}/PET_image.nii.gz"}


def test_another_channel_lies_where_it_lay_in_the_patient(tmp_path):
    finer = LPS @ np.diag([0.5, 0.5, 0.5, 1])
    pet_ct(tmp_path, finer)
    source = open_nifti(str(tmp_path), channels=CHANNELS)
    case = read_all(source)["p"]
    assert source.channels == ("CT", "PET")
    assert case.image.shape == (2, 7, 6, 5)
    np.testing.assert_allclose(case.image[1], case.image[0] - 500, atol=1e-4)


def test_where_another_channel_ends_is_its_least_value(tmp_path):
    shifted = LPS.copy()
    shifted[2, 3] += 8  # two slices of 4 mm
    pet_ct(tmp_path, shifted, (5, 6, 7))
    case = read_all(open_nifti(str(tmp_path), channels=CHANNELS))["p"]
    assert (case.image[1, :2] == case.image[1].min()).all()
    np.testing.assert_allclose(case.image[1, 2:], case.image[0, 2:] - 500, atol=1e-4)


def test_channels_that_do_not_overlap_are_set_aside(tmp_path):
    elsewhere = LPS.copy()
    elsewhere[0, 3] += 900
    pet_ct(tmp_path, elsewhere)
    assert "does not overlap" in reason(open_nifti(str(tmp_path), channels=CHANNELS), "p")


def test_a_case_without_one_of_the_channels_is_set_aside(tmp_path):
    pet_ct(tmp_path, LPS)
    (tmp_path / "p" / "PET_image.nii.gz").unlink()
    source = open_nifti(str(tmp_path), channels=CHANNELS)
    assert source.listing()[0].problem == "has no channel PET: there is no file p/PET_image.nii.gz"
    assert "has no channel PET" in reason(source, "p")


def test_the_pattern_names_the_channel(tmp_path):
    nifti(tmp_path / "p" / "PET_image.nii.gz", voxels())
    assert open_nifti(str(tmp_path), image_pattern="{case}/PET_image.nii.gz").channels == ("PET",)


def test_a_case_may_be_named_twice_in_a_pattern(tmp_path):
    nifti(tmp_path / "b1" / "b1_flair.nii.gz", voxels())
    nifti(tmp_path / "b1" / "b1_seg.nii.gz", voxels() % 3)
    source = open_nifti(
        str(tmp_path), image_pattern="{case}/{case}_flair.nii.gz", mask_pattern="{case}/{case}_seg.nii.gz"
    )
    assert (source.channels, source.lesions) == (("flair",), ("label_1", "label_2"))
    assert read_all(source)["b1"].masks["label_2"].any()


def test_masks_beside_the_images_are_no_cases(tmp_path):
    nifti(tmp_path / "a.nii.gz", voxels())
    nifti(tmp_path / "a_tumour.nii.gz", (voxels() > 50).astype(np.uint8))
    nifti(tmp_path / "b.nii.gz", voxels(seed=1))
    source = open_nifti(str(tmp_path), mask_pattern="{case}_{lesion}.nii.gz")
    read = read_all(source)
    assert (set(read), source.lesions) == ({"a", "b"}, ("tumour",))
    assert np.array_equal(read["a"].masks["tumour"], read["a"].image[0] > 50)
    assert read["b"].masks == {}  # looked for and not found


def test_one_mask_file_of_numbers_is_several_classes(tmp_path):
    nifti(tmp_path / "images" / "a.nii.gz", voxels())
    nifti(tmp_path / "images" / "b.nii.gz", voxels(seed=1))
    numbers = (voxels() % 3).astype(np.uint8)
    nifti(tmp_path / "labels" / "a.nii.gz", numbers)
    unnamed = open_nifti(str(tmp_path / "images"), masks=tmp_path / "labels")
    named = open_nifti(str(tmp_path / "images"), masks=tmp_path / "labels", lesions=["GTVp", "GTVn"])
    assert unnamed.lesions == ("label_1", "label_2")
    read = read_all(named)
    for number, lesion in enumerate(("GTVp", "GTVn"), 1):
        assert np.array_equal(read["a"].masks[lesion], (numbers == number).transpose(2, 1, 0))
    assert read["b"].masks is None  # nobody annotated it


@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_of_one_number_is_one_class(tmp_path, value):
    nifti(tmp_path / "i" / "a.nii.gz", voxels())
    nifti(tmp_path / "m" / "a.nii.gz", ((voxels() > 50) * value).astype(np.uint8))
    source = open_nifti(str(tmp_path / "i"), masks=tmp_path / "m")
    assert source.lesions == ("lesion",)
    assert np.array_equal(read_all(source)["a"].masks["lesion"][0], (voxels() > 50)[..., 0].T)


def test_a_mask_in_another_axis_order_is_turned(tmp_path):
    nifti(tmp_path / "i" / "a.nii.gz", voxels())
    mask = nibabel.Nifti1Image((voxels() > 50).astype(np.uint8), LPS)
    (tmp_path / "m").mkdir()
    nibabel.as_closest_canonical(mask).to_filename(tmp_path / "m" / "a.nii.gz")
    case = read_all(open_nifti(str(tmp_path / "i"), masks=tmp_path / "m"))["a"]
    assert np.array_equal(case.masks["lesion"], case.image[0] > 50)


def test_a_finer_mask_that_covers_the_image_is_taken_over(tmp_path):
    nifti(tmp_path / "i" / "a.nii.gz", voxels())
    fine = np.repeat(np.repeat(np.repeat(voxels() > 50, 3, 0), 3, 1), 3, 2).astype(np.uint8)
    affine = LPS @ np.diag([1 / 3, 1 / 3, 1 / 3, 1])
    affine[:3, 3] = LPS[:3, 3] - affine[:3, :3] @ (1, 1, 1)
    nifti(tmp_path / "m" / "a.nii.gz", fine, affine)
    case = read_all(open_nifti(str(tmp_path / "i"), masks=tmp_path / "m"))["a"]
    assert np.array_equal(case.masks["lesion"], case.image[0] > 50)


def mask_problem(folder: Path, mask: np.ndarray, affine: np.ndarray = LPS, **options) -> str:
    nifti(folder / "i" / "a.nii.gz", voxels())
    nifti(folder / "m" / "a.nii.gz", mask, affine)
    return reason(open_nifti(str(folder / "i"), masks=folder / "m", **options))


def test_a_mask_that_covers_part_of_the_image_is_set_aside(tmp_path):
    said = mask_problem(tmp_path, np.ones((5, 6, 6), np.uint8))
    assert said.startswith("mask a.nii.gz has another grid than the image (6 × 6 × 5 and 7 × 6 × 5 voxels)")


def test_a_mask_that_says_it_lies_elsewhere_is_set_aside(tmp_path):
    assert "another grid" in mask_problem(tmp_path, np.ones((5, 6, 7), np.uint8), np.eye(4))


def test_a_mask_of_fractions_is_set_aside(tmp_path):
    assert "fractions (0.5)" in mask_problem(tmp_path, np.full((5, 6, 7), 0.5, np.float32))


def test_a_mask_of_negative_numbers_is_set_aside(tmp_path):
    assert "negative" in mask_problem(tmp_path, np.full((5, 6, 7), -1, np.int16))


def test_a_number_without_a_class_is_set_aside(tmp_path):
    said = mask_problem(tmp_path, (voxels() % 4).astype(np.uint8), lesions=["x", "y"])
    assert "holds the numbers 1, 2, 3, the classes are x, y" in said


def test_a_mask_of_two_channels_is_set_aside(tmp_path):
    assert "a mask has one" in mask_problem(tmp_path, np.ones((5, 6, 7, 2), np.uint8))


def test_labels_are_found_by_case_or_by_file_name(tmp_path):
    for case in ("s1", "s2", "s3"):
        nifti(tmp_path / "v" / f"{case}.nii.gz", voxels())
    table = tmp_path / "labels.csv"
    table.write_text("file,grade,who,split\ns1,2,w1,train\ns2.nii.gz,3,w1,\n")
    source = open_nifti(
        str(tmp_path / "v"), labels=table, label={"grade": "grade"}, patient_column="who", split_column="split"
    )
    keys = {key.case_id: key for key in source.listing()}
    assert [keys[case].labels["grade"] for case in ("s1", "s2")] == [2, 3]
    assert np.isnan(keys["s3"].labels["grade"])
    assert [(keys[case].patient_id, keys[case].split) for case in ("s1", "s2", "s3")] == [
        ("w1", "train"),
        ("w1", "train"),
        ("s3", None),
    ]


def test_the_stamp_changes_with_the_mask_and_with_the_data_beside_a_header(tmp_path):
    itk(tmp_path / "i.mhd", voxels())
    itk(tmp_path / "i_x.mhd", (voxels() > 50).astype(np.uint8))

    def seen() -> tuple[str, str]:
        source = open_mha(str(tmp_path), mask_pattern="{case}_{lesion}.mhd")
        (key,) = source.listing()
        return key.stamp, source.sha256(key)

    before = seen()
    (tmp_path / "i_x.raw").write_bytes((tmp_path / "i_x.raw").read_bytes() + b"\0")
    with_mask = seen()
    (tmp_path / "i.raw").write_bytes((tmp_path / "i.raw").read_bytes() + b"\0")
    after = seen()
    assert before[0] != with_mask[0] != after[0]
    assert before[1] == with_mask[1] != after[1]


def test_the_digest_is_that_of_the_case(tmp_path):
    pet_ct(tmp_path, LPS, (5, 6, 7))
    source = open_nifti(str(tmp_path), channels=CHANNELS)
    (key,) = source.listing()
    assert source.read(key).sha256 == source.sha256(key) != ""
    assert source.read(key).stamp == key.stamp != ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_pattern": "PET.nii"}, "image pattern 'PET.nii' is not clear"),
        ({"image_pattern": "{case}{case}.nii"}, "not clear"),
        ({"image_pattern": "{case}/{lesion}.nii"}, "not clear"),
        ({"image_pattern": "{case}/CT.nii"}, r"no volumes .* that fit '\{case\}/CT.nii'"),
        ({"mask_pattern": "{lesion}.nii"}, "mask pattern .* not clear"),
        ({"mask_pattern": "{case}{lesion}.nii"}, "not clear"),
        ({"mask_pattern": "{case}_{lesion}.nii"}, "--mask-pattern"),
        ({"masks": "/nowhere"}, "no folder of masks /nowhere"),
        ({"image_pattern": "{case}.nii", "channels": {"a": "{case}.nii"}}, "both given"),
        ({"channels": {}}, "no channel is named"),
        ({"labels": "x.csv"}, "none of its columns is named"),
        ({"label": {"grade": "g"}}, "no labels file is given"),
        ({"spacing": (0, 1, 1)}, "spacing"),
        ({"interpolator": "best"}, "no interpolator"),
        ({"format": "dicom"}, "no volume format 'dicom'"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_line(tmp_path, options, message):
    nifti(tmp_path / "a.nii", voxels())
    with pytest.raises(SourceError, match=message) as raised:
        open_volumes(str(tmp_path), **{"format": "nifti", **options})
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_not_there_or_empty_is_a_mistake(tmp_path):
    with pytest.raises(SourceError, match="no folder"):
        open_nifti(str(tmp_path / "absent"))
    with pytest.raises(SourceError, match="has no volumes"):
        open_nifti(str(tmp_path))
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(SourceError, match="is no volume file"):
        open_nifti(str(tmp_path / "x.txt"))
