"""Seeds are the sample: the mean over them with Student's 95 % interval, paired by seed where arms are compared."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t

Interval = tuple[float, float]
BySeed = Mapping[int, float]
BySeedValues = dict[str, dict[str, dict[int, float]]]  # by arm and metric


class Estimate(NamedTuple):
    """The mean of `seeds` values; no interval where there is but one of them."""

    mean: float
    interval: Interval | None
    seeds: int


def estimate(values: Sequence[float]) -> Estimate:
    """x̄ ± t₀.₉₇₅,ₙ₋₁ s / √n, with s the standard deviation of the sample; n ≥ 1."""
    sample = np.asarray(values, float)
    mean, count = float(sample.mean()), len(sample)
    if count == 1:
        return Estimate(mean, None, 1)
    half = float(t.ppf(0.975, count - 1) * sample.std(ddof=1) / np.sqrt(count))
    return Estimate(mean, (mean - half, mean + half), count)


def common_seeds(*values: BySeed) -> list[int]:
    """The seeds that all have, ascending."""
    return sorted(set.intersection(*(set(by_seed) for by_seed in values))) if values else []


def relative_gains(arm: BySeed, over: BySeed) -> dict[int, float]:
    """(a − b) / b for each seed that both have; none where b is 0."""
    return {seed: arm[seed] / over[seed] - 1 for seed in common_seeds(arm, over) if over[seed]}
