"""What a cohort holds that the last decision did not know, and whether it looks different.

Each decision of a retraining carries `known.parquet` in MLflow: a row a case that the cohort then had, with its label,
and for a sample of them the statistics of their images. So nothing but the registry has to be kept from one run to the
next, and a run that is killed changes nothing of it.
"""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from prefect import task

from models.drift import DriftConfig, DriftReport, drift, image_statistics
from storage.cohort import Cohort
from tasks.progress import progress
from tasks.tracking.runs import tracking_client
from tasks.workspace import current_workspace

KNOWN = "known.parquet"
NAME_TAG, CONTENT_TAG = "retrain.name", "retrain.content"
IDENTITY = ["case_id", "split", "image_digest", "label"]
SAMPLED_CASES = 1000
SCORE = "champion's score"


@dataclass(frozen=True)
class News:
    """What has come since the last decision: `fresh` and `corrected` labelled cases that a training would use.

    `unseen` counts all new cases, also those of the test split and those without a label. `known_file` holds what the
    next decision will know.
    """

    content: str
    fresh: int
    corrected: int
    unseen: int
    drift: DriftReport | None
    known_file: Path


@task(name="examine-cohort", task_run_name="examine {cohort}")
def examine(cohort: str, name: str, target: str, champion: int | None, config: DriftConfig) -> News:
    """Compare the cohort as it is with what the last decision on model `name` knew of it."""
    opened = Cohort.open(cohort)
    now, before = identities(opened, target), known_cases(name)
    unseen = now.index[~now["case_id"].isin(before["case_id"])]
    useful = now["label"].notna() & now["split"].isin(["train", "validation"])
    fresh = useful & now.index.isin(unseen)
    corrected = useful & ~now.index.isin(unseen) & is_changed(now, before)
    described = with_statistics(opened, now, before)
    report = None
    if champion is not None and len(unseen) >= config.min_cases and len(before):
        report = cohort_drift(opened, described, unseen, f"{name}/{champion}", config)
    content = hashlib.sha256(now[IDENTITY].astype(str).sort_values("case_id").to_csv().encode()).hexdigest()
    file = write_known(name, content, described)
    return News(content, int(fresh.sum()), int(corrected.sum()), len(unseen), report, file)


def identities(cohort: Cohort, target: str) -> pd.DataFrame:
    """The columns `IDENTITY` of each case, row i = case i; a cohort without the label has none known."""
    table = cohort.table
    label = table[target].astype(float) if target in cohort.labels else np.nan
    return table[["case_id", "split", "image_digest"]].astype(str).assign(label=label)


def known_cases(name: str) -> pd.DataFrame:
    """What the newest decision of a retraining of `name` knew; no rows where there was none."""
    client = tracking_client()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    mine = f"tags.`{NAME_TAG}` = '{name}' and attributes.status = 'FINISHED'"
    found = client.search_runs(experiments, mine, order_by=["attributes.start_time DESC"], max_results=1)
    if not found:
        return pd.DataFrame(columns=IDENTITY)
    with tempfile.TemporaryDirectory() as folder:
        return pd.read_parquet(client.download_artifacts(found[0].info.run_id, KNOWN, folder))


def is_changed(now: pd.DataFrame, before: pd.DataFrame) -> pd.Series:
    """Which cases have another label or other pixels than before, aligned with `now`."""
    then = before.set_index("case_id")[["image_digest", "label"]].reindex(now["case_id"])
    same_label = (now["label"].to_numpy() == then["label"].to_numpy(float)) | (
        now["label"].isna().to_numpy() & then["label"].isna().to_numpy()
    )
    is_same = same_label & (now["image_digest"].to_numpy() == then["image_digest"].to_numpy())
    return pd.Series(~is_same, index=now.index)


def with_statistics(cohort: Cohort, now: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """`now` with the image statistics of a sample: those known already, and of the others up to `SAMPLED_CASES`."""
    columns = [column for column in before.columns if column not in IDENTITY]
    kept = before.set_index(["case_id", "image_digest"])[columns].dropna(how="all")
    described = now.join(kept, on=["case_id", "image_digest"])
    is_described = described[columns].notna().any(axis=1) if columns else pd.Series(False, index=now.index)
    is_known = now["case_id"].isin(before["case_id"])
    wanted = [*sampled(now[is_known], SAMPLED_CASES), *sampled(now[~is_known], SAMPLED_CASES)]
    missing = [case for case in wanted if not is_described[case]]
    rows = {}
    with progress("look at new images", len(missing)) as advance:
        for case in missing:
            rows[case] = image_statistics(cohort.image(case))
            advance(1, "")
    return described.combine_first(pd.DataFrame.from_dict(rows, orient="index")) if rows else described


def sampled(cases: pd.DataFrame, most: int) -> list[int]:
    """Up to `most` of the cases, always the same ones: the lowest by a hash of their id."""
    by_hash = cases["case_id"].map(lambda name: hashlib.sha256(name.encode()).hexdigest()).sort_values()
    return [int(case) for case in by_hash.index[:most]]


def cohort_drift(
    cohort: Cohort, described: pd.DataFrame, unseen: "pd.Index[int]", champion: str, config: DriftConfig
) -> DriftReport:
    """Do the unseen cases look like the known ones, and does the champion score them alike?"""
    from tasks.retraining.scores import champion_scores  # torch: seconds that a run without news saves

    statistics = [column for column in described.columns if column not in IDENTITY]
    is_unseen = described.index.isin(unseen)
    reference = {name: described.loc[~is_unseen, name].dropna().to_numpy(float) for name in statistics}
    new = {name: described.loc[is_unseen, name].dropna().to_numpy(float) for name in statistics}
    held_out = described[~is_unseen & described["split"].isin(["validation", "test"])]
    scores = champion_scores(cohort, champion, sampled(held_out, SAMPLED_CASES), sampled(described[is_unseen], 200))
    if scores is not None:
        reference[SCORE], new[SCORE] = scores
    return drift(reference, new, config)


def write_known(name: str, content: str, described: pd.DataFrame) -> Path:
    """What the next decision will carry, in a folder of its own in the workspace, appearing whole."""
    folder = current_workspace().root / "retraining" / name.replace("/", "-")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / KNOWN
    partial = folder / f".{content}"
    described.to_parquet(partial)
    return partial.replace(file)
