"""What a scheduled retraining can be told; in Prefect's UI each is a group of the form."""

import re
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt

from models.config import Config
from models.drift import DriftConfig
from models.errors import ModelError


def checked_name(name: str) -> str:
    """A name that the registry, its searches and a file can have; ModelError for another."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise ModelError(f"a registered model cannot be called {name!r}: use letters, digits, '.', '_' and '-'")
    return name


class Training(Config):
    """How a challenger is trained: as the options of `train`."""

    preset: str = "small"
    settings: dict[str, Any] = Field(default={}, description="settings of the system, nested")
    trainer: dict[str, Any] = Field(default={}, description="such as max_epochs, batch_size")
    seed: int = 0
    devices: PositiveInt = 1


class Trigger(Config):
    """What is reason enough to train: so many new or corrected labelled cases, or drift."""

    new_cases: PositiveInt = 50
    drift: DriftConfig = DriftConfig()


class Localisation(Config):
    """How the champion's maps are made and measured: as `--set` of `localize` and of `radiomics`."""

    settings: dict[str, Any] = Field(default={}, description="of the refinement")
    radiomics: dict[str, Any] = Field(default={}, description="of the features")
    features: str | None = Field(default=None, description="Parquet file; default: in the workspace")
    batch_size: PositiveInt = 32
    workers: PositiveInt | None = None


class Retention(Config):
    """What is kept of models that are no longer champion; the cohort itself is never touched.

    Maps of the champion and of the `former` champions before it stay, others are dropped. With `snapshot_days` states
    of the cohort older than that are forgotten, which frees what dropped maps took.
    """

    former: NonNegativeInt = 1
    snapshot_days: NonNegativeInt | None = None
