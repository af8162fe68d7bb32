"""What features say of an outcome, without leaks: nested cross-validation by patient, of two classes or of survival.

All that is learnt is learnt inside a fold; scikit-learn pipelines, ComBat, mRMR and LASSO, metrics with intervals.
"""

from models.outcome.config import StudyConfig
from models.outcome.filters import stable_features
from models.outcome.folds import check_folds, permuted
from models.outcome.judging import Judged, concordance, metric_draws
from models.outcome.nested import Fitted, FoldAnswer, final_model, study_fold, whole_repeat
from models.outcome.patients import Asked, Patients, patients_of
from models.outcome.pipeline import Setting

__all__ = [
    "Asked",
    "Fitted",
    "FoldAnswer",
    "Judged",
    "Patients",
    "Setting",
    "StudyConfig",
    "check_folds",
    "concordance",
    "final_model",
    "metric_draws",
    "patients_of",
    "permuted",
    "stable_features",
    "study_fold",
    "whole_repeat",
]
