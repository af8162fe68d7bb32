import numpy as np
import pytest
from scipy import ndimage

from models.radiomics.interpolation import covering, resampled, resampled_axis, resampled_mask, rounded

pytestmark = pytest.mark.filterwarnings("error")


def axes_of(shape, spacing, wanted):
    return [resampled_axis(*axis) for axis in zip(shape, spacing, wanted, strict=True)]


def everywhere(axes):
    return tuple(slice(0, axis.size) for axis in axes)


def positions(axis):
    return axis.first + axis.step * np.arange(axis.size)


@pytest.mark.parametrize(
    ("size", "spacing", "wanted", "expected"),
    [(60, 3.0, 2.0, 90), (40, 3.9, 2.0, 78), (7, 2.0, 3.0, 5), (5, 1.0, 1.0, 5)],
)
def test_the_new_grid_has_the_size_and_the_centre_that_ibsi_says(size, spacing, wanted, expected):
    axis = resampled_axis(size, spacing, wanted)
    assert axis.size == expected == np.ceil(round(size * spacing / wanted, 6))
    assert positions(axis).mean() == pytest.approx((size - 1) / 2)
    assert np.diff(positions(axis)) * spacing == pytest.approx(wanted)


def test_a_quotient_that_rounding_leaves_above_a_whole_number_makes_no_extra_voxel():
    assert 3 / (0.3 / 0.1) > 1
    assert resampled_axis(3, 0.1, 0.3).size == 1


@pytest.mark.parametrize("interpolator", ["linear", "cubic"])
def test_a_linear_ramp_stays_the_ramp(interpolator):
    z, y, x = np.meshgrid(np.arange(30.0), np.arange(28.0), np.arange(26.0), indexing="ij")
    ramp = 3 * z - 2 * y + 0.5 * x
    axes = axes_of(ramp.shape, (3.0, 0.9, 0.9), (2.0, 2.0, 2.0))
    inner = tuple(slice(axis.size // 2 - 1, axis.size // 2 + 1) for axis in axes)
    expected = sum(
        factor * positions(axis)[part].reshape([-1 if k == n else 1 for k in range(3)])
        for n, (factor, axis, part) in enumerate(zip((3, -2, 0.5), axes, inner, strict=True))
    )
    assert resampled(ramp, axes, inner, interpolator) == pytest.approx(
        expected, abs=1e-3 if interpolator == "cubic" else 1e-9
    )


@pytest.mark.parametrize("interpolator", ["nearest", "linear", "cubic"])
def test_a_part_of_the_new_grid_is_what_the_whole_grid_has_there(interpolator):
    image = np.random.default_rng(0).normal(size=(40, 44, 42))
    axes = axes_of(image.shape, (3.0, 0.977, 0.977), (2.0, 2.0, 2.0))
    part = (slice(20, 31), slice(3, 9), slice(0, 7))
    whole = resampled(image, axes, everywhere(axes), interpolator)
    assert resampled(image, axes, part, interpolator) == pytest.approx(whole[part], abs=1e-8)


def test_a_coarser_voxel_between_two_is_their_mean():
    axes = axes_of((1, 1, 6), (1.0, 1.0, 1.0), (1.0, 1.0, 2.0))
    image = np.array([[[1.0, 3.0, 2.0, 8.0, 5.0, 5.0]]])
    assert resampled(image, axes, everywhere(axes), "linear").ravel() == pytest.approx([2, 5, 5])


def test_half_a_voxel_belongs_to_the_region_and_less_does_not():
    # voxels of 3 mm onto 2 mm: new voxels lie 1/6, 5/6 and 1/2 between old ones
    roi = np.ones((2, 1, 1), dtype=bool)
    box = (slice(3, 5), slice(0, 1), slice(0, 1))
    axes = axes_of((12, 1, 1), (3.0, 1.0, 1.0), (2.0, 1.0, 1.0))
    inside = resampled_mask(roi, box, (12, 1, 1), axes, everywhere(axes), "linear", 0.5).ravel()
    full = np.zeros((12, 1, 1))
    full[3:5] = 1
    share = np.interp(positions(axes[0]), np.arange(12), full.ravel())
    assert np.isclose(share, 0.5).any()
    assert inside.tolist() == (share > 0.499).tolist()


def test_the_covering_box_misses_no_voxel_of_the_region():
    random = np.random.default_rng(1)
    mask = ndimage.binary_dilation(random.random((20, 30, 30)) > 0.9995, iterations=3)
    [box] = ndimage.find_objects(mask.astype(int))
    for wanted in ((2.0, 2.0, 2.0), (5.0, 0.5, 1.1)):
        axes = axes_of(mask.shape, (3.0, 0.9, 0.9), wanted)
        part = covering(axes, box, [0, 0, 0])
        settings = (mask.shape, axes)
        whole = resampled_mask(mask[box], box, *settings, everywhere(axes), "linear", 0.5)
        assert whole.sum() == resampled_mask(mask[box], box, *settings, part, "linear", 0.5).sum() > 0
        assert whole[part].sum() == whole.sum()


def test_halves_go_to_the_even_number_whatever_rounding_has_left_of_them():
    assert rounded(np.array([0.5 - 1e-12, 1.5 + 1e-12, 2.5 - 1e-12, -3.4])).tolist() == [0, 2, 2, -3]
