"""IBSI's chain against z-rad's own pipeline, on a CT of our making with voxels like those of the reference CT."""

import os
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import ndimage
from zrad.image import Image
from zrad.preprocessing import (
    ImageResampler,
    IntensityMaskBuilder,
    IVHIntensityDiscretizer,
    MaskResampler,
    Resegmenter,
    RoiData,
    TextureDiscretizer,
)
from zrad.radiomics import Radiomics

from models.config import validated
from models.errors import ModelError
from models.radiomics import PRESETS, IbsiConfig, VolumeRadiomicsConfig, ibsi_features, with_preset
from models.radiomics.features import FAMILIES
from tests.real_images import REAL_IMAGES

pytestmark = pytest.mark.filterwarnings("error")

SPACING = (3.0, 0.977, 0.977)
METHODS = {"2D_comb": ("2D", "SLICE_MERG"), "3D_comb": ("3D", "MERG")}


@pytest.fixture(scope="module")
def ct():
    """A tumour of −20 HU on average in lung, with air and vessels in it: image (20, 48, 44), mask."""
    random = np.random.default_rng(4)
    z, y, x = np.meshgrid(*(np.arange(n) - n / 2 for n in (20, 48, 44)), indexing="ij")
    mask = (z / 5.2) ** 2 + (y / 15) ** 2 + (x / 13) ** 2 < 1
    mask &= ~((np.abs(z) > 3.4) & (y > 6))
    texture = ndimage.gaussian_filter(random.normal(size=mask.shape), (0.7, 1.5, 1.5))
    image = np.where(mask, -20 + 900 * texture, -800 + 300 * texture)
    image[random.random(mask.shape) < 0.01] = 900.0
    image[random.random(mask.shape) < 0.01] = -1100.0
    return image, mask


def z_rad(image, mask, config):
    """z-rad's steps one by one, as its own tests of IBSI 1 put them together."""
    geometry = {"origin": (0.0, 0.0, 0.0), "spacing": np.array(SPACING[::-1]), "direction": np.eye(3).ravel()}
    geometry["shape"] = image.shape[::-1]
    scan, roi = Image(image, **geometry), Image(mask.astype(np.float64), **geometry)
    if config.resample_mm is not None:
        steps = config.resample_mm if isinstance(config.resample_mm, tuple) else (config.resample_mm,) * 3
        steps = (*steps[::-1], SPACING[0])[:3]
        method = {"linear": "linear", "cubic": "bspline"}[config.interpolator]
        scan = ImageResampler(steps, method, "nearest_integer").apply(scan)
        roi = MaskResampler(steps, "linear", config.mask_threshold).apply(roi)
    data = IntensityMaskBuilder().apply(RoiData(image=scan, morphological_mask=roi))
    data = Resegmenter(config.intensity_range, config.outlier_sigma).apply(data)
    bins = {"bin_size": config.bin_width} if config.bin_width else {"number_of_bins": config.bin_count}
    data = TextureDiscretizer(**bins).apply(data)
    if config.ivh_bin_width:
        data = IVHIntensityDiscretizer("fixed_bin_size", bin_size=config.ivh_bin_width).apply(data)
    elif config.ivh_bin_count:
        data = IVHIntensityDiscretizer("fixed_bin_number", number_of_bins=config.ivh_bin_count).apply(data)
    else:
        data = IVHIntensityDiscretizer("direct").apply(data)
    return Radiomics(*METHODS[config.aggregation]).extract_features(data, families="all")


def preset(name):
    return validated(VolumeRadiomicsConfig, with_preset({"preset": name}), where="test")


@pytest.mark.parametrize("name", list(PRESETS))
def test_each_configuration_of_ibsi_gives_what_the_pipeline_of_z_rad_gives(name, ct):
    config = preset(name)
    ours, reason = ibsi_features(*ct, SPACING, config)
    theirs = z_rad(*ct, config)
    assert reason == ""
    assert set(theirs) == set(ours)
    wrong = {
        tag: (ours[tag], value)
        for tag, value in theirs.items()
        if ours[tag] != pytest.approx(value, rel=2e-6, abs=1e-9)
    }
    assert wrong == {}


def test_the_presets_are_the_table_of_the_reference_manual():
    a, b, c, d, e = (preset(f"ibsi-{letter}") for letter in "ABCDE")
    assert [one.resample_mm for one in (a, b, c, d, e)] == [None, (2, 2), 2, 2, 2]
    assert [one.interpolator for one in (b, c, d, e)] == ["linear", "linear", "linear", "cubic"]
    assert [one.intensity_range for one in (a, b, c, d, e)] == [(-500, 400)] * 2 + [(-1000, 400), None, (-1000, 400)]
    assert [one.outlier_sigma for one in (a, b, c, d, e)] == [None, None, None, 3, 3]
    assert [(one.bin_width, one.bin_count)[one.bin_width is None] for one in (a, b, c, d, e)] == [25, 32, 25, 32, 32]
    assert [(one.ivh_bin_width, one.ivh_bin_count) for one in (c, d, e)] == [(2.5, None), (None, None), (None, 1000)]
    assert {one.mask_interpolator for one in (b, c, d, e)} == {"linear"}
    assert {one.round_intensity for one in (b, c, d, e)} == {True}


REFERENCE = Path(os.environ.get("LESIONFLOW_IBSI_CT", REAL_IMAGES / "ibsi_ct_phantom_nc"))
TABLES = REAL_IMAGES / "ibsi" / "ibsi_1_reference_values"


@pytest.mark.parametrize("letter", "abcde")
def test_each_configuration_gives_the_consensus_on_the_reference_ct(letter):
    nibabel, pandas = pytest.importorskip("nibabel"), pytest.importorskip("pandas")
    image, mask = REFERENCE / "nifti" / "image" / "phantom.nii.gz", REFERENCE / "nifti" / "mask" / "mask.nii.gz"
    table = TABLES / f"ibsi_1_chest_config_{letter}.csv"
    if not (image.exists() and mask.exists() and table.exists()):
        pytest.skip(f"the reference CT is not at {REFERENCE} (LESIONFLOW_IBSI_CT), or {table.name} not in {TABLES}")
    scan = nibabel.load(image)
    spacing = tuple(float(step) for step in scan.header.get_zooms()[::-1])
    arrays = np.asarray(scan.dataobj).T, np.asarray(nibabel.load(mask).dataobj).T > 0
    features, _ = ibsi_features(*arrays, spacing, preset(f"ibsi-{letter.upper()}"))
    reference = pandas.read_csv(table, sep=";").dropna().set_index("tag")
    shared = [tag for tag in reference.index if tag in features]
    assert len(shared) > 100
    value, tolerance = reference["reference value"].astype(float), reference["tolerance"].astype(float)
    wrong = [
        tag
        for tag in shared
        if abs(features[tag] - value[tag]) > max(tolerance[tag], 5e-3 * abs(value[tag])) * 1.000001
    ]
    assert wrong == []


def test_values_far_from_the_mean_are_left_out_after_those_out_of_range():
    values = np.concatenate([np.tile([1.0, 3.0], 50), [9.0, 500.0]])
    image, roi = values.reshape(1, 1, -1), np.ones((1, 1, values.size), dtype=bool)
    config = IbsiConfig(families=("intensity_statistics",), intensity_range=(0, 100), outlier_sigma=3)
    assert ibsi_features(image, roi, (1, 1, 1), config)[0]["stat_max"] == 3  # 9 is beyond 3 σ once 500 is gone
    within = config.model_copy(update={"outlier_sigma": 8.0})
    assert ibsi_features(image, roi, (1, 1, 1), within)[0]["stat_max"] == 9


def test_levels_of_fixed_width_are_counted_from_the_anchor():
    image, roi = np.array([[[0.0, 0.4, 0.6, 2.1]]]), np.ones((1, 1, 4), dtype=bool)
    config = IbsiConfig(families=("intensity_histogram",), bin_width=0.5, bin_anchor=0.0)
    features, reason = ibsi_features(image, roi, (1, 1, 1), config)
    assert reason == ""
    assert (features["ih_min"], features["ih_max"], features["ih_mean"]) == (1, 5, (1 + 1 + 2 + 5) / 4)


def test_an_intensity_below_the_anchor_is_a_reason_and_not_a_level():
    image, roi = np.array([[[-3.0, 0.4, 0.6, 2.1]]]), np.ones((1, 1, 4), dtype=bool)
    config = IbsiConfig(families=("intensity_histogram", "glcm"), bin_width=0.5, bin_anchor=0.0)
    features, reason = ibsi_features(image, roi, (1, 1, 1), config)
    assert np.isnan(list(features.values())).all()
    assert reason.count("below the first grey level") == 2


def test_a_lesion_too_small_for_the_new_voxels_says_so():
    image, roi = np.ones((9, 9, 9)), np.zeros((9, 9, 9), dtype=bool)
    roi[2, 2, 2] = True  # midway between new voxels along each axis: an eighth of them
    features, reason = ibsi_features(image, roi, (1, 1, 1), IbsiConfig(resample_mm=4))
    assert np.isnan(list(features.values())).all()
    assert "resample_mm" in reason


def test_an_image_without_spacing_cannot_be_resampled():
    with pytest.raises(ModelError, match="no spacing"):
        ibsi_features(np.ones((5, 5, 5)), np.ones((5, 5, 5)), (np.nan, 1, 1), IbsiConfig(resample_mm=2))


def test_a_flat_image_is_resampled_in_its_plane():
    image, roi = np.random.default_rng(0).random((1, 40, 40)), np.zeros((1, 40, 40), dtype=bool)
    roi[0, 10:30, 10:30] = True
    config = IbsiConfig(families=("planar", "intensity_statistics"), resample_mm=2.0, aggregation="2D_comb")
    features, reason = ibsi_features(image, roi, (1.0, 1.0, 1.0), config)
    assert reason == ""
    # 10 × 10 voxels of 2 mm: variance 4 (10² − 1) / 12, unbiased over 100 points
    assert features["morph_pca_maj_axis"] == pytest.approx(4 * np.sqrt(4 * 99 / 12 * 100 / 99), rel=1e-6)


def test_presets_and_their_mistakes():
    assert with_preset({"preset": "ibsi-B", "bin_count": 16})["bin_count"] == 16
    with pytest.raises(ModelError, match="ibsi-A, ibsi-B"):
        with_preset({"preset": "ibsi-Z"})
    with pytest.raises(ValidationError, match="bin_anchor"):
        IbsiConfig(filter={"kind": "mean"}, bin_width=5, intensity_range=(0, 100))
    with pytest.raises(ValidationError, match="not both"):
        IbsiConfig(ivh_bin_width=1, ivh_bin_count=10, intensity_range=(0, 1))
    with pytest.raises(ValidationError, match="one, two or three"):
        IbsiConfig(resample_mm=(1, 1, 1, 1))


def test_every_family_is_asked_for():
    assert set(preset("ibsi-E").families) == set(FAMILIES) - {"planar"}
