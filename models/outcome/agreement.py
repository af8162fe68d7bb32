"""Do folds choose the same features? And are two sources of features equally good?

Stability (Nogueira, Sechidis and Brown, JMLR 2018;18(174), equation 4): of M selections among d features, each of which
is chosen in a share p_f of them, k̄ features at a time,

    Φ = 1 − [1/d Σ_f M/(M − 1) p_f (1 − p_f)] / [k̄/d (1 − k̄/d)]                                    (1)

1: always the same; 0: as if drawn by lot. NaN with one selection, or where all features or none are always chosen.

DeLong, DeLong and Clarke-Pearson, Biometrics 1988;44:837–845: variance of AUC_a − AUC_b from the placements

    V10_i = mean_j ψ(x_i, y_j)    V01_j = mean_i ψ(x_i, y_j)    var = S10 / m + S01 / n               (2)
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

Floats = npt.NDArray[np.float64]


def selection_matrix(selections: Sequence[Sequence[str]], features: Sequence[str]) -> npt.NDArray[np.bool_]:
    """(M, d): whether a selection has a feature."""
    return np.array([np.isin(features, list(chosen)) for chosen in selections], dtype=bool)


def nogueira_stability(selected: npt.NDArray[np.bool_]) -> float:
    """Φ of equation (1) for `selected` (M, d)."""
    rounds, features = selected.shape
    share = selected.mean(axis=0)
    mean = share.sum() / features
    if rounds < 2 or mean in (0, 1):
        return float("nan")
    return float(1 - (rounds / (rounds - 1) * share * (1 - share)).mean() / (mean * (1 - mean)))


def delong_p(is_positive: npt.NDArray[np.bool_], scores_a: Floats, scores_b: Floats) -> float:
    """Two-sided p that both scores (N,) of the same patients have one AUC; NaN where the difference has no variance."""
    placed = [placements(is_positive, scores) for scores in (scores_a, scores_b)]
    difference = placed[0][0].mean() - placed[1][0].mean()
    variance = sum(np.var(a - b, ddof=1) / len(a) for a, b in zip(*placed, strict=True))
    return float(2 * norm.sf(abs(difference) / np.sqrt(variance))) if variance > 0 else float("nan")


def placements(is_positive: npt.NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """V10 of the positives and V01 of the others."""
    above = scores[is_positive][:, None] - scores[~is_positive]
    won = (above > 0) + 0.5 * (above == 0)
    return won.mean(axis=1), won.mean(axis=0)


def permutation_p(observed: float, permuted: Sequence[float]) -> float:
    """(1 + how many permutations are at least as good) / (1 + permutations): never 0 (Phipson and Smyth 2010)."""
    return float((1 + (np.asarray(permuted) >= observed).sum()) / (1 + len(permuted)))


def two_sided_p(draws: Floats) -> float:
    """Twice the smaller share of resampled differences (R,) beyond 0, never below 2 / (R + 1)."""
    defined = draws[np.isfinite(draws)]
    if not defined.size:
        return float("nan")
    beyond = min((defined <= 0).sum(), (defined >= 0).sum())
    return float(min(1.0, 2 * (1 + beyond) / (1 + defined.size)))
