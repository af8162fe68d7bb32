"""Pooled histograms of saliency without a range: float32 values become integers that sort like them.

A float32's bit pattern, with the sign handled, is an unsigned integer that sorts as the value does. Histograms over
that key need no range and no bin width, so they can be collected case by case and added. Only occupied keys are kept.

    AP = Σ_k (R_k − R_{k−1}) · P_k        over distinct scores in descending order                     (1)

Tied scores are one threshold, and the area is never interpolated (a constant map earns the prevalence and no more).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]

_SIGN = np.uint32(0x80000000)


class Histogram(NamedTuple):
    """Occupied keys in ascending order and how many pixels carry each."""

    keys: Keys
    counts: npt.NDArray[np.int32]

    @property
    def total(self) -> int:
        """Number of pixels."""
        return int(self.counts.sum())


def order_keys(values: npt.ArrayLike, bits: int = 32) -> Keys:
    """Integers that sort like `values` (any shape, cast to float32; −0 is 0), cut to their leading `bits` bits."""
    pattern = (np.asarray(values, dtype=np.float32) + np.float32(0)).view(np.uint32)
    keys = np.where(pattern & _SIGN, ~pattern, pattern | _SIGN)
    return keys & np.uint32((0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF)


def key_values(keys: Keys) -> npt.NDArray[np.float32]:
    """The smallest float32 that has each key: the inverse of `order_keys` where all 32 bits were kept."""
    pattern = np.where(keys & _SIGN, keys ^ _SIGN, ~keys)
    return pattern.view(np.float32)


def histogram_of(keys: Keys) -> Histogram:
    """Histogram of keys of any shape."""
    occupied, counts = np.unique(keys, return_counts=True)
    return Histogram(occupied, counts.astype(np.int32))


def minmax_scaled(positives: Histogram, negatives: Histogram) -> tuple[Histogram, Histogram]:
    """The histograms of a case whose map is scaled to 0–1 by its own minimum and maximum; a constant one becomes 0."""
    ends = [histogram.keys[[0, -1]] for histogram in (positives, negatives) if histogram.keys.size]
    low, high = (key_values(end).astype(np.float64) for end in (np.min(ends, axis=0)[:1], np.max(ends, axis=0)[1:]))
    extent = float(high[0] - low[0]) or 1.0

    def scaled(histogram: Histogram) -> Histogram:
        return Histogram(order_keys((key_values(histogram.keys) - low) / extent), histogram.counts)

    return scaled(positives), scaled(negatives)


def counts_between(histogram: Histogram, edges: Keys) -> Floats:
    """Pixels in [edge_j, edge_{j+1}) for ascending `edges` (K,), the last bin open, none below the first edge."""
    bins = np.searchsorted(edges, histogram.keys, side="right")
    return np.bincount(bins, weights=histogram.counts, minlength=edges.size + 1)[1:].astype(np.float64)


def count_from(histogram: Histogram, key: Keys) -> int:
    """Pixels whose key is at least `key` (0-d)."""
    return int(histogram.counts[int(np.searchsorted(histogram.keys, key)) :].sum())


def average_precision(positives: Floats, negatives: Floats) -> Floats:
    """Equation (1) along the last axis, whose bins ascend in score; NaN where there is no positive."""
    found, flagged = positives[..., ::-1], negatives[..., ::-1]
    true_positives, false_positives = found.cumsum(axis=-1), flagged.cumsum(axis=-1)
    with np.errstate(invalid="ignore"):
        precision = true_positives / (true_positives + false_positives)
        # bins before the first pixel are 0/0 and carry no positive
        gained = np.where(found > 0, found * precision, 0.0).sum(axis=-1)
        return np.asarray(gained / true_positives[..., -1] if found.shape[-1] else np.full(gained.shape, np.nan))
