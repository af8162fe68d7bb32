"""Frozen test cases: what every version of a registered model is judged on, written down once.

They lie in MLflow as the artifact `frozen.parquet` of a run, which the tag `frozen.run` of the registered model names:
a row a case with case_id, patient_id, split, label, image_digest, mask_digest, has_masks.
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from storage.cohort import Cohort
from tasks.errors import PromotionError
from tasks.maps import selected_cases
from tasks.tracking.runs import create_registered_model, tracked_run, tracking_client

STEP, FILE = "freeze", "frozen.parquet"
FROZEN_RUN = "frozen.run"
IDENTITY = ["case_id", "patient_id", "split", "image_digest", "mask_digest", "has_masks"]
CHECKED = {"image_digest": "other pixels", "mask_digest": "other masks", "split": "another split"}
ABSENT, NO_NAME = "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"


@dataclass(frozen=True, eq=False)
class Frozen:
    """The cases of the registered model `name` as they were at `snapshot`; `label` in `table` is that of `target`."""

    run_id: str
    cohort: str
    snapshot: str
    target: str
    table: pd.DataFrame
    name: str


def freeze(name: str, cohort: str, target: str, split: str = "test") -> Frozen:
    """Record the cases of `split` as those on which the registered model `name` is judged from now on.

    Raises:
        CohortError: no such split or label.
        PromotionError: none of the cases has a label or masks.
    """
    opened = Cohort.open(cohort)
    labels = opened.label(target)
    cases = selected_cases(opened, [split])
    table = opened.table.loc[cases, IDENTITY].reset_index(drop=True).assign(label=labels[cases])
    if not (table["label"].notna() | table["has_masks"]).any():
        raise PromotionError(f"no case in split {split!r} of {cohort} has {target!r} or masks: nothing to judge by")
    client = tracking_client()
    create_registered_model(client, name)
    marks = {"registered": name, "cohort": opened.path, "snapshot": opened.snapshot, "target": target}
    with tracked_run(STEP, {**marks, "split": split}) as run, tempfile.TemporaryDirectory() as folder:
        run.tag(**marks)
        run.log_metrics({"cases": len(table), "patients": int(table["patient_id"].nunique())})
        file = Path(folder, FILE)
        table.to_parquet(file, index=False)
        run.log_file(file)
    client.set_registered_model_tag(name, FROZEN_RUN, run.run_id)
    return Frozen(run.run_id, opened.path, opened.snapshot, target, table, name)


def frozen_cases(name: str) -> Frozen | None:
    """What was frozen last for `name`; None where nothing was.

    Raises:
        PromotionError: the run that holds the cases is gone.
    """
    client = tracking_client()
    model = registered_model(client, name)
    run_id = model.tags.get(FROZEN_RUN) if model else None
    if run_id is None:
        return None
    try:
        tags = client.get_run(run_id).data.tags
        with tempfile.TemporaryDirectory() as folder:
            table = pd.read_parquet(client.download_artifacts(run_id, FILE, folder))
    except (MlflowException, OSError) as error:
        raise PromotionError(f"the frozen cases of {name} lie in run {run_id}, which is gone; {_anew(name)}") from error
    return Frozen(run_id, tags["cohort"], tags["snapshot"], tags["target"], table, name)


def indices_of(cohort: Cohort, frozen: Frozen) -> list[int]:
    """Where the frozen cases stand in `cohort`, in their order.

    Raises:
        PromotionError: one is gone, or has other pixels, masks, split or label.
    """
    now = cohort.table.assign(label=cohort.label(frozen.target), position=range(len(cohort))).set_index("case_id")
    for _, was in frozen.table.iterrows():
        if change := _change(now, was, frozen.target):
            raise PromotionError(f"the frozen case {was['case_id']} {change} in {cohort.path}; {_anew(frozen.name)}")
    return [int(position) for position in now.loc[frozen.table["case_id"], "position"]]


def registered_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """The registered model with its aliases and tags; None where there is none of this name."""
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code in (ABSENT, NO_NAME):
            return None
        raise


def patients_of(frozen: Frozen, rows: Sequence[int]) -> list[str]:
    """The patient of each of these rows of the table."""
    return frozen.table["patient_id"].iloc[list(rows)].astype(str).tolist()


def _change(now: pd.DataFrame, was: "pd.Series[Any]", target: str) -> str:
    """What is another now, in words; empty where all is the same."""
    if was["case_id"] not in now.index:
        return "is gone"
    found = now.loc[was["case_id"]]
    for column, words in CHECKED.items():
        if found[column] != was[column]:
            return f"has {words}"
    before, after = float(was["label"]), float(found["label"])
    is_same = before == after or (math.isnan(before) and math.isnan(after))
    return "" if is_same else f"has another {target!r} ({before:g} before, {after:g} now)"


def _anew(name: str) -> str:
    return f"freeze the test cases anew with `lesionflow promote {name} --freeze COHORT`"
