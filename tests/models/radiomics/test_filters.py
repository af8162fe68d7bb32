import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage

from models.errors import ModelError
from models.radiomics import IbsiConfig, ibsi_features
from models.radiomics.filters import AnyFilter, filter_reach, filtered

SETTINGS = [
    {"kind": "mean", "support": 5},
    {"kind": "log", "sigma_mm": 1.5},
    {"kind": "laws", "kernels": "L5E5E5", "energy_radius": 2},
    {"kind": "gabor", "sigma_mm": 1.5, "wavelength_mm": 2.0},
    {"kind": "wavelet", "wavelet": "db2", "passes": "LLH"},
    {"kind": "wavelet", "wavelet": "haar", "passes": "HHL", "level": 2},
]
MM = (1.0, 1.0, 1.0)


def made(settings):
    return TypeAdapter(AnyFilter).validate_python(settings)


def impulse(side=25):
    image = np.zeros((side,) * 3)
    image[(side // 2,) * 3] = 1.0
    return image


def test_the_mean_of_an_impulse_is_a_cube():
    response = filtered(impulse(), MM, made({"kind": "mean", "support": 5}))
    assert response[10:15, 10:15, 10:15] == pytest.approx(1 / 125)
    assert response.sum() == pytest.approx(1)


def test_log_of_an_impulse_is_the_formula():
    sigma = 2.0
    response = filtered(impulse(41), MM, made({"kind": "log", "sigma_mm": 2.0, "cutoff": 8}))
    grid = np.stack(np.meshgrid(*[np.arange(41) - 20] * 3, indexing="ij"))
    square = (grid**2).sum(axis=0) / sigma**2
    expected = (square - 3) / sigma**2 * np.exp(-square / 2) / (2 * np.pi * sigma**2) ** 1.5
    assert response == pytest.approx(expected, abs=0.03 * np.abs(expected).max())


def test_log_counts_in_millimetres():
    fine = filtered(impulse(), MM, made({"kind": "log", "sigma_mm": 2.0}))
    assert filtered(impulse(), (2.0, 2.0, 2.0), made({"kind": "log", "sigma_mm": 4.0})) == pytest.approx(fine)


def test_laws_of_an_impulse_is_the_product_of_its_kernels():
    settings = {"kind": "laws", "kernels": "L3E3S3", "rotation_invariant": False, "energy_radius": None}
    response = filtered(impulse(), MM, made(settings))[11:14, 11:14, 11:14]
    level, edge, spot = np.array([1, 2, 1]) / 6**0.5, np.array([-1, 0, 1]) / 2**0.5, np.array([-1, 2, -1]) / 6**0.5
    assert response == pytest.approx(np.einsum("z,y,x->zyx", spot, edge, level), abs=1e-12)


def test_a_haar_wavelet_of_a_step_is_high_where_it_steps():
    image = np.repeat(np.repeat((np.arange(24) > 11).astype(float)[None, None], 24, axis=0), 24, axis=1)
    settings = {"kind": "wavelet", "wavelet": "haar", "passes": "HLL", "rotation_invariant": False}
    response = np.abs(filtered(image, MM, made(settings)))[12, 12]
    assert response.max() == pytest.approx(2**0.5)  # 1/√2 along x, √2 along y and z each
    assert (response > 1e-9).sum() == 1


def test_a_gabor_filter_answers_to_its_wavelength():
    x = np.arange(64)
    waves = [np.tile(np.sin(2 * np.pi * x / length), (1, 64, 1)) for length in (4.0, 11.0)]
    settings = {"kind": "gabor", "sigma_mm": 4.0, "wavelength_mm": 4.0, "gamma": 1.0, "angle_degrees": 15.0}
    near, far = (filtered(wave, MM, made(settings))[0, 20:44, 20:44].mean() for wave in waves)
    assert near > 5 * far


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda one: f"{one['kind']}{one.get('level', '')}")
def test_the_part_around_a_region_gives_the_values_of_the_whole_image_filtered(settings):
    random = np.random.default_rng(0)
    image, roi = ndimage.gaussian_filter(random.normal(size=(40, 42, 44)), 1), np.zeros((40, 42, 44), dtype=bool)
    roi[1:7, 20:26, 30:37] = True  # two voxels from the edge
    config = IbsiConfig(filter=settings, families=("intensity_statistics",))
    features, reason = ibsi_features(image, roi, MM, config)
    assert reason == ""
    response = filtered(image, MM, made(settings))[roi]
    assert features["stat_mean"] == pytest.approx(response.mean(), rel=1e-5, abs=1e-7)
    assert features["stat_max"] == pytest.approx(response.max(), rel=1e-5)


def test_two_dimensional_filters_do_not_look_at_other_slices():
    for settings in SETTINGS[:2]:
        assert filter_reach(made(settings | {"dimension": "2D"}), MM)[0] == 0
    image = np.random.default_rng(0).normal(size=(3, 20, 20))
    other = image.copy()
    other[[0, 2]] = 0
    log = made({"kind": "log", "dimension": "2D"})
    assert (filtered(image, MM, log)[1] == filtered(other, MM, log)[1]).all()


def test_shape_is_of_the_mask_and_range_of_the_image_before_the_filter():
    image, roi = np.arange(1000.0).reshape(10, 10, 10), np.zeros((10, 10, 10), dtype=bool)
    roi[2:8, 2:8, 2:8] = True
    config = IbsiConfig(
        filter={"kind": "log"}, families=("morphology", "intensity_statistics"), intensity_range=(0, 500)
    )
    features, _ = ibsi_features(image, roi, MM, config)
    assert features["morph_vol_approx"] == 216
    kept = roi & (image <= 500)
    assert features["stat_mean"] == pytest.approx(filtered(image, MM, made({"kind": "log"}))[kept].mean())


def test_voxels_of_several_sizes_and_flat_images_are_refused_in_one_line():
    with pytest.raises(ModelError, match="resample_mm"):
        filtered(impulse(), (3.0, 1.0, 1.0), made({"kind": "log"}))
    with pytest.raises(ModelError, match="dimension=2D"):
        filtered(np.zeros((1, 9, 9)), MM, made({"kind": "mean"}))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"kind": "mean", "support": 4}, "odd"),
        ({"kind": "laws", "kernels": "L5E5"}, "for 3D"),
        ({"kind": "laws", "kernels": "L5W3"}, "pattern"),
        ({"kind": "wavelet", "level": 2, "rotation_invariant": False}, "level 2"),
        ({"kind": "gabor", "orthogonal_planes": True, "rotation_invariant": False}, "orthogonal_planes"),
        ({"kind": "sobel"}, "mean"),
    ],
)
def test_wrong_settings_of_filters_say_what_would_be_right(settings, complaint):
    with pytest.raises(ValidationError, match=complaint):
        IbsiConfig(filter=settings)
