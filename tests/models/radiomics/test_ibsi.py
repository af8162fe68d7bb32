import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError
from zrad.image import Image
from zrad.preprocessing import IntensityMaskBuilder, RoiData, TextureDiscretizer
from zrad.radiomics import Radiomics

from models.errors import ModelError
from models.radiomics import FEATURES, IbsiConfig, RadiomicsConfig, columns, ibsi_features, units_of

# every warning of these tests is an error: the adapter is silent
pytestmark = pytest.mark.filterwarnings("error")

VOLUME = IbsiConfig()
SLICE = RadiomicsConfig()
MM = (1.0, 1.0, 1.0)


def region(shape, *points):
    mask = np.zeros(shape, dtype=bool)
    for point in points:
        mask[point] = True
    return mask


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(float)


def test_features_of_four_pixels_worked_by_hand():
    image, roi = np.array([[[1.0, 2.0], [3.0, 10.0]]]), np.ones((1, 2, 2), dtype=bool)
    config = RadiomicsConfig(bin_width=1, intensity_range=(1, 10))
    features, reason = ibsi_features(image, roi, (1.0, 0.5, 0.5), config)
    assert reason == ""
    assert features["stat_mean"] == 4
    assert features["stat_var"] == pytest.approx(12.5)  # (9 + 4 + 1 + 36) / 4
    assert features["stat_skew"] == pytest.approx(45 / 12.5**1.5)  # (−27 − 8 − 1 + 216) / 4 = 45
    assert features["stat_energy"] == 1 + 4 + 9 + 100
    assert features["ih_entropy"] == 2
    # a square of side 2 points at distance 0.5: variance 1/3 · 0.25 of each coordinate (unbiased), axis 4 √variance
    assert features["morph_pca_maj_axis"] == pytest.approx(4 * np.sqrt(0.25 / 3))
    assert features["morph_pca_elongation"] == pytest.approx(1)
    # six neighbouring pairs: |1−2| |3−10| |1−3| |2−10| |1−10| |2−3|
    assert features["cm_contrast_2D_comb"] == pytest.approx((1 + 49 + 4 + 64 + 81 + 1) / 6)
    assert features["rlm_r_perc_2D_comb"] == 1  # no two equal pixels: every run has length 1
    assert features["szm_z_perc_2D"] == 1


def test_volume_and_surface_of_a_box_worked_by_hand():
    roi = region((6, 7, 8), (slice(1, 4), slice(1, 5), slice(1, 6)))
    features, _ = ibsi_features(noise(roi.shape), roi, (2.0, 1.0, 1.0), VOLUME)
    assert features["morph_vol_approx"] == 3 * 4 * 5 * 2
    assert features["morph_pca_maj_axis"] == pytest.approx(
        4 * np.sqrt(60 / 59 * 4 * (3**2 - 1) / 12)
    )  # along z: 2 mm steps
    assert features["morph_integ_int"] == pytest.approx(features["stat_mean"] * features["morph_volume"])


@pytest.mark.parametrize(
    ("aggregation", "depth"),
    [(name, depth) for name in ("2D_avg", "2D_comb", "2_5D_avg", "2_5D_comb") for depth in (1, 5)]
    + [("3D_avg", 5), ("3D_comb", 5)],
)
def test_the_adapter_changes_no_value_of_z_rad(aggregation, depth):
    image, roi = noise((depth, 12, 13), 1), region((depth, 12, 13), (slice(None), slice(1, 11), slice(2, 11)))
    roi[:, 1:3, 2:5] = False
    config = IbsiConfig(aggregation=aggregation, bin_count=16)
    ours, _ = ibsi_features(image, roi, (2.0, 1.5, 1.5), config)
    theirs = z_rad(image, roi, (2.0, 1.5, 1.5), config)
    assert len(theirs) >= (169 if depth > 1 else 144) - 6  # all but the volume histogram, whose step we choose
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


def z_rad(image, roi, spacing, config):
    geometry = {
        "origin": (0, 0, 0),
        "spacing": np.array(spacing[::-1]),
        "direction": np.eye(3).ravel(),
        "shape": roi.shape[::-1],
    }
    data = RoiData(image=Image(image, **geometry), morphological_mask=Image(roi.astype(np.int8), **geometry))
    data = TextureDiscretizer(number_of_bins=config.bin_count).apply(IntensityMaskBuilder().apply(data))
    dimension, _, kind = config.aggregation.rpartition("_")
    method = {"2D_avg": "AVER", "2D_comb": "SLICE_MERG", "2_5D_avg": "DIR_MERG", "2_5D_comb": "MERG"}.get(
        config.aggregation, "AVER" if kind == "avg" else "MERG"
    )
    return Radiomics(aggr_dim=dimension.replace("_", "."), aggr_method=method).extract_features(data)


@pytest.mark.parametrize("level", [None, 0.0, 7.0], ids=["noise", "zero", "flat"])
@pytest.mark.parametrize(
    "points",
    [
        [(3, 3, 3)],
        [(3, 3, slice(3, 5))],
        [(3, 3, slice(3, 6))],
        [(1, 1, 1), (5, 5, 5)],
        [(1, 1, 1), (2, 2, 2), (3, 3, 3)],
        [(slice(2, 5),) * 3],
        [(slice(0, 3),) * 3],
        [(3, slice(2, 6), slice(2, 6))],
        [(slice(None),) * 3],
    ],
    ids=["1 voxel", "2 voxels", "line", "apart", "diagonal", "cube", "border", "flat slab", "everything"],
)
def test_degenerate_regions_keep_the_columns_and_say_why(points, level):
    shape = (7, 9, 9)
    image = noise(shape) if level is None else np.full(shape, level)
    for config, cut in ((VOLUME, slice(None)), (SLICE, slice(3, 4))):
        roi = region(shape, *points)[cut]
        features, reason = ibsi_features(image[cut], roi, MM, config)
        assert tuple(features) == columns(config)
        missing = [name for name, value in features.items() if np.isnan(value)]
        assert bool(missing) == bool(reason)
        assert "\n" not in reason
        if roi.any():
            assert features["stat_mean"] == pytest.approx(image[cut][roi].mean())
            assert not np.isinf(list(features.values())).any()


def test_a_cube_loses_one_feature_not_its_morphology():
    roi = region((7, 7, 7), (slice(2, 5),) * 3)
    features, reason = ibsi_features(noise(roi.shape), roi, MM, VOLUME)
    assert reason == "morphology: morph_area_dens_aee undefined here"
    assert features["morph_vol_approx"] == 27


def test_an_empty_region_is_all_nan_with_its_reason():
    features, reason = ibsi_features(noise((1, 5, 5)), np.zeros((1, 5, 5), dtype=bool), MM, SLICE)
    assert np.isnan(list(features.values())).all()
    assert reason == "the region is empty"


def test_nothing_within_the_intensity_range_is_a_reason():
    config = RadiomicsConfig(intensity_range=(1000, 2000))
    features, reason = ibsi_features(noise((1, 5, 5)), np.ones((1, 5, 5), dtype=bool), MM, config)
    assert np.isnan(list(features.values())).all()
    assert "intensity_range" in reason


def test_the_intensity_range_leaves_pixels_out():
    image = np.array([[[1.0, 2.0, 3.0, 99.0]]])
    features, _ = ibsi_features(image, np.ones((1, 1, 4), dtype=bool), MM, RadiomicsConfig(intensity_range=(0, 10)))
    assert features["stat_mean"] == 2


def test_what_lies_outside_the_region_changes_nothing_but_intensity_peaks():
    config = IbsiConfig(aggregation="2_5D_comb")
    roi = region((5, 20, 20), (slice(1, 4), slice(8, 12), slice(8, 13)))
    image = noise(roi.shape)
    tight = (slice(1, 4), slice(8, 12), slice(8, 13))
    whole, _ = ibsi_features(image, roi, MM, config)
    cropped, _ = ibsi_features(image[tight], roi[tight], MM, config)
    for name in whole:
        if not name.startswith("loc_peak"):
            assert cropped[name] == pytest.approx(whole[name], nan_ok=True, abs=1e-12), name
    assert cropped["loc_peak_glob"] != whole["loc_peak_glob"]


def test_intensity_peaks_see_their_whole_radius():
    # 6.2 mm reach 3.1 voxels: (7/2)³-ish balls; the brightest voxel's mean is worked out voxel by voxel
    image, roi = noise((15, 15, 15)), region((15, 15, 15), (7, 7, slice(6, 9)))
    features, _ = ibsi_features(image, roi, (2.0, 2.0, 2.0), VOLUME)
    grid = np.stack(np.meshgrid(*[np.arange(15)] * 3, indexing="ij"))
    means = [
        image[((grid - np.array([7, 7, x])[:, None, None, None]) ** 2).sum(axis=0) * 4 <= 6.2**2].mean()
        for x in (6, 7, 8)
    ]
    assert features["loc_peak_glob"] == pytest.approx(max(means))
    assert features["loc_peak_loc"] == pytest.approx(means[int(np.argmax(image[7, 7, 6:9]))])


def test_unknown_spacing_counts_in_pixels():
    roi = region((1, 9, 9), (0, slice(2, 6), slice(2, 8)))
    unknown, _ = ibsi_features(noise(roi.shape), roi, (np.nan, np.nan, np.nan), SLICE)
    pixels, _ = ibsi_features(noise(roi.shape), roi, MM, SLICE)
    assert unknown == pixels
    assert units_of((np.nan, np.nan)) == "pixel"
    assert units_of((1.0, 0.01, 0.01)) == "mm"


def test_columns_depend_on_the_configuration_alone():
    assert len(columns()) == len(set(columns())) == 169
    assert len(columns(SLICE)) == 148
    assert len(columns(IbsiConfig(families=("planar", "morphology")))) == 25
    assert {feature.family for feature in FEATURES} == set(IbsiConfig().families) | {"planar"}


def test_a_flat_image_has_planar_shape_and_no_morphology():
    config = IbsiConfig(families=("morphology", "planar"))
    features, reason = ibsi_features(noise((1, 9, 9)), region((1, 9, 9), (0, slice(2, 6), slice(2, 8))), MM, config)
    assert "no volume" in reason
    assert np.isnan(features["morph_volume"])
    assert features["morph_pca_maj_axis"] > features["morph_pca_min_axis"] > 0


def test_wrong_configurations_and_shapes_are_refused():
    with pytest.raises(ValidationError, match="needs intensity_range"):
        IbsiConfig(bin_width=1)
    with pytest.raises(ValidationError, match="grey levels"):
        IbsiConfig(bin_width=0.01, intensity_range=(0, 255))
    with pytest.raises(ValidationError, match="ascending"):
        IbsiConfig(intensity_range=(5, 5))
    with pytest.raises(ValidationError, match="use 'planar'"):
        RadiomicsConfig(families=("morphology",))
    with pytest.raises(ModelError, match="Z = 1"):
        ibsi_features(np.zeros((4, 4)), np.zeros((4, 4)), MM)


def test_no_window_toolkit_is_loaded():
    code = "import sys, models.radiomics; print([name for name in sys.modules if 'Qt' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
