"""The pipelines of a study: what prepares and ranks the features, and what predicts from the first of them.

Ranking once and fitting on the first k for each k spares all but one of the rankings.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import QuantileTransformer, RobustScaler, StandardScaler

from models.outcome.config import Model, StudyConfig
from models.outcome.filters import Distinct, FilledGaps, Varying
from models.outcome.harmonisation import Combat
from models.outcome.patients import Patients
from models.outcome.selection import First, Ranked
from models.outcome.survival import cox, survival_forest

Floats = npt.NDArray[np.float64]
_LANDMARKS = 100


class Setting(NamedTuple):
    """What the inner folds choose: how many features (None: all), and the model's penalty or leaf size."""

    number: int | None
    strength: float


def model_of(config: StudyConfig, is_survival: bool) -> Model:
    """The model that is asked for, or the usual one for the outcome."""
    return config.model or ("cox" if is_survival else "logistic")


def settings_of(config: StudyConfig, is_survival: bool) -> list[Setting]:
    """All settings that are tried, the simplest first, so that it wins among equals."""
    numbers: Sequence[int | None] = [None] if config.selection == "none" else sorted(config.numbers)
    is_forest = model_of(config, is_survival) in ("forest", "survival_forest")
    strengths = sorted(config.leaf_sizes if is_forest else config.penalties, reverse=True)
    return [Setting(number, float(strength)) for number, strength in product(numbers, strengths)]


def preparation(config: StudyConfig, aside: Sequence[str], seed: int) -> Pipeline:
    """From features with gaps to scaled ones, best first; `aside` are the scanner's column and the covariates."""
    harmonised = [("harmonise", Combat(aside[0], tuple(aside[1:])))] if aside else []
    return Pipeline(
        [
            ("fill", FilledGaps(config.most_gaps, tuple(aside))),
            *harmonised,
            ("vary", Varying()),
            ("differ", Distinct(config.most_correlated)),
            ("scale", scaler(config).set_output(transform="pandas")),
            ("rank", Ranked(config, max(config.numbers), seed)),
        ]
    )


def scaler(config: StudyConfig) -> Any:
    """Mean 0 and deviation 1; median 0 and quartiles one apart; or the normal distribution, by ranks."""
    match config.scaling:
        case "standard":
            return StandardScaler()
        case "robust":
            return RobustScaler()
        case "normal":
            return QuantileTransformer(n_quantiles=_LANDMARKS, output_distribution="normal", subsample=None)


def predictor(config: StudyConfig, setting: Setting, is_survival: bool, seed: int) -> Pipeline:
    """The first features, and the model."""
    return Pipeline(
        [("first", First(setting.number)), ("model", estimator(config, setting.strength, is_survival, seed))]
    )


def estimator(config: StudyConfig, strength: float, is_survival: bool, seed: int) -> Any:
    """The model with its penalty or leaf size."""
    weight = "balanced" if config.balance else None
    match model_of(config, is_survival):
        case "logistic":
            return LogisticRegression(C=1 / strength, class_weight=weight, max_iter=2000)
        case "forest":
            return RandomForestClassifier(
                config.trees, min_samples_leaf=int(strength), class_weight=weight, n_jobs=1, random_state=seed
            )
        case "cox":
            return cox(strength)
        case "survival_forest":
            return survival_forest(config.trees, int(strength), seed)


def whole_pipeline(prepared: Pipeline, predicting: Pipeline) -> Pipeline:
    """Both fitted halves as one; what `first` knows by name need not be ranked again."""
    return Pipeline([*prepared.steps[:-1], *predicting.steps])


def score(predicting: Any, table: pd.DataFrame | Floats, is_survival: bool) -> Floats:
    """(N,) by a fitted pipeline or model: the probability of being positive, or the risk of an early event."""
    predicted = predicting.predict(table) if is_survival else predicting.predict_proba(table)[:, 1]
    return np.asarray(predicted, np.float64)


def used_features(predicting: Pipeline) -> list[str]:
    """The names of the features that a fitted model takes."""
    return list(predicting.named_steps["first"].kept_)


def fitted_preparation(patients: Patients, rows: npt.NDArray[np.intp], config: StudyConfig, seed: int) -> Pipeline:
    """The preparation, learnt from the patients in `rows`."""
    return preparation(config, patients.aside, seed).fit(patients.table.iloc[rows], patients.outcome[rows])
