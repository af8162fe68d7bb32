"""How well a score tells a label, whatever the label is: a grade, one of two classes, or any number.

    mse = mean (label − score)²      mae = mean |label − score|

kappa and the areas under the ROC are those of `models.metrics.grading`.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from models.errors import ModelError
from models.metrics.bootstrap import Interval, Resamples, mean_draws, patient_resamples, with_intervals
from models.metrics.grading import GRADES, auc_draws, kappa_draws, rounded_grade

Floats = npt.NDArray[np.float64]
Kind = Literal["grade", "classes", "number"]

_REFERABLE_ABOVE = 1


def label_kind(label: npt.ArrayLike) -> Kind:
    """What the known values of a label are: two `classes`, whole `grade`s 0–4, or a `number`."""
    values = np.unique(np.asarray(label, np.float64))
    values = values[~np.isnan(values)]
    if len(values) == 2:
        return "classes"
    return "grade" if len(values) > 2 and np.isin(values, np.arange(GRADES)).all() else "number"


def score_metrics(
    label: npt.ArrayLike,
    scores: npt.ArrayLike,
    patients: Sequence[str],
    kind: Kind,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float | Interval]:
    """Metrics with their `<key>_interval`, the mean over R predictions of every case.

    `label` (N,) without NaN, `scores` (R, N). A grade has `mse`, `kappa` and `auc_referable` (grade > 1), two classes
    have `auc` (of the greater), a number has `mse` and `mae`. A metric that these cases do not define is NaN, and so
    are the intervals of a single patient.

    Raises:
        ModelError: a score is not finite.
    """
    labels, predictions = np.asarray(label, np.float64), np.atleast_2d(np.asarray(scores, np.float64))
    if not np.isfinite(predictions).all():
        raise ModelError("a score is not finite; every case needs a finite prediction")
    resampled = patient_resamples(patients, resamples if len(set(patients)) > 1 else 0, seed)
    drawn = [score_draws(labels, prediction, resampled, kind) for prediction in predictions]
    return with_intervals({key: np.mean([draws[key] for draws in drawn], axis=0) for key in drawn[0]})


def paired_score_difference(
    label: npt.ArrayLike,
    scores_a: npt.ArrayLike,
    scores_b: npt.ArrayLike,
    patients: Sequence[str],
    kind: Kind,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float | Interval]:
    """Metrics of `scores_a` (N,) minus those of `scores_b` (N,) on the same cases in one order, resampled together.

    A difference of errors (`mse`, `mae`) is negative where `a` is better. What these cases do not define is NaN, as in
    `score_metrics`, which has the metrics of each kind.

    Raises:
        ModelError: lengths differ, or a score is not finite.
    """
    labels, a, b = (np.asarray(values, np.float64) for values in (label, scores_a, scores_b))
    if not labels.shape == a.shape == b.shape == (len(patients),):
        raise ModelError(
            f"{labels.size} labels, {a.size} and {b.size} scores and {len(patients)} patients; give one of each a case"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ModelError("a score is not finite; every case needs a finite prediction")
    resampled = patient_resamples(patients, resamples if len(set(patients)) > 1 else 0, seed)
    draws_a, draws_b = (score_draws(labels, scores, resampled, kind) for scores in (a, b))
    return with_intervals({key: draws_a[key] - draws_b[key] for key in draws_a})


def score_draws(label: Floats, score: Floats, resampled: Resamples, kind: Kind) -> dict[str, Floats]:
    """Each metric of `kind` for each row of weights, (1 + resamples,)."""
    if kind == "classes":
        return {"auc": auc_draws(label == label.max(), score, resampled)}
    mse = mean_draws((label - score) ** 2, resampled)
    if kind == "number":
        return {"mse": mse, "mae": mean_draws(np.abs(label - score), resampled)}
    return {
        "mse": mse,
        "kappa": kappa_draws(label.astype(np.intp), rounded_grade(score), resampled),
        "auc_referable": auc_draws(label > _REFERABLE_ABOVE, score, resampled),
    }
