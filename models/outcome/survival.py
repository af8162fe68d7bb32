"""Survival times: Cox's ridge regression, the random survival forest, Kaplan–Meier curves and the log-rank test.

All by scikit-survival, which is GPL-3 and therefore an extra (`lesionflow[survival]`), loaded as it is needed.
"""

from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from models.errors import ModelError
from models.outcome.patients import Outcome

Floats = npt.NDArray[np.float64]
_PATH_STEPS = 60


class SurvivalCurve(NamedTuple):
    """Kaplan–Meier: `survival` from `time` on, its 95 % interval (log-log), and how many are at risk."""

    time: Floats
    survival: Floats
    low: Floats
    high: Floats
    at_risk: npt.NDArray[np.intp]


def scikit_survival(module: str) -> Any:
    """`sksurv.<module>`; ModelError names the extra where it is missing."""
    try:
        return import_module(f"sksurv.{module}")
    except ImportError as error:
        raise ModelError(f"survival needs scikit-survival ({error}): pip install 'lesionflow[survival]'") from error


def cox(penalty: float) -> Any:
    """Cox's proportional hazards with a ridge `penalty`; predicts the log-hazard, higher for a sooner event."""
    return scikit_survival("linear_model").CoxPHSurvivalAnalysis(alpha=penalty)


def survival_forest(trees: int, leaf_size: int, seed: int) -> Any:
    """Random survival forest (Ishwaran et al., Ann Appl Stat 2008;2:841–860); predicts a number of events."""
    forest = scikit_survival("ensemble").RandomSurvivalForest
    return forest(n_estimators=trees, min_samples_leaf=leaf_size, max_features="sqrt", n_jobs=1, random_state=seed)


def cox_path(features: Floats, outcome: Outcome) -> Floats:
    """Coefficients (F, steps) of Cox's LASSO (Simon et al., J Stat Softw 2011;39(5)) as the penalty falls."""
    coxnet = scikit_survival("linear_model").CoxnetSurvivalAnalysis
    model = coxnet(l1_ratio=1.0, n_alphas=_PATH_STEPS, alpha_min_ratio=0.05, fit_baseline_model=False)
    return np.asarray(model.fit(features, outcome).coef_)


def kaplan_meier(outcome: Outcome) -> SurvivalCurve:
    """The share that is without the event, from time 0 on."""
    estimate = scikit_survival("nonparametric").kaplan_meier_estimator
    time, survival, interval = estimate(outcome["event"], outcome["time"], conf_type="log-log")
    low, high = np.nan_to_num(interval, nan=1.0)
    at_risk = (outcome["time"] >= time[:, None]).sum(axis=1)
    first = (np.array([0.0]), np.array([1.0]), np.array([1.0]), np.array([1.0]), np.array([len(outcome)]))
    rest = (time, survival, low, high, at_risk)
    return SurvivalCurve(*(np.concatenate(parts) for parts in zip(first, rest, strict=True)))


def log_rank_p(outcome: Outcome, is_high_risk: npt.NDArray[np.bool_]) -> float:
    """p of the log-rank test between two groups; NaN where one is empty or nobody has an event."""
    if is_high_risk.all() or not is_high_risk.any() or not outcome["event"].any():
        return float("nan")
    return float(scikit_survival("compare").compare_survival(outcome, is_high_risk)[1])
