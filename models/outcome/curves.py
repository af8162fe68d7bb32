"""Curves of out-of-fold scores: ROC with a band over patients, calibration by groups of equal size."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from models.metrics.bootstrap import Resamples, patient_resamples
from models.outcome.judging import Judged

Floats = npt.NDArray[np.float64]
_GRID = np.linspace(0, 1, 101)


class RocBand(NamedTuple):
    """Mean sensitivity over repeats at each rate of false positives, and where 95 % of the resamples lie."""

    false_positive_rate: Floats
    sensitivity: Floats
    low: Floats
    high: Floats


class CalibrationGroups(NamedTuple):
    """Groups of patients by predicted probability: mean of it, share of positives with its Wilson interval, size."""

    predicted: Floats
    share: Floats
    low: Floats
    high: Floats
    patients: npt.NDArray[np.intp]


def roc_band(judged: Judged, resamples: int, seed: int) -> RocBand:
    """The ROC of each repeat averaged at equal false-positive rates, for all patients and for resamples of them."""
    resampled = patient_resamples(judged.patients, resamples, seed)
    is_positive = judged.outcome == 1
    curves = np.mean([roc_draws(is_positive, scores, resampled) for scores in judged.scores], axis=0)
    low, high = np.nanpercentile(curves[1:], [2.5, 97.5], axis=0)
    return RocBand(_GRID, curves[0], low, high)


def roc_draws(is_positive: npt.NDArray[np.bool_], scores: Floats, resampled: Resamples) -> Floats:
    """Sensitivity (1 + R, 101) at false-positive rates 0, 0.01 … 1 for each row of weights."""
    order = np.argsort(-scores, kind="stable")
    drawn, positive = resampled.weights[:, resampled.rows[order]], is_positive[order]
    last = np.flatnonzero(np.diff(-scores[order], append=np.inf))  # equal scores are one step
    found, false = ((drawn * flag).cumsum(axis=1)[:, last] for flag in (positive, ~positive))
    with np.errstate(invalid="ignore"):
        found, false = found / found[:, -1:], false / false[:, -1:]
    start = np.zeros((len(drawn), 1))
    pairs = zip(np.hstack([start, false]), np.hstack([start, found]), strict=True)
    return np.array([np.interp(_GRID, rate, sensitivity) for rate, sensitivity in pairs])


def calibration_groups(is_positive: npt.NDArray[np.bool_], probability: Floats, groups: int) -> CalibrationGroups:
    """`groups` groups of nearly equal size, from the lowest probability up."""
    parts = np.array_split(np.argsort(probability, kind="stable"), groups)
    tests = [binomtest(int(is_positive[part].sum()), len(part)) for part in parts]
    bounds = np.array([test.proportion_ci(method="wilson") for test in tests])
    return CalibrationGroups(
        np.array([probability[part].mean() for part in parts]),
        np.array([test.statistic for test in tests]),
        bounds[:, 0],
        bounds[:, 1],
        np.array([len(part) for part in parts]),
    )
