"""The model of all patients as MLflow keeps and serves it: features in, a probability or a risk out; no pickle."""

import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from packaging.version import Version
from sklearn.ensemble import RandomForestClassifier

from models.outcome import Fitted, Patients
from models.outcome.pipeline import score
from tasks.reuse import PROJECT

TRUSTED = ("models.outcome.", "sksurv.", "sklearn.")
FORMAT = "skops"
PACKAGES = ("mlflow", "numpy", "pandas", "pydantic", "scikit-image", "scikit-learn", "scipy", "skops")


def save_model(folder: Path, fitted: Fitted, patients: Patients, metadata: dict[str, Any]) -> bool:
    """Make the MLflow model directory `folder`, with its signature; False where skops has no form for the model.

    It has none for scikit-survival's forest.
    """
    try:
        trusted = own_types(fitted)
    except NotImplementedError:
        return False
    example = patients.table.iloc[:2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mlflow.sklearn.save_model(
            fitted.pipeline,
            str(folder),
            serialization_format=FORMAT,
            skops_trusted_types=trusted,
            code_paths=[str(PROJECT / "models")],
            signature=infer_signature(example, score(fitted.pipeline, example, patients.is_survival)),
            pip_requirements=requirements(patients.is_survival),
            pyfunc_predict_fn="predict" if patients.is_survival else "predict_proba",
            metadata={**metadata, "threshold": shown(fitted.threshold), "median_risk": shown(fitted.median)},
        )
    return True


def own_types(fitted: Fitted) -> list[str]:
    """The types in a pipeline that skops does not know by itself, all of them of this project or of its libraries."""
    import skops.io

    unknown = skops.io.get_untrusted_types(data=skops.io.dumps(fitted.pipeline))
    return [name for name in unknown if name.startswith(TRUSTED)]


def requirements(is_survival: bool) -> list[str]:
    """What a server of the model needs, in the versions that made it."""
    packages = (*PACKAGES, "scikit-survival") if is_survival else PACKAGES
    return [f"{package}=={Version(version(package)).public}" for package in packages]


def coefficients(fitted: Fitted) -> pd.DataFrame:
    """The selected features of the model of all patients, with their weights where a model has such."""
    table = pd.DataFrame({"feature": list(fitted.selected)})
    model = fitted.pipeline.named_steps["model"]
    if isinstance(model, RandomForestClassifier):
        return table.assign(importance=model.feature_importances_)
    # scikit-survival's forest raises where it is asked for importances
    return table.assign(coefficient=np.ravel(model.coef_)) if "coef_" in vars(model) else table


def shown(value: float) -> float | None:
    """A number, or None where there is none."""
    return float(value) if np.isfinite(value) else None
