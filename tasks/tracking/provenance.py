"""What a run stands on: the code, the machine, the packages, and the cohort at its snapshot."""

import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import distributions
from typing import Any
from urllib.parse import urlparse

from mlflow.data.schema import TensorDatasetSchema
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.types import Schema, TensorSpec
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from storage.cohort import Cohort
from tasks.gpus import gpu_names
from tasks.reuse import PROJECT


@cache
def git_commit() -> str:
    """The commit that runs, with `-dirty` where files differ from it; empty outside a checkout."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=PROJECT, capture_output=True, text=True
    )
    return asked.stdout.strip()


@cache
def environment() -> dict[str, Any]:
    """Python, platform, processors, GPUs, and the version of every installed package."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "gpus": gpu_names(),
        "packages": dict(sorted((found.name, found.version) for found in distributions())),
    }


def dataset_input(cohort: Cohort, context: str) -> DatasetInput:
    """`cohort` as an MLflow dataset: named like its folder, its digest the snapshot; `context` is what for."""
    dataset = Dataset(
        name=cohort.path.rstrip("/").rsplit("/", 1)[-1],
        digest=cohort.snapshot,
        source_type=urlparse(cohort.path).scheme or "local",
        source=json.dumps({"uri": cohort.path}),
        schema=json.dumps(dataset_schema(cohort).to_dict()),
        profile=json.dumps(cohort_profile(cohort)),
    )
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, context)])


def dataset_schema(cohort: Cohort) -> TensorDatasetSchema:
    """Images (-1, C, *grid) and, where there are labels, one number a case of each; -1 where sizes differ."""
    grid = cohort.grid or (-1,) * len(cohort.dims)
    image = TensorSpec(cohort.dtype, (-1, len(cohort.channels), *grid), "image")
    labels = [TensorSpec(cohort.label(name).dtype, (-1,), name) for name in cohort.labels]
    return TensorDatasetSchema(Schema([image]), Schema(labels) if labels else None)


def cohort_profile(cohort: Cohort) -> dict[str, Any]:
    """What there is in a cohort, in numbers."""
    table = cohort.table
    return {
        "cases": len(table),
        "patients": int(table["patient_id"].nunique()),
        "grid": cohort.shown_grid,
        "channels": list(cohort.channels),
        "splits": {name: int(count) for name, count in table["split"].value_counts().items()},
        "labels": {name: int(table[name].notna().sum()) for name in cohort.labels},
        "lesions": list(cohort.lesions),
    }
