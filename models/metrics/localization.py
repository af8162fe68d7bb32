"""Metrics of a cohort of maps from the evidence of its cases, each with a 95 % patient-level bootstrap interval.

| key                 | what                                                               | over               |
|---------------------|--------------------------------------------------------------------|--------------------|
| ap_pooled           | average precision of all pixels of all maps in one ranking         | all cases          |
| ap_per_image        | mean of the average precision within each map                      | cases with lesions |
| ap_minmax           | as ap_pooled after each map was scaled to 0–1 by itself            | all cases          |
| froc_mean           | mean lesion sensitivity at 1/8 … 8 false positives an image        | all cases          |
| sensitivity_at_10fp | lesion sensitivity at 10 false positives an image                  | all cases          |
| energy, pointing    | energy-based and plain pointing game                               | cases with lesions |
| empty_share         | share of maps that are nowhere positive, whose energy is 0         | cases with lesions |
| dice                | mean Dice of the maps cut at one common threshold                  | cases with lesions |

`ap_pooled` is the headline. Per-image scaling makes healthy images glow, which `ap_minmax` shows and `ap_per_image`
hides.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.errors import ModelError
from models.metrics import froc
from models.metrics.bootstrap import Interval, Resamples, mean_draws, patient_resamples, with_intervals
from models.metrics.evidence import CaseEvidence
from models.metrics.histogram import (
    Histogram,
    Keys,
    average_precision,
    count_from,
    counts_between,
    key_values,
    minmax_scaled,
    order_keys,
)

Floats = npt.NDArray[np.float64]
Pair = tuple[Histogram, Histogram]

BOOTSTRAP_BINS = 4096
"""Bins of equally many lesion pixels in which resamples are ranked (moves an interval by < 3e-4); values are exact."""

_CHUNK = 1024


class PrecisionRecallCurve(NamedTuple):
    """Points in descending threshold: a pixel is flagged when its raw score is at least the threshold."""

    precision: Floats
    recall: Floats
    threshold: Floats


def localization_metrics(
    evidence: Sequence[CaseEvidence],
    patients: Sequence[str],
    *,
    threshold: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float | Interval]:
    """The metrics of the table above as `{key: value, key_interval: [low, high]}`; `dice` only with a `threshold`.

    `patients` (N,) names the patient of each case; `threshold` is a raw score, best chosen by `best_dice_threshold` on
    other cases.

    Raises:
        ModelError: no cases, not one patient a case, or evidence taken with different key bits.
    """
    _check(evidence, patients)
    return with_intervals(metric_draws(evidence, patient_resamples(patients, resamples, seed), threshold))


def paired_difference(
    evidence_a: Sequence[CaseEvidence],
    evidence_b: Sequence[CaseEvidence],
    patients: Sequence[str],
    *,
    thresholds: tuple[float, float] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float | Interval]:
    """Metrics of `a` minus those of `b` on the same cases in the same order, resampled together.

    Raises:
        ModelError: as `localization_metrics`, or where the two disagree about a case's truth.
    """
    _check(evidence_a, patients)
    _check(evidence_b, patients)
    for position, (a, b) in enumerate(zip(evidence_a, evidence_b, strict=True)):
        if a.positives.total != b.positives.total or a.detections.lesions.size != b.detections.lesions.size:
            raise ModelError(
                f"case {position} has different lesions in the two methods; compare the same cases in the same order"
            )
    resampled = patient_resamples(patients, resamples, seed)
    threshold_a, threshold_b = thresholds or (None, None)
    draws_a = metric_draws(evidence_a, resampled, threshold_a)
    draws_b = metric_draws(evidence_b, resampled, threshold_b)
    return with_intervals({key: draws_a[key] - draws_b[key] for key in draws_a})


def metric_draws(evidence: Sequence[CaseEvidence], resampled: Resamples, threshold: float | None) -> dict[str, Floats]:
    """Each metric for each row of weights (1 + R,), the first being the cohort itself."""
    raw: list[Pair] = [(case.positives, case.negatives) for case in evidence]
    minmax: list[Pair] = [minmax_scaled(*pair) for pair in raw]
    pool = froc.pooled([case.detections for case in evidence], resampled.rows, resampled.weights.shape[1])
    sensitivity = froc.sensitivity_at(pool, resampled.weights, (*froc.MEAN_RATES, 10.0))
    draws = {
        "ap_pooled": pooled_ap_draws(raw, resampled),
        "ap_per_image": mean_draws([case.average_precision for case in evidence], resampled),
        "ap_minmax": pooled_ap_draws(minmax, resampled),
        "froc_mean": sensitivity[:, :-1].mean(axis=1),
        "sensitivity_at_10fp": sensitivity[:, -1],
        "energy": mean_draws([case.energy for case in evidence], resampled),
        "pointing": mean_draws([case.pointing for case in evidence], resampled),
        "empty_share": mean_draws([case.empty for case in evidence], resampled),
    }
    if threshold is not None:
        draws["dice"] = mean_draws([case_dice(case, threshold) for case in evidence], resampled)
    return draws


def pooled_ap_draws(pairs: Sequence[Pair], resampled: Resamples) -> Floats:
    """Average precision of the pooled pixels for each row of weights: the first exact, the resamples in bins."""
    keys, counts = pooled_positives(pairs)
    edges = quantile_edges(keys, counts)
    patients = resampled.weights.shape[1]
    positives, negatives = np.zeros((patients, edges.size)), np.zeros((patients, edges.size))
    exact = np.zeros(keys.size)
    for row, (positive, negative) in zip(resampled.rows, pairs, strict=True):
        flagged = counts_between(negative, keys)
        exact += flagged
        positives[row] += counts_between(positive, edges)
        negatives[row] += np.add.reduceat(flagged, np.searchsorted(keys, edges)) if edges.size else 0.0
    draws = _weighted_average_precision(resampled.weights, positives, negatives)
    draws[0] = average_precision(counts, exact)
    return draws


def _weighted_average_precision(weights: Floats, positives: Floats, negatives: Floats) -> Floats:
    """Equation (1) of `histogram` for rows of `weights` (R, P) over histograms (P, K), from the highest bin down."""
    rows, bins = len(weights), positives.shape[1]
    found, flagged, gained = np.zeros((rows, 1)), np.zeros((rows, 1)), np.zeros(rows)
    for stop in range(bins, 0, -_CHUNK):
        chunk = slice(max(stop - _CHUNK, 0), stop)
        new = weights @ positives[:, chunk][:, ::-1]
        true_positives = new.cumsum(axis=1) + found
        pixels = (weights @ negatives[:, chunk][:, ::-1]).cumsum(axis=1) + flagged + true_positives
        # where nothing is flagged yet nothing was found either: 0 / 1
        gained += np.einsum("rk,rk->r", new, true_positives / np.maximum(pixels, 1.0))
        found, flagged = true_positives[:, -1:], pixels[:, -1:] - true_positives[:, -1:]
    with np.errstate(invalid="ignore"):
        return np.asarray(gained / np.where(found[:, 0] > 0, found[:, 0], np.nan))


def pooled_positives(pairs: Sequence[Pair]) -> tuple[Keys, Floats]:
    """Distinct keys of all lesion pixels, ascending, and the pixels with each: the only thresholds that move (1)."""
    keys: Keys = np.concatenate([np.empty(0, np.uint32), *(positive.keys for positive, _ in pairs)])
    counts = np.concatenate([np.empty(0, np.int32), *(positive.counts for positive, _ in pairs)])
    distinct, inverse = np.unique(keys, return_inverse=True)
    return distinct, np.bincount(inverse, weights=counts, minlength=distinct.size).astype(np.float64)


def quantile_edges(keys: Keys, counts: Floats, bins: int = BOOTSTRAP_BINS) -> Keys:
    """At most `bins` of `keys` with about equally many pixels between neighbours; all of them where they are few."""
    if keys.size <= bins:
        return keys
    share = counts.cumsum() / counts.sum()
    chosen = np.searchsorted(share, np.arange(bins) / bins, side="right")
    return np.asarray(keys[np.unique(np.append(0, chosen[chosen < keys.size]))])


def case_dice(case: CaseEvidence, threshold: float) -> float:
    """Dice of the map cut at raw score ≥ `threshold` with the truth; NaN without a lesion."""
    if not case.has_lesions:
        return float("nan")
    key = order_keys(threshold, case.key_bits)
    found, flagged = count_from(case.positives, key), count_from(case.negatives, key)
    return 2 * found / (case.positives.total + found + flagged)


def best_dice_threshold(evidence: Sequence[CaseEvidence]) -> float:
    """The raw score that gives the largest mean Dice of the cases with lesions.

    Candidates are up to 4,096 quantiles of the lesion pixels' scores.

    Raises:
        ModelError: no case has a lesion.
    """
    cases = [case for case in evidence if case.has_lesions]
    if not cases:
        raise ModelError("no case has a lesion; a threshold needs annotated lesions")
    edges = quantile_edges(*pooled_positives([(case.positives, case.negatives) for case in cases]))
    total = np.zeros(edges.size)
    for case in cases:
        found, flagged = (
            counts_between(histogram, edges)[::-1].cumsum()[::-1] for histogram in (case.positives, case.negatives)
        )
        total += 2 * found / (case.positives.total + found + flagged)
    return float(key_values(edges)[np.argmax(total)])


def pr_curve(evidence: Sequence[CaseEvidence]) -> PrecisionRecallCurve:
    """Precision and recall of the pooled raw pixels at up to 4,096 thresholds, for plotting."""
    edges = quantile_edges(*pooled_positives([(case.positives, case.negatives) for case in evidence]))
    found, flagged = (
        np.sum([counts_between(histogram, edges) for histogram in histograms], axis=0)[::-1].cumsum()
        for histograms in ([case.positives for case in evidence], [case.negatives for case in evidence])
    )
    total = sum(case.positives.total for case in evidence)
    with np.errstate(invalid="ignore"):
        return PrecisionRecallCurve(
            found / (found + flagged), found / max(total, 1), key_values(edges)[::-1].astype(np.float64)
        )


def froc_curve(evidence: Sequence[CaseEvidence]) -> froc.FrocCurve:
    """Lesion sensitivity against false positives an image, one point a distinct candidate score."""
    return froc.curve([case.detections for case in evidence])


def _check(evidence: Sequence[CaseEvidence], patients: Sequence[str]) -> None:
    if len(evidence) == 0:
        raise ModelError("there is no case to evaluate; annotate at least one case with lesions")
    if len(evidence) != len(patients):
        raise ModelError(f"{len(evidence)} cases come with {len(patients)} patients; name one patient a case")
    if len({case.key_bits for case in evidence}) > 1:
        raise ModelError("the evidence was taken with different key_bits; take it anew with one configuration")
