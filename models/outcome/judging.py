"""How good out-of-fold scores are, with 95 % intervals over patients; the mean over repeats of each metric.

    AUC, accuracy, sensitivity, specificity      as `models.metrics.grading`, a threshold a fold
    Brier = mean (p − y)²
    logit P(y) = a + b logit p                   right are slope b = 1, and with b set to 1 intercept a = 0    (1)
    Harrell's C = Σ_ij c_ij / Σ_ij m_ij      m_ij = δ_i [t_i < t_j], c_ij = m_ij ([r_i > r_j] + ½ [r_i = r_j])    (2)
    Uno's C: the same, each m_ij and c_ij times 1 / G(t_i)²                                                     (3)

G is the Kaplan–Meier estimate of being under observation (Uno et al., Stat Med 2011;30:1105–1117), from all patients
and the same for every resample; Harrell et al., Stat Med 1996;15:361–387; Cox, Biometrika 1958;45:562–565 for (1).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.metrics.bootstrap import Resamples, mean_draws, patient_resamples
from models.metrics.grading import auc_draws
from models.outcome.patients import Outcome

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
_NEWTON_ROUNDS = 25
_EDGE = 1e-6
_STEEPEST = 20.0


class Judged(NamedTuple):
    """Out-of-fold answers of R repeats for N patients in one order: `scores` and, for two classes, `called` (R, N)."""

    outcome: Outcome
    scores: Floats
    called: Flags
    patients: Sequence[str]


def metric_draws(judged: Judged, resamples: int, seed: int) -> dict[str, Floats]:
    """Each metric for all patients and for each resample of them, (1 + resamples,), as means over repeats."""
    resampled = patient_resamples(judged.patients, resamples, seed)
    if judged.outcome.dtype.names is not None:
        by_repeat = [survival_draws(judged.outcome, risk, resampled) for risk in judged.scores]
    else:
        both = zip(judged.scores, judged.called, strict=True)
        by_repeat = [class_draws(judged.outcome == 1, probability, called, resampled) for probability, called in both]
    return {key: np.mean([draws[key] for draws in by_repeat], axis=0) for key in by_repeat[0]}


def class_draws(is_positive: Flags, probability: Floats, called: Flags, resampled: Resamples) -> dict[str, Floats]:
    """Metrics of two classes for each row of weights."""
    is_right = called == is_positive
    slope, intercept = calibration_draws(is_positive, probability, resampled)
    return {
        "auc": auc_draws(is_positive, probability, resampled),
        "accuracy": mean_draws(is_right, resampled),
        "sensitivity": mean_draws(np.where(is_positive, is_right, np.nan), resampled),
        "specificity": mean_draws(np.where(is_positive, np.nan, is_right), resampled),
        "brier": mean_draws((probability - is_positive) ** 2, resampled),
        "calibration_slope": slope,
        "calibration_intercept": intercept,
    }


def survival_draws(outcome: Outcome, risk: Floats, resampled: Resamples) -> dict[str, Floats]:
    """Both C for each row of weights."""
    return {
        "harrell_c": pair_draws(outcome, risk, np.ones(len(risk)), resampled),
        "uno_c": pair_draws(outcome, risk, observed_share(outcome) ** -2.0, resampled),
    }


def concordance(outcome: Outcome, scores: Floats) -> float:
    """AUC, or Harrell's C: what inner folds choose by; a half where no pair can be compared."""
    everybody = patient_resamples([str(row) for row in range(len(scores))], 0, 0)
    everybody = Resamples(np.arange(len(scores)), everybody.weights)
    if outcome.dtype.names is not None:
        value = pair_draws(outcome, scores, np.ones(len(scores)), everybody)[0]
    else:
        value = auc_draws(outcome == 1, scores, everybody)[0]
    return float(value) if np.isfinite(value) else 0.5


def pair_draws(outcome: Outcome, risk: Floats, weight: Floats, resampled: Resamples) -> Floats:
    """Equation (2) for each row of weights, with a `weight` (N,) for who has the event first; NaN without a pair."""
    time, event = outcome["time"], outcome["event"]
    # who is censored as another has the event was still without it then
    comparable = event[:, None] & ((time[:, None] < time) | ((time[:, None] == time) & ~event))
    pairs = comparable * weight[:, None]
    right = pairs * ((risk[:, None] > risk) + 0.5 * (risk[:, None] == risk))
    drawn = resampled.weights[:, resampled.rows]
    weighted, all_pairs = ((drawn @ matrix * drawn).sum(axis=1) for matrix in (right, pairs))
    return np.asarray(weighted / np.where(all_pairs > 0, all_pairs, np.nan))


def observed_share(outcome: Outcome) -> Floats:
    """G just before each patient's time (N,): the share that is not censored until then."""
    time, censored = outcome["time"], ~outcome["event"]
    moments = np.unique(time[censored])
    at_risk = np.array([((time > moment) | ((time == moment) & censored)).sum() for moment in moments])
    lost = np.array([(censored & (time == moment)).sum() for moment in moments])
    steps = np.concatenate([[1.0], np.cumprod(1 - lost / at_risk)]) if len(moments) else np.ones(1)
    return np.asarray(steps[np.searchsorted(moments, time, side="left")])


def calibration_draws(is_positive: Flags, probability: Floats, resampled: Resamples) -> tuple[Floats, Floats]:
    """Slope and intercept of (1) for each row of weights, by Newton's method; NaN where one class is missing.

    A slope beyond ±20 is that: scores that part the classes have none.
    """
    clipped = np.clip(probability, _EDGE, 1 - _EDGE)
    logit = np.log(clipped / (1 - clipped))
    weights, truth = resampled.weights[:, resampled.rows], is_positive.astype(np.float64)
    slope = newton(np.stack([np.ones_like(logit), logit]), np.zeros_like(logit), truth, weights)[:, 1]
    intercept = newton(np.ones((1, len(logit))), logit, truth, weights)[:, 0]
    defined = (weights @ truth > 0) & (weights @ (1 - truth) > 0)
    return np.where(defined, slope, np.nan), np.where(defined, intercept, np.nan)


def calibration_line(is_positive: Flags, probability: Floats) -> tuple[float, float]:
    """Slope b and intercept a of (1), fitted together: the line that a calibration plot shows."""
    clipped = np.clip(probability, _EDGE, 1 - _EDGE)
    logit = np.log(clipped / (1 - clipped))
    design = np.stack([np.ones_like(logit), logit])
    found = newton(design, np.zeros_like(logit), is_positive.astype(np.float64), np.ones((1, len(logit))))
    return float(found[0, 1]), float(found[0, 0])


def newton(design: Floats, offset: Floats, truth: Floats, weights: Floats) -> Floats:
    """Coefficients (R, K) of weighted logistic regressions on `design` (K, N), one a row of `weights` (R, N)."""
    beta = np.zeros((len(weights), len(design)))
    for _ in range(_NEWTON_ROUNDS):
        expected = 1 / (1 + np.exp(-np.clip(beta @ design + offset, -30, 30)))
        gradient = (weights * (truth - expected)) @ design.T
        information = np.einsum("rn,kn,ln->rkl", weights * expected * (1 - expected), design, design, optimize=True)
        information += _EDGE * np.eye(len(design))
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        beta = np.clip(beta + np.clip(step, -2, 2), -_STEEPEST, _STEEPEST)
        if np.abs(step).max() < _EDGE:
            break
    return beta
