"""Has the data changed? A few numbers an image, and whether their distribution moved from a reference to new cases.

PSI = Σ_b (q_b − p_b) ln(q_b / p_b)        over bins b of the reference's quantiles                 (1)

p and q are the shares of reference and new cases in a bin, smoothed by half a case a bin: (count + ½) / (n + B / 2).
The customary reading is < 0.1 no change, 0.1–0.25 some, > 0.25 a shift. With few cases (1) is too high: where nothing
changed, its mean is about

bias = (B − 1) (1 / n + 1 / m)                                                                     (2)

0.36 for ten bins and 50 cases on either side. `drift` therefore takes a bin for every five cases, ten at most, and
subtracts (2). A statistic drifts where that PSI is large and the two-sided Kolmogorov–Smirnov test, after Holm's
correction over all statistics, rejects: the test bounds false alarms, the PSI keeps small shifts of many cases quiet.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage, stats

from models.config import Config
from models.errors import ModelError

Floats = npt.NDArray[np.float64]

PERCENTILES = (1, 50, 99)
CASES_A_BIN = 5
MOST_BINS = 10


class DriftConfig(Config):
    """`psi` and `p_value`, the family's, have both to be crossed; fewer than `min_cases` on a side give no verdict."""

    psi: float = Field(default=0.25, ge=0)
    p_value: float = Field(default=0.01, gt=0, lt=1)
    min_cases: int = Field(default=20, ge=2)


@dataclass(frozen=True)
class DriftRow:
    """One statistic: PSI less its bias, at least 0; the KS distance; its p-value after Holm's correction."""

    name: str
    psi: float
    ks: float
    p_value: float
    drifted: bool


@dataclass(frozen=True)
class DriftReport:
    """`rows` by name; `drifted` where any statistic has; `reason`, in a sentence."""

    rows: dict[str, DriftRow]
    drifted: bool
    reason: str


def image_statistics(image: npt.NDArray[np.generic]) -> dict[str, float]:
    """What tells one way of acquisition from another, of an image (C, y, x) or (C, z, y, x) of any dtype.

    Of each channel i, over its finite pixels, `mean_<i>`, `std_<i>`, `p01_<i>`, `p50_<i>`, `p99_<i>` in stored
    intensities; `sharpness`, the mean absolute Laplacian over the standard deviation, averaged over channels. Always
    finite: 0 where a channel has no finite pixel or is constant.
    """
    statistics: dict[str, float] = {}
    sharpness = []
    for number, channel in enumerate(image):
        pixels = _finite(np.asarray(channel, np.float64))
        p01, p50, p99 = np.percentile(pixels, PERCENTILES)
        of_channel = {"mean": pixels.mean(), "std": pixels.std(), "p01": p01, "p50": p50, "p99": p99}
        statistics |= {f"{name}_{number}": float(value) for name, value in of_channel.items()}
        sharpness.append(_sharpness(np.asarray(channel, np.float64), float(p50), float(pixels.std())))
    return {**statistics, "sharpness": float(np.mean(sharpness))}


def psi(reference: npt.ArrayLike, new: npt.ArrayLike, bins: int = MOST_BINS) -> float:
    """Equation (1), as it is, over `bins` quantile bins of `reference` (n,); a value that fills a bin is a bin.

    Raises:
        ModelError: either side has no number.
    """
    before, after = _numbers(reference), _numbers(new)
    edges = _bin_edges(before, bins)
    p, q = (_shares(values, edges) for values in (before, after))
    return float(((q - p) * np.log(q / p)).sum())


def psi_bias(bins: int, reference: int, new: int) -> float:
    """Equation (2): about what PSI is on average where nothing has changed."""
    return (bins - 1) * (1 / reference + 1 / new)


def ks(reference: npt.ArrayLike, new: npt.ArrayLike) -> tuple[float, float]:
    """The two-sided Kolmogorov–Smirnov distance and its p-value, exact where both sides are small.

    Raises:
        ModelError: either side has no number.
    """
    tested = stats.ks_2samp(_numbers(reference), _numbers(new), alternative="two-sided", method="auto")
    return float(tested.statistic), float(tested.pvalue)


def drift(
    reference: Mapping[str, npt.ArrayLike], new: Mapping[str, npt.ArrayLike], config: DriftConfig | None = None
) -> DriftReport:
    """Hold the statistics of new cases, name → (m,), against those of the reference, name → (n,); NaN is left out.

    Names that one side lacks are left out; a statistic with fewer than `min_cases` numbers on a side has no row.

    Raises:
        ModelError: the two sides have no name in common.
    """
    config = config or DriftConfig()
    shared = sorted(reference.keys() & new.keys())
    if not shared:
        raise ModelError(
            f"no statistic is known of both sides: {_listed(reference)} of old, {_listed(new)} of new cases"
        )
    known = {name: (_finite_only(reference[name]), _finite_only(new[name])) for name in shared}
    tested = {name: pair for name, pair in known.items() if min(map(len, pair)) >= config.min_cases}
    if not tested:
        before, after = (max(len(pair[side]) for pair in known.values()) for side in (0, 1))
        few = f"{after} new cases against {before}: fewer than {config.min_cases} on a side, no verdict"
        return DriftReport({}, False, few)
    distances = {name: ks(*pair) for name, pair in tested.items()}
    p_values = holm([p_value for _, p_value in distances.values()])
    rows = {
        name: _row(name, tested[name], distances[name][0], p_value, config)
        for name, p_value in zip(tested, p_values, strict=True)
    }
    return DriftReport(rows, any(row.drifted for row in rows.values()), _reason(rows, config))


def holm(p_values: npt.ArrayLike) -> list[float]:
    """p-values (K,) after Holm's correction: all that are ≤ α are rejected at a family-wise error of α."""
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1))
    corrected = np.empty(values.size)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]


def _row(name: str, pair: tuple[Floats, Floats], distance: float, p_value: float, config: DriftConfig) -> DriftRow:
    before, after = pair
    bins = max(2, min(MOST_BINS, min(before.size, after.size) // CASES_A_BIN))
    effective = _bin_edges(before, bins).size + 1
    size = max(psi(before, after, bins) - psi_bias(effective, before.size, after.size), 0.0)
    return DriftRow(name, size, distance, p_value, bool(size >= config.psi and p_value < config.p_value))


def _reason(rows: Mapping[str, DriftRow], config: DriftConfig) -> str:
    found = sorted((row for row in rows.values() if row.drifted), key=lambda row: -row.psi)
    if not found:
        return f"none of {len(rows)} statistics has PSI ≥ {config.psi:g} and p < {config.p_value:g}"
    shown = ", ".join(f"{row.name} (PSI {row.psi:.2f}, p {row.p_value:.2g})" for row in found[:3])
    return f"{len(found)} of {len(rows)} statistics drifted: {shown}" + (", …" if len(found) > 3 else "")


def _sharpness(channel: Floats, median: float, spread: float) -> float:
    if spread == 0:
        return 0.0
    filled = np.where(np.isfinite(channel), channel, median)
    return float(np.abs(ndimage.laplace(filled)).mean() / spread)


def _bin_edges(reference: Floats, bins: int) -> Floats:
    """Upper ends, inclusive, of all bins but the last; a quantile that comes twice also ends the bin below it."""
    cuts, times = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)), return_counts=True)
    atoms = cuts[times > 1]
    inner = cuts[(cuts > reference.min()) & (cuts < reference.max())]
    edges: Floats = np.unique(np.concatenate([inner, atoms, np.nextafter(atoms, -np.inf)]))
    return edges


def _shares(values: Floats, edges: Floats) -> Floats:
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=edges.size + 1)
    return np.asarray((counts + 0.5) / (values.size + 0.5 * counts.size))


def _finite(pixels: Floats) -> Floats:
    """The finite pixels, at most as large as can be squared and summed; a 0 where there is none."""
    finite = pixels[np.isfinite(pixels)]
    return np.clip(finite, -1e100, 1e100) if finite.size else np.zeros(1)


def _finite_only(values: npt.ArrayLike) -> Floats:
    numbers = np.asarray(values, np.float64).ravel()
    return np.asarray(numbers[np.isfinite(numbers)])


def _numbers(values: npt.ArrayLike) -> Floats:
    numbers = _finite_only(values)
    if numbers.size == 0:
        raise ModelError("there is no number to compare; a distribution needs at least one case")
    return numbers


def _listed(names: Mapping[str, npt.ArrayLike]) -> str:
    return ", ".join(sorted(names)) or "none"
