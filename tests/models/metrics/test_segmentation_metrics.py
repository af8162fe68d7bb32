"""Pixels right and wrong within the field of view, against scikit-learn and torchmetrics."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_f1_score,
    binary_recall,
    binary_specificity,
)

from models.errors import ModelError
from models.metrics.segmentation import SEGMENTATION, Segmented, area, segmentation_metrics, segmented

ORACLES = {
    "sensitivity": binary_recall,
    "specificity": binary_specificity,
    "accuracy": binary_accuracy,
    "dice_at_half": binary_f1_score,
}


def drawn(seed: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, truth and view (20, 20)."""
    draw = np.random.default_rng(seed)
    truth, view = draw.random((20, 20)) < 0.2, draw.random((20, 20)) < 0.7
    scores = np.clip(0.3 + 0.3 * truth + draw.normal(0, 0.2, truth.shape), 0.001, 0.999).astype(np.float32)
    return (scores.round(1) if ties else scores), truth, view


def pixels(seeds: range, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    cases = [drawn(seed, ties) for seed in seeds]
    scores, truth = (np.concatenate([case[part][case[2]] for case in cases]) for part in (0, 1))
    return scores, truth


def metrics_of(seeds: range, ties: bool = False, **options) -> dict:
    images = [segmented(*drawn(seed, ties)) for seed in seeds]
    return segmentation_metrics(images, [f"p{seed // 2}" for seed in seeds], **options)


@pytest.mark.parametrize("ties", [False, True])
def test_pooled_figures_are_scikit_learns_and_torchmetrics(ties):
    scores, truth = pixels(range(4), ties)
    found = metrics_of(range(4), ties, resamples=20)
    assert found["roc_auc"] == pytest.approx(roc_auc_score(truth, scores))
    for key, oracle in ORACLES.items():
        answer = oracle(torch.tensor((scores >= 0.5).astype(float)), torch.tensor(truth.astype(int)))
        assert found[key] == pytest.approx(float(answer), abs=1e-6), key


def test_figures_per_image_are_the_mean_of_each_images_own():
    whole = metrics_of(range(4), resamples=20)
    alone = [metrics_of(range(seed, seed + 1), resamples=20) for seed in range(4)]
    for key in SEGMENTATION:
        assert whole[f"{key}_per_image"] == pytest.approx(np.mean([one[key] for one in alone])), key


def test_what_lies_out_of_view_changes_nothing():
    scores, truth, view = drawn(0)
    other = segmented(np.where(view, scores, 0.9), truth | ~view, view)
    assert all(
        np.array_equal(a, b)
        for one, two in zip(segmented(scores, truth, view), other, strict=True)
        for a, b in zip(one, two, strict=True)
    )


def test_intervals_hold_the_figure_and_are_those_of_a_loop_over_resamples():
    found = metrics_of(range(8), resamples=100, seed=3)
    images = [segmented(*drawn(seed)) for seed in range(8)]
    draw, values = np.random.default_rng(3), {"roc_auc": [], "sensitivity": []}
    for weights in draw.multinomial(4, np.full(4, 1 / 4), size=100):
        chosen = [image for seed, image in enumerate(images) for _ in range(weights[seed // 2])]
        one = segmentation_metrics(chosen, ["p"] * len(chosen), resamples=1)
        for key, of_key in values.items():
            of_key.append(one[key])
    for key, of_key in values.items():
        assert found[f"{key}_interval"] == pytest.approx(np.percentile(of_key, [2.5, 97.5]), abs=1e-9), key
        assert found[f"{key}_interval"][0] <= found[key] <= found[f"{key}_interval"][1]


def test_an_image_without_vessels_counts_where_it_can():
    scores, truth, view = drawn(0)
    images = [segmented(scores, truth, view), segmented(scores, np.zeros_like(truth), view)]
    found = segmentation_metrics(images, ["a", "b"], resamples=50)
    alone = segmentation_metrics(images[:1], ["a"], resamples=50)
    for key in ("roc_auc", "sensitivity", "dice_at_half"):
        assert found[f"{key}_per_image"] == alone[key]
    assert found["sensitivity"] == alone["sensitivity"]
    assert found["specificity"] != alone["specificity"]


def test_a_perfect_map_has_all_of_it_and_a_constant_one_a_half():
    _, truth, view = drawn(0)
    perfect = segmentation_metrics([segmented(truth, truth, view)], ["a"], resamples=10)
    assert [perfect[key] for key in SEGMENTATION] == [1, 1, 1, 1, 1]
    assert area(segmented(np.full(truth.shape, 0.3), truth, view)) == 0.5


def test_what_does_not_fit_is_one_line():
    scores, truth, view = drawn(0)
    with pytest.raises(ModelError, match="do not match"):
        segmented(scores[1:], truth, view)
    with pytest.raises(ModelError, match="not finite"):
        segmented(np.full_like(scores, np.nan), truth, view)
    with pytest.raises(ModelError, match="name one patient each"):
        segmentation_metrics([segmented(scores, truth, view)], [])
    assert isinstance(segmented(scores, truth, view), Segmented)
