"""How well probabilities segment a structure within the field of view, with 95 % patient-level bootstrap intervals.

    sensitivity = TP / (TP + FN)    specificity = TN / (TN + FP)    accuracy = (TP + TN) / all
    Dice = 2 TP / (2 TP + FP + FN)        found where the probability is at least the threshold           (1)
    AUC = P(score of a structure's pixel > score of another) + ½ P(both the same)                          (2)

| key                 | what                                                                     |
|---------------------|--------------------------------------------------------------------------|
| roc_auc             | (2) over the pixels of all images in one ranking                         |
| sensitivity,        | (1) at a probability of a half, over the pixels of all images            |
| specificity,        |                                                                          |
| accuracy,           |                                                                          |
| dice_at_half        |                                                                          |
| <each>_per_image    | the mean over images of each image's own; one without the structure has  |
|                     | specificity and accuracy alone                                           |
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.errors import ModelError
from models.metrics.bootstrap import (
    Floats,
    Interval,
    Resamples,
    mean_draws,
    patient_resamples,
    sums_by_patient,
    with_intervals,
)
from models.metrics.histogram import Histogram, Keys, count_from, counts_between, histogram_of, order_keys
from models.metrics.localization import pooled_positives, quantile_edges

SEGMENTATION = ("roc_auc", "sensitivity", "specificity", "accuracy", "dice_at_half")
HALF = 0.5
LOWEST = np.zeros(1, np.uint32)  # the key below all scores


class Segmented(NamedTuple):
    """One image's scores within the field of view: those of the structure's pixels, and those of all others."""

    positives: Histogram
    negatives: Histogram


def segmented(scores: npt.ArrayLike, truth: npt.ArrayLike, view: npt.ArrayLike) -> Segmented:
    """Hold a map of probabilities against its truth (bool) within the view (bool), all of one shape.

    Raises:
        ModelError: the shapes differ, or a score within the view is not finite.
    """
    found, true, seen = np.asarray(scores, np.float32), np.asarray(truth, bool), np.asarray(view, bool)
    if not found.shape == true.shape == seen.shape:
        raise ModelError(f"a map of {found.shape}, a mask of {true.shape} and a view of {seen.shape} do not match")
    if not np.isfinite(found[seen]).all():
        raise ModelError("the map has values that are not finite; probabilities are from 0 to 1")
    keys = order_keys(found)
    return Segmented(histogram_of(keys[true & seen]), histogram_of(keys[~true & seen]))


def segmentation_metrics(
    images: Sequence[Segmented], patients: Sequence[str], *, resamples: int = 1000, seed: int = 0
) -> dict[str, float | Interval]:
    """The metrics of the table above as `{key: value, key_interval: [low, high]}`; `patients` names one an image.

    Raises:
        ModelError: there is no image, or not one patient an image.
    """
    if not images or len(images) != len(patients):
        raise ModelError(f"{len(images)} segmented images come with {len(patients)} patients; name one patient each")
    resampled = patient_resamples(patients, resamples, seed)
    counts = np.array([counts_at(image, HALF) for image in images], float)
    pooled = rates(resampled.weights @ sums_by_patient(counts, resampled))
    alone = {"roc_auc": np.array([area(image) for image in images]), **rates(counts)}
    draws = {"roc_auc": pooled_area_draws(images, resampled), **pooled}
    per_image = {f"{key}_per_image": mean_draws(values, resampled) for key, values in alone.items()}
    return with_intervals(draws | per_image)


def counts_at(image: Segmented, threshold: float) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives, true negatives of scores ≥ `threshold`."""
    key = order_keys(threshold)
    hit, wrong = count_from(image.positives, key), count_from(image.negatives, key)
    return hit, wrong, image.positives.total - hit, image.negatives.total - wrong


def rates(counts: Floats) -> dict[str, Floats]:
    """(1) of rows of counts (N, 4) as `counts_at` gives them; NaN where a rate is of nothing."""
    hit, wrong, missed, right = counts.T
    there = hit + missed > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": hit / (hit + missed),
            "specificity": right / (right + wrong),
            "accuracy": (hit + right) / counts.sum(axis=1),
            "dice_at_half": np.where(there, 2 * hit / (2 * hit + wrong + missed), np.nan),
        }


def area(image: Segmented) -> float:
    """(2) of one image; NaN where it lacks either kind of pixel."""
    keys = np.union1d(image.positives.keys, image.negatives.keys)
    return float(areas(*(counts_between(part, keys)[None] for part in image))[0])


def areas(positives: Floats, negatives: Floats) -> Floats:
    """(2) of rows of histograms (N, K), whose bins ascend in score; NaN where a row lacks either kind of pixel."""
    below = negatives.cumsum(axis=1) - negatives
    won = (positives * (below + negatives / 2)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(won / (positives.sum(axis=1) * negatives.sum(axis=1)))


def pooled_area_draws(images: Sequence[Segmented], resampled: Resamples) -> Floats:
    """(2) of the pooled pixels for each row of weights: the first exact, the resamples in bins."""
    chosen = quantile_edges(*pooled_positives(images))
    edges = np.unique(np.concatenate([LOWEST, chosen, chosen + np.uint32(1)]))  # what equals an edge has its own bin
    draws = areas(*(resampled.weights @ by_patient(images, kind, edges, resampled) for kind in (0, 1)))
    draws[0] = pooled_area(images)
    return draws


def pooled_area(images: Sequence[Segmented]) -> float:
    """(2) of all pixels."""
    merged = Segmented(merged_histogram([one[0] for one in images]), merged_histogram([one[1] for one in images]))
    return area(merged)


def merged_histogram(histograms: Sequence[Histogram]) -> Histogram:
    """All pixels of several histograms in one."""
    keys, inverse = np.unique(np.concatenate([one.keys for one in histograms]), return_inverse=True)
    counts = np.concatenate([one.counts for one in histograms])
    return Histogram(keys, np.bincount(inverse, weights=counts, minlength=keys.size).astype(np.int32))


def by_patient(images: Sequence[Segmented], kind: int, edges: Keys, resampled: Resamples) -> Floats:
    """Pixels between `edges` of one kind, 0 positives or 1 negatives, added up for each patient: (P, K)."""
    counted = np.zeros((resampled.weights.shape[1], edges.size))
    for row, image in zip(resampled.rows, images, strict=True):
        counted[row] += counts_between(image[kind], edges)
    return counted
