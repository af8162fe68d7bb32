"""Agreement of a score with the grade 0–4 or the class of an image, with 95 % patient-level bootstrap intervals.

κ = 1 − Σ_ij (i − j)² O_ij / Σ_ij (i − j)² E_ij        E_ij = row_i · column_j / n                 (1)

AUC = P(score of a positive case > score of another) + ½ P(equal)                                  (2)

sensitivity = P(score > threshold | positive)          specificity = P(score ≤ threshold | negative)

Positive is a referable grade (> 1), or the greater of two classes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.errors import ModelError
from models.metrics.bootstrap import (
    Interval,
    Resamples,
    mean_draws,
    patient_resamples,
    sums_by_patient,
    with_intervals,
)

Floats = npt.NDArray[np.float64]

GRADES = 5
"""Grades are 0 … 4, a fixed label set: a grade that nobody has still counts in the weights of kappa."""

_REFERABLE_ABOVE = 1
_DRAWS_AT_ONCE = 2_000_000


def grading_metrics(
    label: npt.ArrayLike,
    score: npt.ArrayLike,
    patients: Sequence[str],
    *,
    abnormal_from: float | None = None,
    threshold: float = 0.0,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float | Interval]:
    """The metrics that fit the labels and the score, each with its `<key>_interval`.

    `label` (N,), NaN where missing (such cases take no part), and `score` (N,). With `abnormal_from` the score is a
    classifier's: positive is a label of at least that, told by a score above `threshold`; `auc`, `accuracy`,
    `sensitivity` and `specificity`. Without it the score is a regression's: of labels 0 and 1, both there, `auc`; of
    whole grades `mse`, `kappa` (quadratic, of the rounded score) and `auc_referable` (label > 1).

    Raises:
        ModelError: lengths differ, no label is known, a regressed label is no grade 0–4, or a score is not finite.
    """
    labels, scores, names = _checked(label, score, patients)
    resampled = patient_resamples(names, resamples, seed)
    if abnormal_from is not None:
        return with_intervals(class_draws(labels >= abnormal_from, scores, resampled, threshold))
    _refuse_other_labels(labels)
    if np.array_equal(np.unique(labels), (0, 1)):
        return with_intervals({"auc": auc_draws(labels == 1, scores, resampled)})
    return with_intervals(
        {
            "mse": mean_draws((labels - scores) ** 2, resampled),
            "kappa": kappa_draws(labels.astype(np.intp), rounded_grade(scores), resampled),
            "auc_referable": auc_draws(labels > _REFERABLE_ABOVE, scores, resampled),
        }
    )


def class_draws(
    is_positive: npt.NDArray[np.bool_], score: Floats, resampled: Resamples, threshold: float
) -> dict[str, Floats]:
    """Metrics of a classifier for each row of weights; NaN where the class that they are about is missing."""
    is_right = (score > threshold) == is_positive
    return {
        "auc": auc_draws(is_positive, score, resampled),
        "accuracy": mean_draws(is_right, resampled),
        "sensitivity": mean_draws(np.where(is_positive, is_right, np.nan), resampled),
        "specificity": mean_draws(np.where(is_positive, np.nan, is_right), resampled),
    }


def rounded_grade(score: Floats) -> npt.NDArray[np.intp]:
    """The grade a regression output stands for: clipped to 0–4, then rounded (half to even)."""
    return np.rint(np.clip(score, 0, GRADES - 1)).astype(np.intp)


def kappa_draws(label: npt.NDArray[np.intp], predicted: npt.NDArray[np.intp], resampled: Resamples) -> Floats:
    """Equation (1) for each row of weights; NaN where both sides know one grade only."""
    cells = np.eye(GRADES * GRADES)[label * GRADES + predicted]
    observed = (resampled.weights @ sums_by_patient(cells, resampled)).reshape(-1, GRADES, GRADES)
    expected = (
        observed.sum(axis=2)[:, :, None] * observed.sum(axis=1)[:, None, :] / observed.sum(axis=(1, 2))[:, None, None]
    )
    penalty = np.subtract.outer(np.arange(GRADES), np.arange(GRADES)) ** 2
    disagreement, by_chance = (observed * penalty).sum(axis=(1, 2)), (expected * penalty).sum(axis=(1, 2))
    return np.asarray(1 - disagreement / np.where(by_chance > 0, by_chance, np.nan))


def auc_draws(is_positive: npt.NDArray[np.bool_], score: Floats, resampled: Resamples) -> Floats:
    """Equation (2) for each row of weights; NaN where one class is missing."""
    order = np.argsort(score, kind="stable")
    rows, positive = resampled.rows[order], is_positive[order].astype(np.float64)
    starts = np.flatnonzero(np.diff(score[order], prepend=np.nan))
    step = max(1, _DRAWS_AT_ONCE // score.size)
    return np.concatenate(
        [
            _auc(resampled.weights[at : at + step, rows], positive, starts)
            for at in range(0, len(resampled.weights), step)
        ]
    )


def _auc(weights: Floats, positive: Floats, starts: npt.NDArray[np.intp]) -> Floats:
    """Weighted AUC of cases in ascending score; `starts` are the first positions of equal scores."""
    positives = np.add.reduceat(weights * positive, starts, axis=1)
    negatives = np.add.reduceat(weights * (1 - positive), starts, axis=1)
    below = negatives.cumsum(axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.asarray((positives * below).sum(axis=1) / np.where(pairs > 0, pairs, np.nan))


def _checked(label: npt.ArrayLike, score: npt.ArrayLike, patients: Sequence[str]) -> tuple[Floats, Floats, list[str]]:
    labels, scores = np.asarray(label, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if not labels.shape == scores.shape == (len(patients),):
        raise ModelError(
            f"{labels.size} labels, {scores.size} scores and {len(patients)} patients; give one of each a case"
        )
    known = ~np.isnan(labels)
    if not known.any():
        raise ModelError("no case has a label; grading needs labelled cases")
    labels, scores = labels[known], scores[known]
    names = [str(name) for name, keep in zip(patients, known, strict=True) if keep]
    if not np.isfinite(scores).all():
        raise ModelError("a score is not finite; every case needs a finite prediction")
    return labels, scores, names


def _refuse_other_labels(labels: Floats) -> None:
    is_grade = np.isin(labels, np.arange(GRADES))
    if not is_grade.all():
        raise ModelError(f"label {labels[~is_grade][0]:g} is no grade; grades are 0, 1, 2, 3, 4")
