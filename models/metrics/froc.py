"""FROC: how many lesions are found at how many false positives an image.

A candidate is a connected component of the map above the map's own quantile, so that every method proposes the same
area in every image; it is scored by its largest raw value and ranked across images by that. A candidate that touches no
lesion is a false positive. A lesion is found by the best-scoring candidate that touches it; further candidates on a
lesion count neither way, and a candidate that touches two lesions finds both. Images without lesions count in the
denominator, and every threshold is kept. Pixels that touch at a corner are connected (8 neighbours in 2-D, 26 in 3-D).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Scores = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]

MEAN_RATES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""False positives an image over which `froc_mean` averages the sensitivity."""


class Detections(NamedTuple):
    """One case: the score that found each lesion (L,), −inf where none did; scores of the false positives (M,)."""

    lesions: Scores
    false_positives: Scores


class PooledDetections(NamedTuple):
    """Detections of many cases in descending score, each with the row (patient) it belongs to.

    `boundaries` (G,) are the last positions of equal false-positive scores; `found_before` (G + 1,) is the number of
    lesions that score above the g-th such group, and above all of them at the end. `images` and `lesions` (P,) count
    per row.
    """

    lesion_rows: Rows
    false_positive_rows: Rows
    boundaries: Rows
    found_before: Rows
    images: Floats
    lesions: Floats


class FrocCurve(NamedTuple):
    """Points in descending threshold, from (0, 0) at +inf to the lowest candidate."""

    false_positives_per_image: Floats
    sensitivity: Floats
    threshold: Floats


def components(mask: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int32], int]:
    """Connected components (full connectivity), numbered from 1, and their number."""
    labels, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    return labels, int(count)


def smoothed(saliency: Scores, sigma: float) -> Scores:
    """`saliency` after a Gaussian of `sigma` pixels; itself at 0."""
    return ndimage.gaussian_filter(saliency, sigma, mode="nearest") if sigma > 0 else saliency


def candidate_mask(saliency: Scores, quantile: float) -> npt.NDArray[np.bool_]:
    """Pixels strictly above the map's own `quantile`: at most its upper share, and nothing of a constant map."""
    return saliency > np.quantile(saliency, quantile, method="lower")


def detections(saliency: Scores, mask: npt.NDArray[np.bool_], quantile: float, sigma: float) -> Detections:
    """Candidates of one map held against the lesions of `mask` (same shape)."""
    scores = smoothed(saliency, sigma)
    candidates, candidate_count = components(candidate_mask(scores, quantile))
    lesions, lesion_count = components(mask)
    if candidate_count == 0:
        return Detections(np.full(lesion_count, -np.inf, np.float32), np.empty(0, np.float32))
    proposed = candidates > 0
    best = np.full(candidate_count + 1, -np.inf, np.float32)
    np.maximum.at(best, candidates[proposed], scores[proposed])
    hit = proposed & mask
    found = np.full(lesion_count + 1, -np.inf, np.float32)
    np.maximum.at(found, lesions[hit], best[candidates[hit]])
    is_false = np.ones(candidate_count + 1, dtype=bool)
    is_false[0] = False
    is_false[candidates[hit]] = False
    return Detections(found[1:], best[is_false])


def pooled(cases: list[Detections], rows: Rows, row_count: int) -> PooledDetections:
    """Join cases; `rows` (N,) is the patient of each, in 0 … `row_count` − 1."""
    lesion_scores, lesion_rows = _joined([case.lesions for case in cases], rows)
    false_scores, false_rows = _joined([case.false_positives for case in cases], rows)
    boundaries = np.flatnonzero(np.diff(false_scores, append=np.nan))
    found = int(np.isfinite(lesion_scores).sum())
    found_before = np.append(np.searchsorted(-lesion_scores, -false_scores[boundaries]), found)
    return PooledDetections(
        lesion_rows=lesion_rows,
        false_positive_rows=false_rows,
        boundaries=boundaries,
        found_before=found_before,
        images=np.bincount(rows, minlength=row_count).astype(np.float64),
        lesions=np.bincount(lesion_rows, minlength=row_count).astype(np.float64),
    )


def _joined(scores: list[Scores], rows: Rows) -> tuple[Scores, Rows]:
    """All scores in descending order and the row of each."""
    joined = np.concatenate([np.empty(0, np.float32), *scores])
    owner = np.repeat(rows, [score.size for score in scores])
    order = np.argsort(-joined, kind="stable")
    return joined[order], owner[order]


def sensitivity_at(pool: PooledDetections, weights: Floats, rates: tuple[float, ...]) -> Floats:
    """Sensitivity (R, rates) at `rates` false positives an image for rows of `weights` (R, P); NaN without lesions.

    The step convention of picai_eval: the highest sensitivity whose false positives do not exceed the rate, 0 where the
    first candidate already exceeds it; beyond the last candidate the curve stays where it ends.
    """
    images, lesions = weights @ pool.images, weights @ pool.lesions
    sensitivity = np.empty((len(weights), len(rates)))
    for row, weight in enumerate(weights):
        false_positives = weight[pool.false_positive_rows].cumsum()[pool.boundaries]
        allowed = np.searchsorted(false_positives, np.asarray(rates) * images[row], side="right")
        found = np.append(0.0, weight[pool.lesion_rows].cumsum())
        sensitivity[row] = found[pool.found_before[allowed]]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sensitivity / np.where(lesions > 0, lesions, np.nan)[:, None])


def curve(cases: list[Detections]) -> FrocCurve:
    """The whole FROC, one point a distinct score."""
    lesions, _ = _joined([case.lesions for case in cases], np.zeros(len(cases), dtype=np.intp))
    false_positives, _ = _joined([case.false_positives for case in cases], np.zeros(len(cases), dtype=np.intp))
    found = lesions[np.isfinite(lesions)]
    thresholds = np.unique(np.concatenate([found, false_positives]))[::-1]
    count_false = np.searchsorted(-false_positives, -thresholds, side="right")
    count_found = np.searchsorted(-found, -thresholds, side="right")
    return FrocCurve(
        np.append(0.0, count_false) / max(len(cases), 1),
        np.append(0.0, count_found) / lesions.size if lesions.size else np.full(thresholds.size + 1, np.nan),
        np.append(np.inf, thresholds.astype(np.float64)),
    )
