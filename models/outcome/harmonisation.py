"""ComBat: features of several scanners on one scale.

Johnson, Li and Rabinovic, Biostatistics 2007;8:118–127. For patient j of scanner i and feature g

    Y_ijg = α_g + X_ij β_g + γ_ig + δ_ig ε_ijg                                                        (1)
    Z_ijg = (Y_ijg − α̂_g − X_ij β̂_g) / σ̂_g                                                          (2)
    γ*_ig = (n_i τ²_i γ̂_ig + δ²*_ig γ̄_i) / (n_i τ²_i + δ²*_ig)                                       (3)
    δ²*_ig = (θ_i + ½ Σ_j (Z_ijg − γ*_ig)²) / (n_i / 2 + λ_i − 1)                                     (4)
    Y*_ijg = σ̂_g (Z_ijg − γ*_ig) / δ*_ig + α̂_g + X_ij β̂_g                                           (5)

γ̄_i, τ²_i are mean and variance over features of the scanner's mean shift γ̂, and λ_i, θ_i the moments' inverse gamma of
its variances δ̂². X are covariates whose effect is to stay. All is learnt from the training patients; others are then
moved by (2) and (5), with the parameters of their scanner. The outcome is never among the covariates: nobody knows it
of a new patient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin

from models.errors import ModelError

Floats = npt.NDArray[np.float64]
_CLOSE, _MOST_ROUNDS = 1e-6, 1000


@dataclass(frozen=True)
class CombatFit:
    """What ComBat learnt of B scanners, F features and C covariates."""

    batches: tuple[str, ...]
    alpha: Floats  # (F,)
    beta: Floats  # (C, F)
    sigma: Floats  # (F,)
    gamma: Floats  # (B, F), γ*
    delta: Floats  # (B, F), δ*, a standard deviation


def fit_combat(features: Floats, batch: Sequence[str], covariates: Floats) -> CombatFit:
    """Equations (1) to (4) of `features` (N, F), a scanner each, and `covariates` (N, C).

    Raises:
        ModelError: there is one scanner only, one with fewer than two patients, or covariates that tell the scanner.
    """
    names, rows = np.unique(np.asarray(batch, str), return_inverse=True)
    counts = np.bincount(rows)
    check_batches(names.tolist(), counts)
    design = np.hstack([np.eye(len(names))[rows], covariates])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ModelError("the covariates to preserve are constant, or tell the scanner: their effects cannot be parted")
    effects = np.asarray(np.linalg.lstsq(design, features, rcond=None)[0], np.float64)
    alpha, beta = np.average(effects[: len(names)], axis=0, weights=counts), effects[len(names) :]
    residual = np.sqrt(((features - design @ effects) ** 2).mean(axis=0))
    sigma = np.asarray(np.where(residual > 0, residual, 1.0), np.float64)
    z = (features - alpha - covariates @ beta) / sigma
    shrunk = [shrunk_batch(z[rows == position]) for position in range(len(names))]
    gamma, delta = (np.array(values) for values in zip(*shrunk, strict=True))
    return CombatFit(tuple(names.tolist()), alpha, beta, sigma, gamma, delta)


def apply_combat(fit: CombatFit, features: Floats, batch: Sequence[str], covariates: Floats) -> Floats:
    """Equations (2) and (5): `features` (N, F) without what their scanner adds.

    Raises:
        ModelError: a scanner that was not there as it was learnt.
    """
    if unseen := sorted(set(batch) - set(fit.batches)):
        raise ModelError(
            f"{unseen[0]} is in no training fold, so what it adds is unknown; learnt were: {', '.join(fit.batches)}"
        )
    rows = np.searchsorted(fit.batches, np.asarray(batch, str))
    expected = fit.alpha + covariates @ fit.beta
    z = (features - expected) / fit.sigma
    return np.asarray(fit.sigma * (z - fit.gamma[rows]) / fit.delta[rows] + expected)


def check_batches(names: Sequence[str], counts: npt.NDArray[np.intp]) -> None:
    """ModelError where there is nothing to harmonise, or a scanner's variance is unknown."""
    if len(names) < 2:
        raise ModelError(f"all patients of a fold are of {names[0]}: there is nothing to harmonise")
    if counts.min() < 2:
        raise ModelError(
            f"{names[int(counts.argmin())]} has one patient in a training fold; ComBat needs two at the very least: "
            "join it with a similar one, or leave it out"
        )


def shrunk_batch(z: Floats) -> tuple[Floats, Floats]:
    """γ* and δ* (F,) of one scanner's standardised features (n, F): equations (3) and (4) until they agree."""
    mean, variance = z.mean(axis=0), z.var(axis=0, ddof=1)
    if z.shape[1] < 2 or mean.var() == 0 or variance.var() == 0:  # nothing to borrow from other features
        return mean, np.sqrt(np.where(variance > 0, variance, 1.0))
    tau2, between = mean.var(ddof=1), variance.var(ddof=1)
    shape, rate = variance.mean() ** 2 / between + 2, variance.mean() ** 3 / between + variance.mean()
    gamma, delta2 = mean, variance
    for _ in range(_MOST_ROUNDS):
        before = gamma, delta2
        gamma = (len(z) * tau2 * mean + delta2 * mean.mean()) / (len(z) * tau2 + delta2)
        delta2 = (rate + 0.5 * ((z - gamma) ** 2).sum(axis=0)) / (len(z) / 2 + shape - 1)
        if all(
            np.allclose(new, old, rtol=_CLOSE, atol=_CLOSE) for new, old in zip((gamma, delta2), before, strict=True)
        ):
            break
    return gamma, np.sqrt(delta2)


class Combat(TransformerMixin, BaseEstimator):
    """ComBat as a step: `column` names the scanner, `preserve` the covariates; both are gone afterwards."""

    def __init__(self, column: str, preserve: tuple[str, ...] = ()) -> None:
        self.column, self.preserve = column, preserve

    def fit(self, table: pd.DataFrame, outcome: Any = None) -> Self:
        """Learn from training patients."""
        self.fitted_ = fit_combat(*self._parts(table))
        return self

    def transform(self, table: pd.DataFrame) -> pd.DataFrame:
        """Harmonised features."""
        features = table.drop(columns=[self.column, *self.preserve])
        return pd.DataFrame(apply_combat(self.fitted_, *self._parts(table)), table.index, features.columns)

    def _parts(self, table: pd.DataFrame) -> tuple[Floats, list[str], Floats]:
        features = table.drop(columns=[self.column, *self.preserve])
        covariates = table[list(self.preserve)].to_numpy(np.float64)
        return features.to_numpy(np.float64), batch_names(table[self.column]), covariates


def batch_names(column: pd.Series) -> list[str]:
    """The scanners as text that an error can show: `scanner 2`."""
    shown = (f"{value:g}" if isinstance(value, float) else str(value) for value in column)
    return [f"{column.name} {value}" for value in shown]
