"""Patient-level bootstrap: patients are drawn with replacement, and a case counts as often as its patient was drawn.

A resample is a row of weights, one a patient; a metric that is a function of weighted sums is then computed for all
resamples by matrix products. The first row is all ones, so that the value itself and its resamples come from one
computation.

A resample in which the metric is undefined (no lesion drawn, one class only) is left out; if fewer than half of the
resamples remain, there is no interval (NaN, NaN).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]
Interval = list[float]


class Resamples(NamedTuple):
    """`rows` (N,): the patient of each case; `weights` (1 + R, P): ones, then how often each patient was drawn."""

    rows: Rows
    weights: Floats


def patient_resamples(patients: Sequence[str], resamples: int, seed: int) -> Resamples:
    """Draw `resamples` times as many patients as there are; equal arguments give equal draws."""
    names, rows = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(names.size, np.full(names.size, 1 / names.size), size=resamples)
    return Resamples(rows, np.vstack([np.ones(names.size), drawn]))


def sums_by_patient(values: npt.ArrayLike, resampled: Resamples) -> Floats:
    """Add `values` (N,) or (N, K) of the cases of each patient: (P,) or (P, K)."""
    values = np.asarray(values, dtype=np.float64)
    sums = np.zeros((resampled.weights.shape[1], *values.shape[1:]))
    np.add.at(sums, resampled.rows, values)
    return sums


def mean_draws(values: npt.ArrayLike, resampled: Resamples) -> Floats:
    """Mean of `values` (N,) over cases, for each row of weights (1 + R,); NaN values mark cases that take no part."""
    values = np.asarray(values, dtype=np.float64)
    takes_part = ~np.isnan(values)
    sums = resampled.weights @ sums_by_patient(np.where(takes_part, values, 0.0), resampled)
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / (resampled.weights @ sums_by_patient(takes_part, resampled)))


def percentile_interval(draws: Floats) -> Interval:
    """The central 95 % of `draws` (R,) by percentiles; undefined resamples as the module says."""
    defined = draws[np.isfinite(draws)]
    if defined.size == 0 or 2 * defined.size < draws.size:
        return [float("nan"), float("nan")]
    low, high = np.percentile(defined, [2.5, 97.5])
    return [float(low), float(high)]


def with_intervals(draws: dict[str, Floats]) -> dict[str, float | Interval]:
    """`{key: value, key_interval: [low, high]}` from draws (1 + R,) whose first is the value."""
    report: dict[str, float | Interval] = {}
    for key, drawn in draws.items():
        report[key] = float(drawn[0])
        report[f"{key}_interval"] = percentile_interval(drawn[1:])
    return report
