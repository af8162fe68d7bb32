import numpy as np
import pytest

from models.errors import ModelError
from models.radiomics import VolumeRadiomicsConfig, data_dictionary, features_of_case
from models.radiomics.burden import PEAK_RADIUS, TumourBurden, peaks, tumour_burden

SPACING = (2.0, 2.0, 2.0)


def ball(radius: float, spacing: tuple[float, ...] = SPACING, side: float = 60) -> np.ndarray:
    axes = [(np.arange(round(side / step)) + 0.5) * step - side / 2 for step in spacing]
    return np.sum([np.square(axis) for axis in np.meshgrid(*axes, indexing="ij")], axis=0) <= radius**2


def test_the_burden_of_a_uniform_ball_is_its_volume_and_its_suv_times_its_volume():
    mask = ball(20)
    burden = tumour_burden(np.where(mask, 5.0, 1.0), mask, SPACING)
    assert burden.mtv == pytest.approx(4 / 3 * np.pi * 2.0**3, rel=0.01)  # ml, of 2 cm
    assert burden.tlg == pytest.approx(5 * burden.mtv)
    assert burden[2:] == (5, 5, 5)


def test_voxels_of_another_shape_give_the_same_volume():
    spacing = (4.0, 2.0, 1.0)
    mask = ball(20, spacing)
    assert tumour_burden(mask * 3.0, mask, spacing).mtv == pytest.approx(4 / 3 * np.pi * 8, rel=0.02)


def test_the_peak_is_the_mean_in_a_ball_of_one_cubic_centimetre():
    assert 4 / 3 * np.pi * PEAK_RADIUS**3 == pytest.approx(1000)
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    voxels = ball(PEAK_RADIUS, (6.0,) * 3, side=30).sum()
    assert voxels == 7
    assert tumour_burden(mask * 14.0, mask, (6.0,) * 3).suv_peak == pytest.approx(14 / voxels)


def test_the_peak_is_the_largest_about_any_voxel_of_the_tumour_not_about_the_hottest():
    suv = np.zeros((5, 5, 31))
    suv[2, 2, 4] = 9
    suv[:, :, 15:26] = 8
    assert tumour_burden(suv, suv > 0, (6.0,) * 3).suv_peak == pytest.approx(8)


def test_outside_of_the_image_nothing_takes_part_in_a_peak():
    assert peaks(np.full((3, 3, 3), 4.0), np.array([6.0, 6.0, 6.0])) == pytest.approx(4)


def test_no_tumour_has_no_volume_and_no_suv():
    burden = tumour_burden(np.ones((4, 4, 4)), np.zeros((4, 4, 4), bool), SPACING)
    assert burden[:2] == (0, 0)
    assert np.isnan(burden[2:]).all()


@pytest.mark.parametrize("spacing", [(2.0, 2.0), (np.nan, 2.0, 2.0), (0.0, 2.0, 2.0)])
def test_without_a_spacing_there_is_no_volume(spacing: tuple[float, ...]):
    with pytest.raises(ModelError, match="spacing"):
        tumour_burden(np.ones((4, 4, 4)), np.ones((4, 4, 4), bool), spacing)


def test_rows_of_lesions_have_it_where_asked_whatever_lies_around_them():
    """Two tumours in noise, one of them at the edge; the row of both together, then one each."""
    suv = np.random.default_rng(0).random((20, 24, 28)) * 9
    masks = np.zeros((2, *suv.shape), bool)
    masks[0, 3:8, 4:9, 0:6] = masks[1, 12:15, 10:20, 15:18] = True
    spacing, config = (4.0, 3.0, 3.0), VolumeRadiomicsConfig(burden=True, families=("intensity_statistics",))
    rows = features_of_case(suv[None], masks, spacing, config)
    for row, mask in zip(rows, (masks.any(axis=0), *masks), strict=True):
        found = TumourBurden(**{name: row[name] for name in TumourBurden._fields})
        assert found == pytest.approx(tumour_burden(suv, mask, spacing))
        assert row["suv_max"] == row["stat_max"]
    assert set(TumourBurden._fields) <= set(data_dictionary(config)["name"])
    assert not set(TumourBurden._fields) & set(data_dictionary(VolumeRadiomicsConfig())["name"])


def test_a_lesion_has_the_burden_that_it_has_as_the_whole():
    suv, mask = np.random.default_rng(1).random((9, 9, 9)), np.zeros((1, 9, 9, 9), bool)
    mask[0, 2:5, 2:6, 2:7] = True
    config = VolumeRadiomicsConfig(burden=True, families=("intensity_statistics",))
    whole, single = features_of_case(suv[None], mask, (3.0, 3.0, 3.0), config)
    assert [whole[name] for name in TumourBurden._fields] == [single[name] for name in TumourBurden._fields]
