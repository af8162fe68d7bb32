"""Nested cross-validation: inner folds of the training patients choose, the outer fold only predicts.

Everything that is learnt, from a median that fills a gap to the threshold above which a patient is called positive, is
learnt from the training patients of a fold; of a held-out patient the features alone are read.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.pipeline import Pipeline

from models.outcome.config import StudyConfig
from models.outcome.folds import Rows, derived_seed, patient_folds
from models.outcome.judging import concordance
from models.outcome.patients import Outcome, Patients
from models.outcome.pipeline import (
    Setting,
    estimator,
    fitted_preparation,
    predictor,
    score,
    settings_of,
    used_features,
    whole_pipeline,
)

Floats = npt.NDArray[np.float64]
_HALF = 0.5


@dataclass(frozen=True)
class FoldAnswer:
    """What a fold says of its `held_out` rows, and how it came to it.

    `scores` are probabilities, or risks of survival; `threshold` calls a patient positive (NaN for survival), `median`
    parts low from high risk: both from training patients.
    """

    held_out: Rows
    scores: Floats
    threshold: float
    median: float
    setting: Setting
    inner_quality: float
    selected: tuple[str, ...]


@dataclass(frozen=True)
class Fitted:
    """A pipeline learnt from `rows` with the settings that its inner folds chose."""

    pipeline: Pipeline
    threshold: float
    median: float
    setting: Setting
    inner_quality: float
    selected: tuple[str, ...]


def nested_fold(patients: Patients, train: Rows, held_out: Rows, config: StudyConfig, seed: int) -> FoldAnswer:
    """Learn from the rows `train`, predict `held_out`."""
    fitted = fitted_on(patients, train, config, seed)
    scores = score(fitted.pipeline, patients.table.iloc[held_out], patients.is_survival)
    told = (fitted.threshold, fitted.median, fitted.setting, fitted.inner_quality, fitted.selected)
    return FoldAnswer(held_out, scores, *told)


def fitted_on(patients: Patients, train: Rows, config: StudyConfig, seed: int) -> Fitted:
    """Choose settings by inner folds of the rows `train`, then fit on all of them."""
    setting, quality, inner_scores = chosen_setting(patients, train, config, seed)
    prepared = fitted_preparation(patients, train, config, seed)
    ranked, outcome = prepared.transform(patients.table.iloc[train]), patients.outcome[train]
    predicting = predictor(config, setting, patients.is_survival, seed).fit(ranked, outcome)
    return Fitted(
        pipeline=whole_pipeline(prepared, predicting),
        threshold=threshold_of(config, outcome, inner_scores),
        median=float(np.median(score(predicting, ranked, patients.is_survival))),
        setting=setting,
        inner_quality=quality,
        selected=tuple(used_features(predicting)),
    )


def chosen_setting(patients: Patients, train: Rows, config: StudyConfig, seed: int) -> tuple[Setting, float, Floats]:
    """The setting with the best mean AUC, or C, over inner folds; that mean; its scores of the rows `train`."""
    settings = settings_of(config, patients.is_survival)
    inner = patients.at(train)
    scores, quality = np.zeros((len(settings), len(train))), np.zeros((config.inner_folds, len(settings)))
    for number, (known, left) in enumerate(patient_folds(inner, config.inner_folds, derived_seed(seed, 2))):
        scores[:, left] = inner_fold_scores(inner, known, left, config, settings, seed)
        quality[number] = [
            concordance(inner.outcome[left], scores[position, left]) for position in range(len(settings))
        ]
    mean = quality.mean(axis=0).round(9)  # equal choices are to stay equal
    best = int(np.argmax(mean))
    return settings[best], float(mean[best]), scores[best]


def inner_fold_scores(
    inner: Patients, known: Rows, left: Rows, config: StudyConfig, settings: list[Setting], seed: int
) -> Floats:
    """Scores (settings, left) of the patients in `left` by models of those in `known`."""
    prepared = fitted_preparation(inner, known, config, seed)
    ranked, other = (prepared.transform(inner.table.iloc[rows]).to_numpy() for rows in (known, left))
    scores = []
    for setting in settings:  # on bare arrays: column names cost more than the models
        model = estimator(config, setting.strength, inner.is_survival, seed)
        model.fit(ranked[:, : setting.number], inner.outcome[known])
        scores.append(score(model, other[:, : setting.number], inner.is_survival))
    return np.array(scores)


def threshold_of(config: StudyConfig, outcome: Outcome, inner_scores: Floats) -> float:
    """Where positive begins: at a half, or where Youden's index of the inner folds' scores is largest."""
    if outcome.dtype.names is not None:
        return float("nan")
    return _HALF if config.threshold == "half" else youden_threshold(outcome == 1, inner_scores)


def youden_threshold(is_positive: npt.NDArray[np.bool_], scores: Floats) -> float:
    """The middle between two neighbouring scores that has the largest sensitivity + specificity − 1.

    Youden, Cancer 1950;3:32–35. A score above it is called positive; the lowest of equals wins.
    """
    values = np.unique(scores)
    if len(values) == 1:
        return float(values[0])
    middles = (values[1:] + values[:-1]) / 2
    above = scores > middles[:, None]
    index = above[:, is_positive].mean(axis=1) - above[:, ~is_positive].mean(axis=1)
    return float(middles[np.argmax(index)])


def final_model(patients: Patients, config: StudyConfig) -> Fitted:
    """The pipeline fitted on every patient, settings chosen by inner folds: for new patients, judged by the folds."""
    return fitted_on(patients, np.arange(len(patients.table)), config, derived_seed(config.seed, 3))


def study_fold(patients: Patients, config: StudyConfig, repeat: int, number: int) -> FoldAnswer:
    """Fold `number` of a `repeat`, both counted from 0."""
    train, held_out = outer_folds(patients, config, repeat)[number]
    return nested_fold(patients, train, held_out, config, derived_seed(config.seed, 4, repeat, number))


def outer_folds(patients: Patients, config: StudyConfig, repeat: int) -> list[tuple[Rows, Rows]]:
    """The folds of a repeat."""
    return patient_folds(patients, config.folds, derived_seed(config.seed, 5, repeat))


def whole_repeat(patients: Patients, config: StudyConfig, repeat: int) -> Floats:
    """Out-of-fold scores (N,) of one repeat: what a permutation is compared by."""
    scores: Any = np.full(len(patients.table), np.nan)
    for number in range(config.folds):
        answer = study_fold(patients, config, repeat, number)
        scores[answer.held_out] = answer.scores
    return np.asarray(scores)
