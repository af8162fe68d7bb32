"""Statistics of images, PSI and KS against what is known of them, and how often drift is seen where there is none."""

import numpy as np
import pytest
from scipy import stats

from models.drift import DriftConfig, drift, holm, image_statistics, ks, psi, psi_bias
from models.errors import ModelError

RNG = np.random.default_rng(0)
NAMES = [f"statistic_{number}" for number in range(10)]


def normal(count: int, shift: float = 0.0, rng: np.random.Generator = RNG) -> dict[str, np.ndarray]:
    """Ten independent statistics of `count` cases; the first is shifted by `shift` standard deviations."""
    drawn = {name: rng.normal(size=count) for name in NAMES}
    drawn[NAMES[0]] += shift
    return drawn


def test_psi_is_the_sum_worked_by_hand():
    # quartiles of 1 … 8 end bins at 2.75, 4.5 and 6.25: two cases in each; of the new, 4, 0, 2, 2
    p = np.full(4, 2.5 / 10)
    q = np.array([4.5, 0.5, 2.5, 2.5]) / 10
    expected = 0.2 * np.log(0.45 / 0.25) - 0.2 * np.log(0.05 / 0.25)
    assert expected == pytest.approx(((q - p) * np.log(q / p)).sum())
    assert psi(np.arange(1.0, 9), [0, 1, 2, 2.5, 5, 6, 7, 100], bins=4) == pytest.approx(expected)


def test_psi_of_a_sample_with_itself_is_nought():
    values = RNG.normal(size=100)
    assert psi(values, values) == 0


@pytest.mark.parametrize("new", [-1.0, 1.0])
def test_psi_sees_a_value_that_all_reference_cases_share_move_either_way(new: float):
    assert psi(np.zeros(50), np.full(50, new)) > 1
    assert psi([*np.zeros(30), *range(1, 21)], [*np.full(30, new), *range(1, 21)]) > 0.5


def test_psi_where_nothing_changed_is_about_its_bias():
    found = [psi(RNG.normal(size=200), RNG.normal(size=100)) for _ in range(500)]
    assert np.mean(found) == pytest.approx(psi_bias(10, 200, 100), rel=0.15)


def test_ks_is_that_of_scipy_without_the_numbers_that_are_none():
    before, after = RNG.normal(size=40), RNG.normal(0.5, size=30)
    expected = stats.ks_2samp(before, after)
    assert ks([*before, np.nan], [np.nan, *after]) == (expected.statistic, expected.pvalue)


def test_holm_is_that_worked_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("count", [20, 50, 500])
def test_no_drift_is_seen_where_there_is_none(count: int):
    rng = np.random.default_rng(count)
    alarms = [drift(normal(500, rng=rng), normal(count, rng=rng)).drifted for _ in range(300)]
    assert np.mean(alarms) <= 0.02  # 0.01 is what is promised; the 95 % limit of 300 draws


@pytest.mark.parametrize(("count", "power"), [(20, 0.6), (50, 0.97)])
def test_a_shift_of_one_standard_deviation_is_found(count: int, power: float):
    rng = np.random.default_rng(count)
    reports = [drift(normal(500, rng=rng), normal(count, 1.0, rng)) for _ in range(100)]
    assert np.mean([report.rows[NAMES[0]].drifted for report in reports]) >= power


def test_a_small_shift_of_many_cases_is_sure_but_no_drift():
    report = drift(normal(20_000), normal(20_000, 0.1))
    assert report.rows[NAMES[0]].p_value < 1e-6
    assert not report.drifted


def test_few_new_cases_get_no_verdict():
    report = drift(normal(500), normal(19, 9.0))
    assert not report.drifted
    assert report.rows == {}
    assert "19 new cases" in report.reason


def test_the_reason_names_what_drifted():
    rng = np.random.default_rng(1)
    report = drift(normal(500, rng=rng), normal(100, 3.0, rng), DriftConfig())
    assert report.reason.startswith("1 of 10 statistics drifted: statistic_0 (PSI")


def test_numbers_that_are_none_are_left_out():
    before, after = normal(100), normal(100)
    with_gaps = {name: np.append(values, [np.nan, np.inf]) for name, values in after.items()}
    assert drift(before, with_gaps) == drift(before, after)


def test_two_sides_without_a_common_statistic_are_refused():
    with pytest.raises(ModelError, match="mean_0 of old, mean_1 of new"):
        drift({"mean_0": [1.0]}, {"mean_1": [1.0]})


def test_statistics_of_an_image_are_those_of_its_channels():
    image = RNG.integers(0, 256, (3, 20, 30), dtype=np.uint8)
    found = image_statistics(image)
    assert len(found) == 3 * 5 + 1
    assert found["mean_1"] == pytest.approx(image[1].mean())
    assert found["std_2"] == pytest.approx(image[2].std())
    assert found["p99_0"] == pytest.approx(np.percentile(image[0], 99))


def test_blur_lowers_sharpness_and_contrast_and_offset_leave_it():
    from scipy.ndimage import gaussian_filter

    sharp = RNG.normal(size=(1, 64, 64))
    found = image_statistics(sharp)["sharpness"]
    assert image_statistics(gaussian_filter(sharp, (0, 1, 1)))["sharpness"] < 0.5 * found
    assert image_statistics(3 * sharp + 100)["sharpness"] == pytest.approx(found)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((3, 4, 4)),
        np.full((1, 4, 4), np.nan),
        np.array([[[np.nan, np.inf], [1.0, 2.0]]]),
        np.full((2, 1, 1, 1), 1e300),
        RNG.normal(size=(1, 2, 3, 4)).astype(np.float32) * 1e38,
        np.array([[[1e300, -1e300]]]),
    ],
)
def test_statistics_are_finite_whatever_the_image(image: np.ndarray):
    assert np.isfinite(list(image_statistics(image).values())).all()
