"""Which features, in which order: the best first, so that the first k are the choice of k.

mRMR (Ding and Peng, J Bioinform Comput Biol 2005;3:185–205; Peng, Long and Ding, IEEE TPAMI 2005;27:1226–1238) takes
next the feature that says most of the outcome and least of what is taken, S:

    argmax_g  V(g) − 1/|S| Σ_s |r(g, s)|    (difference)        argmax_g  V(g) / (1/|S| Σ_s |r(g, s)|)    (quotient)

V is the F statistic or the mutual information of the feature with the classes, r Pearson's correlation. For a survival
time V is the score statistic of a Cox model with that feature alone, U²/I at β = 0.

LASSO (Tibshirani, J R Stat Soc B 1996;58:267–288; the path by Efron et al., Ann Stat 2004;32:407–499): features in the
order in which they enter as the penalty falls. Squared error on the outcome as 0 and 1; for survival Cox's likelihood.
"""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.feature_selection import f_classif, mutual_info_classif
from sklearn.linear_model import lars_path

from models.errors import ModelError
from models.outcome.config import StudyConfig
from models.outcome.filters import Kept, absolute_correlation
from models.outcome.patients import Outcome
from models.outcome.survival import cox_path

Floats = npt.NDArray[np.float64]
Positions = list[int]
_LITTLE = 1e-12


class Ranked(Kept):
    """Hands on the `most` best features, best first, as `config.selection` has it; all of them where it is `none`."""

    def __init__(self, config: StudyConfig, most: int, seed: int = 0) -> None:
        self.config, self.most, self.seed = config, most, seed

    def fit(self, table: pd.DataFrame, outcome: Outcome) -> Self:
        """Rank the features of training patients by their outcomes."""
        features = table.to_numpy(np.float64)
        match self.config.selection:
            case "mrmr":
                strength = relevance(features, outcome, self.config.relevance, self.seed)
                order = mrmr_order(strength, absolute_correlation(features), self.most, self.config.criterion)
            case "lasso":
                order = lasso_order(features, outcome, self.most)
            case "none":
                order = list(range(features.shape[1]))
        self.kept_ = table.columns[order].tolist()
        return self


class First(Kept):
    """Hands on the first `number` columns, or all where there are fewer or `number` is None."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number

    def fit(self, table: pd.DataFrame, outcome: Any = None) -> Self:
        """Note their names."""
        self.kept_ = table.columns[: self.number].tolist()
        return self


def relevance(features: Floats, outcome: Outcome, kind: str, seed: int = 0) -> Floats:
    """V (F,) of `features` (N, F): larger says more of the outcome."""
    if outcome.dtype.names is not None:
        return cox_score(features, outcome["time"], outcome["event"])
    if kind == "f":
        with np.errstate(divide="ignore", invalid="ignore"):
            statistic = f_classif(features, outcome)[0]
        return np.asarray(np.nan_to_num(statistic, nan=0.0, posinf=np.finfo(np.float64).max))
    return np.asarray(mutual_info_classif(features, outcome, random_state=seed))


def mrmr_order(strength: Floats, likeness: Floats, most: int, criterion: str = "difference") -> Positions:
    """`most` features, or all, in the order of mRMR; `strength` (F,) is V, `likeness` (F, F) is |r|.

    Of equals the first is taken.
    """
    taken = [int(np.argmax(strength))]
    redundancy = likeness[taken[0]].copy()
    while len(taken) < min(most, len(strength)):
        mean = redundancy / len(taken)
        merit = strength - mean if criterion == "difference" else strength / np.maximum(mean, _LITTLE)
        merit[taken] = -np.inf
        taken.append(int(np.argmax(merit)))
        redundancy += likeness[taken[-1]]
    return taken


def lasso_order(features: Floats, outcome: Outcome, most: int) -> Positions:
    """At most `most` features (at least one) in the order in which they enter the LASSO path."""
    if outcome.dtype.names is not None:
        coefficients = cox_path(features, outcome)
    else:
        centred = features - features.mean(axis=0)
        steps = 4 * most  # a feature can leave and come back
        coefficients = lars_path(centred, outcome - outcome.mean(), max_iter=steps, method="lasso")[2]
    entered = np.abs(coefficients) > _LITTLE
    first = np.where(entered.any(axis=1), entered.argmax(axis=1), entered.shape[1])
    order = [int(feature) for feature in np.argsort(first, kind="stable") if first[feature] < entered.shape[1]]
    if not order:
        raise ModelError("no feature enters the LASSO path: none says anything of the outcome")
    return order[:most]


def cox_score(features: Floats, time: Floats, event: npt.NDArray[np.bool_]) -> Floats:
    """U²/I (F,) at β = 0 of a Cox model with one feature, ties as Breslow has them.

    U = Σ_i δ_i (x_i − mean of x over those at risk at t_i), I the sum of their variances.
    """
    order = np.argsort(time, kind="stable")
    x, sorted_time, happened = features[order] - features.mean(axis=0), time[order], event[order]
    since = np.searchsorted(sorted_time, sorted_time[happened])  # the first who is at risk as it happens
    at_risk = (len(x) - since)[:, None]
    mean = x[::-1].cumsum(axis=0)[::-1][since] / at_risk
    variance = (x**2)[::-1].cumsum(axis=0)[::-1][since] / at_risk - mean**2
    score, information = (x[happened] - mean).sum(axis=0), variance.sum(axis=0)
    return np.asarray(score**2 / np.maximum(information, _LITTLE))
