"""Intraclass correlation: how much of the spread of a measurement is between subjects and not between repetitions.

Shrout and Fleiss, Psychological Bulletin 1979;86:420–428; intervals as McGraw and Wong, Psychological Methods
1996;1:30–46, give them. With the mean squares of an analysis of variance of n subjects (rows) and k repetitions
(columns), BMS between rows, WMS within rows, JMS between columns, EMS the rest:

    ICC(1,1) = (BMS − WMS) / (BMS + (k − 1) WMS)                      repetitions drawn anew for every subject
    ICC(2,1) = (BMS − EMS) / (BMS + (k − 1) EMS + k (JMS − EMS) / n)  the same repetitions, drawn from many
    ICC(3,1) = (BMS − EMS) / (BMS + (k − 1) EMS)                      the same repetitions, and no others
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Kind = Literal["1,1", "2,1", "3,1"]

CONFIDENCE = 0.95


class Correlation(NamedTuple):
    """An intraclass correlation with its 95 % interval, and the number of subjects it rests on; NaN where undefined."""

    icc: float
    low: float
    high: float
    subjects: int


class _Squares(NamedTuple):
    """Mean squares of `subjects` × `repetitions` ratings."""

    subjects: int
    repetitions: int
    between: float
    within: float
    columns: float
    rest: float


def intraclass_correlation(ratings: npt.ArrayLike, kind: Kind = "1,1") -> Correlation:
    """The correlation of `ratings` (subjects, repetitions); a subject with a NaN takes no part.

    Undefined (NaN) for fewer than two subjects or repetitions, and where all ratings are equal.
    """
    table = np.asarray(ratings, dtype=np.float64)
    complete = table[np.isfinite(table).all(axis=1)]
    if min(complete.shape) < 2 or np.ptp(complete) == 0:
        return Correlation(float("nan"), float("nan"), float("nan"), len(complete))
    # neither changes under a common factor or offset, and squares of huge values would lose what differs
    squares = _mean_squares((complete - complete.mean()) / np.ptp(complete))
    icc, low, high = _KINDS[kind](squares)
    return Correlation(float(icc), float(low), float(high), len(complete))


def _mean_squares(table: Floats) -> _Squares:
    n, k = table.shape
    grand, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    within = ((table - rows[:, None]) ** 2).sum()
    between_columns = n * ((columns - grand) ** 2).sum()
    rest = ((table - rows[:, None] - columns + grand) ** 2).sum()
    return _Squares(
        n,
        k,
        between=k * ((rows - grand) ** 2).sum() / (n - 1),
        within=within / (n * (k - 1)),
        columns=between_columns / (k - 1),
        rest=rest / ((n - 1) * (k - 1)),
    )


def _quantile(numerator: float, denominator: float) -> float:
    return float(stats.f.ppf((1 + CONFIDENCE) / 2, numerator, denominator))


def _of_ratio(between: float, noise: float, k: int, degrees: tuple[int, int]) -> tuple[float, float, float]:
    """ICC and interval where it is a function of one F ratio, `between` ÷ `noise`, with these degrees of freedom."""
    if noise == 0:
        return 1.0, 1.0, 1.0
    ratio = between / noise
    low, high = ratio / _quantile(*degrees), ratio * _quantile(*degrees[::-1])
    return (ratio - 1) / (ratio + k - 1), (low - 1) / (low + k - 1), (high - 1) / (high + k - 1)


def _one_way(s: _Squares) -> tuple[float, float, float]:
    return _of_ratio(s.between, s.within, s.repetitions, (s.subjects - 1, s.subjects * (s.repetitions - 1)))


def _consistency(s: _Squares) -> tuple[float, float, float]:
    return _of_ratio(s.between, s.rest, s.repetitions, (s.subjects - 1, (s.subjects - 1) * (s.repetitions - 1)))


def _agreement(s: _Squares) -> tuple[float, float, float]:
    n, k = s.subjects, s.repetitions
    icc = (s.between - s.rest) / (s.between + (k - 1) * s.rest + k * (s.columns - s.rest) / n)
    if s.rest == 0:
        return icc, float("nan"), float("nan")
    ratio, spread = s.columns / s.rest, n * (1 + (k - 1) * icc) - k * icc
    degrees = (k - 1) * (n - 1) * (k * icc * ratio + spread) ** 2
    degrees /= (n - 1) * (k * icc * ratio) ** 2 + spread**2
    above, below = _quantile(n - 1, degrees), _quantile(degrees, n - 1)
    noise = k * s.columns + (k * n - k - n) * s.rest
    low = n * (s.between - above * s.rest) / (above * noise + n * s.between)
    return icc, low, n * (below * s.between - s.rest) / (noise + n * below * s.between)


_KINDS: dict[Kind, Callable[[_Squares], tuple[float, float, float]]] = {
    "1,1": _one_way,
    "2,1": _agreement,
    "3,1": _consistency,
}
