"""What becomes of a patient, planted as a model of three features of the true tumour, and the best that can be told.

    z = (standardised log volume, coefficient of variation of the uptake, log SUVmax)
    P(response) = 1 / (1 + e^(−logit)),   logit = 0.15 − w·z                                               (1)
    S(t | z) = exp(−(t / 1500 days)^1.3 · e^η),   η = v·z                                                  (2)

All are features of the tumour as drawn (`Nature`), before blur and noise: what radiomics of the true mask measures.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from storage.sources.pet.tumour import Nature, draw_nature

Points = npt.NDArray[np.float64]

THREE_YEARS = 3 * 365.25  # days
LONGEST_FOLLOW_UP = 6 * 365.25
_MEAN = np.array([3.07, 0.295, 2.19])  # of (log ml, CoV, log SUVmax) over 20,000 drawn tumours
_DEVIATION = np.array([0.79, 0.138, 0.36])
_RESPONSE = np.array([0.87, 0.78, 0.44])
_INTERCEPT = 0.15
_HAZARD = np.array([0.60, 0.50, 0.38])
_SCALE_DAYS, _WEIBULL = 1500.0, 1.3


@dataclass(frozen=True)
class Outcome:
    """`survival_days` until death, or until follow-up ended at 3 to 6 years."""

    response: bool
    survival_days: float
    death: bool
    survival_3y: bool


def response_logit(nature: Nature) -> float:
    """Equation (1): log-odds that the tumour responds to its treatment."""
    return float(_INTERCEPT - _RESPONSE @ _features(nature))


def log_hazard(nature: Nature) -> float:
    """Equation (2): η, the logarithm of the patient's hazard over the baseline's."""
    return float(_HAZARD @ _features(nature))


def draw_outcome(rng: np.random.Generator, nature: Nature) -> Outcome:
    """One patient's outcome; follow-up ends for all at three to six years, so that every label is known."""
    response = bool(rng.random() < _logistic(np.array(response_logit(nature))))
    days = _SCALE_DAYS * (rng.exponential() * np.exp(-log_hazard(nature))) ** (1 / _WEIBULL)
    follow_up = rng.uniform(THREE_YEARS, LONGEST_FOLLOW_UP)
    return Outcome(response, float(np.ceil(min(days, follow_up))), bool(days <= follow_up), bool(days > THREE_YEARS))


@lru_cache(maxsize=8)
def best_auc(outcome: str = "response", patients: int = 20_000, seed: int = 0) -> float:
    """AUC that the planted log-odds reach, over all outcomes `patients` may have: no predictor can expect more.

    `outcome` is "response" or "survival_3y". KeyError for another.
    """
    natures = _natures(patients, seed)
    chance = {"response": _chance_of_response, "survival_3y": _chance_of_three_years}[outcome](natures)
    chance = chance[np.argsort(chance)]
    below = np.cumsum(1 - chance) - (1 - chance)  # expected cases without the outcome that are ranked lower
    alone = (chance * (1 - chance)).sum()  # a patient is no pair with itself
    return float((chance * below).sum() / (chance.sum() * (1 - chance).sum() - alone))


@lru_cache(maxsize=8)
def best_c_index(patients: int = 3_000, seed: int = 0) -> float:
    """Harrell's C that the planted log hazard reaches on `patients` with their deaths and ends of follow-up."""
    natures = _natures(patients, seed)
    rng = np.random.default_rng(seed)
    outcomes = [draw_outcome(rng, nature) for nature in natures]
    days = np.array([outcome.survival_days for outcome in outcomes])
    dead = np.array([outcome.death for outcome in outcomes])
    hazard = np.array([log_hazard(nature) for nature in natures])
    outlived = dead[:, None] & (days[:, None] < days)  # [i, j]: i died before j
    return float((hazard[:, None] > hazard)[outlived].mean())


def _features(nature: Nature) -> Points:
    found = np.array([np.log(nature.volume_ml), nature.cov, np.log(nature.suv_max)])
    return np.asarray((found - _MEAN) / _DEVIATION)


def _natures(patients: int, seed: int) -> list[Nature]:
    rng = np.random.default_rng(seed)
    return [draw_nature(rng) for _ in range(patients)]


def _chance_of_response(natures: list[Nature]) -> Points:
    return _logistic(np.array([response_logit(nature) for nature in natures]))


def _chance_of_three_years(natures: list[Nature]) -> Points:
    hazard = np.exp([log_hazard(nature) for nature in natures])
    return np.asarray(np.exp(-((THREE_YEARS / _SCALE_DAYS) ** _WEIBULL) * hazard))


def _logistic(logit: Points) -> Points:
    return np.asarray(1 / (1 + np.exp(-logit)))
