import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from models.metrics import case_evidence, localization_metrics, pr_curve
from models.metrics.evidence import EvidenceConfig
from models.metrics.histogram import key_values, order_keys


def maps_of(kind, generator, shape=(6, 32, 32)):
    """Maps of a shape and truth (about one pixel in twelve) that they know something about."""
    truth = generator.random(shape) < 0.08
    noise = generator.standard_normal(shape)
    heavy = np.exp(2 * noise) * (1 + truth)
    maps = {
        "signed": noise + truth,
        "heavy tail, mostly zero": np.where(generator.random(shape) < 0.8, 0.0, heavy),
        "tiny": 1e-7 * (noise + truth),
        "saturated probability": 1 / (1 + np.exp(-(3 * noise + 6 + 4 * truth))),
        "far from zero": 1000 + noise + truth,
        "constant": np.full(shape, 0.25),
    }
    return maps[kind].astype(np.float32), truth


KINDS = ["signed", "heavy tail, mostly zero", "tiny", "saturated probability", "far from zero", "constant"]


def evidence_of(maps, truth, **config):
    return [case_evidence(saliency, mask, EvidenceConfig(**config)) for saliency, mask in zip(maps, truth, strict=True)]


def metrics_of(maps, truth, **config):
    return localization_metrics(evidence_of(maps, truth, **config), [str(i) for i in range(len(maps))], resamples=2)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), st.integers(12, 32))
def test_keys_sort_like_the_values(values, bits):
    ascending = np.sort(np.asarray(values, dtype=np.float32))
    keys = order_keys(ascending, bits)
    assert (np.diff(keys.astype(np.int64)) >= 0).all()
    assert (key_values(keys) <= ascending).all()


def test_all_bits_keep_every_float_and_make_the_two_zeros_one():
    values = np.array(
        [-np.inf, -1.5, -1e-45, -0.0, 0.0, 1e-45, 1.0, np.nextafter(np.float32(1), np.float32(2))], dtype=np.float32
    )
    keys = order_keys(values)
    assert np.array_equal(key_values(keys), values)
    assert len(set(keys.tolist())) == len(values) - 1


@pytest.mark.parametrize("kind", KINDS)
def test_pooled_average_precision_is_scikit_learns(kind):
    maps, truth = maps_of(kind, np.random.default_rng(1))
    expected = average_precision_score(truth.ravel(), maps.ravel())
    assert metrics_of(maps, truth)["ap_pooled"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_per_image_average_precision_is_the_mean_of_scikit_learns(kind):
    maps, truth = maps_of(kind, np.random.default_rng(2))
    expected = np.mean(
        [average_precision_score(mask.ravel(), one.ravel()) for one, mask in zip(maps, truth, strict=True)]
    )
    assert metrics_of(maps, truth)["ap_per_image"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_minmax_average_precision_is_scikit_learns_of_scaled_maps(kind):
    maps, truth = maps_of(kind, np.random.default_rng(3))
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
    scaled = ((flat - low) / np.where(high > low, high - low, 1)).astype(np.float32)
    expected = average_precision_score(truth.ravel(), scaled.ravel())
    assert metrics_of(maps, truth)["ap_minmax"] == pytest.approx(expected, abs=1e-12)


def test_twenty_bits_are_enough_for_values_that_spread_over_magnitudes():
    for kind in ("signed", "heavy tail, mostly zero", "tiny"):
        maps, truth = maps_of(kind, np.random.default_rng(4), shape=(20, 64, 64))
        exact, coarse = metrics_of(maps, truth)["ap_pooled"], metrics_of(maps, truth, key_bits=20)["ap_pooled"]
        assert coarse == pytest.approx(exact, abs=1e-3)


def test_a_constant_map_earns_the_prevalence():
    truth = np.zeros((1, 8, 8), dtype=bool)
    truth[0, :2] = True
    assert metrics_of(np.ones((1, 8, 8)), truth)["ap_pooled"] == 0.25


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([np.exp, np.cbrt, lambda v: 7 * v - 100, lambda v: v**3]))
def test_a_monotone_transform_of_all_maps_changes_no_ranking_metric(seed, transform):
    generator = np.random.default_rng(seed)
    maps = generator.integers(-8, 8, (4, 12, 12)).astype(np.float32)
    truth = generator.random((4, 12, 12)) < 0.2
    before, after = metrics_of(maps, truth, froc_sigma=0), metrics_of(transform(maps), truth, froc_sigma=0)
    for key in ("ap_pooled", "ap_per_image", "froc_mean", "sensitivity_at_10fp"):
        assert after[key] == pytest.approx(before[key], abs=1e-12, nan_ok=True)


def test_the_order_of_cases_does_not_matter_and_volumes_work_like_images():
    maps, truth = maps_of("signed", np.random.default_rng(5))
    flat = metrics_of(maps, truth)
    assert metrics_of(maps[::-1], truth[::-1])["ap_pooled"] == pytest.approx(flat["ap_pooled"], abs=1e-12)
    volume = metrics_of(maps.reshape(6, 4, 16, 16), truth.reshape(6, 4, 16, 16))
    assert volume["ap_pooled"] == flat["ap_pooled"]
    assert volume["energy"] == flat["energy"]


def test_the_precision_recall_curve_holds_the_average_precision():
    maps, truth = maps_of("heavy tail, mostly zero", np.random.default_rng(6))
    curve = pr_curve(evidence_of(maps, truth))
    steps = np.diff(curve.recall, prepend=0)
    assert steps @ curve.precision == pytest.approx(metrics_of(maps, truth)["ap_pooled"], abs=1e-12)
    assert curve.recall[-1] == 1
    flagged = maps >= np.float32(curve.threshold[10])
    assert curve.precision[10] == pytest.approx(truth[flagged].mean())
