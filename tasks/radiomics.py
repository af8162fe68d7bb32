"""Radiomics: features of every lesion, true or found, as one Parquet file with a data dictionary beside it."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from prefect import task

from models.config import validated
from models.radiomics import RadiomicsConfig, data_dictionary, features_of_case
from storage.cohort import Cohort
from storage.maps import Maps
from tasks.maps import detection_threshold, find_maps, maps_digest, selected_cases
from tasks.progress import progress
from tasks.reporting import Section, publish_report
from tasks.reuse import fingerprint, finished, remember
from tasks.shards import map_shards, shards
from tasks.tracking.runs import tracked_run

SHARD = 24
FOUND = "found"


@dataclass(frozen=True)
class Regions:
    """Where the lesions come from: the cohort's masks, or a map set above a threshold."""

    cohort: str
    snapshot: str
    maps: str | None
    threshold: float | None


@task(name="radiomics-features", task_run_name="{cohort}")
def extract_features(
    cohort: str, maps: str | None, out: str, splits: list[str], threshold: float | None, settings: dict[str, Any]
) -> dict[str, Any]:
    """Write `out` (Parquet) and its data dictionary; reused where nothing has changed."""
    opened, config = Cohort.open(cohort), validated(RadiomicsConfig, settings, where="--set")
    name = find_maps(opened, maps) if maps else None
    cases = with_regions(opened, name, selected_cases(opened, splits))
    made = maps_digest(opened, [name] if name else [])
    inputs = {"cohort": opened.content_digest(), "maps": made, "cases": cases, "threshold": threshold}
    key = fingerprint("radiomics", config=config.model_dump(), out=str(Path(out).resolve()), **inputs)
    if known := finished("radiomics", key):
        return {**known, "reused": True}
    limit, rule = (threshold, "given") if threshold is not None or not name else detection_threshold(opened, name)
    regions = Regions(cohort, opened.snapshot, name, limit)
    with tracked_run("radiomics", {"cohort": cohort, "maps": name, "threshold": limit, **config.model_dump()}) as run:
        table = feature_table(regions, cases, config)
        files = write_features(Path(out), table, regions, config)
        for file in files:
            run.log_file(file, "features")
        answer = summary(table, regions, rule, config) | {"file": str(files[0]), "run_id": run.run_id}
        run.log_metrics(answer)
        run.tag(snapshot=opened.snapshot)
        page = publish_report("radiomics", run, f"Radiomics of {cohort}", sections(table, answer))
    return remember("radiomics", key, {**answer, "report": str(page)}, files)


def with_regions(cohort: Cohort, maps: str | None, cases: list[int]) -> list[int]:
    """The cases that have masks, or a map."""
    having = set(map(int, cohort.maps(maps).indices)) if maps else None
    return [case for case in cases if (case in having if having is not None else cohort.table.at[case, "has_masks"])]


def feature_table(regions: Regions, cases: list[int], config: RadiomicsConfig) -> pd.DataFrame:
    """One row a lesion and one a case, in case order; shards run side by side."""
    parts = list(shards(cases, SHARD))
    tables: dict[int, pd.DataFrame] = {}
    with progress("radiomics", len(cases)) as advance:
        for position, table in map_shards(partial(features_of_shard, regions, config), parts):
            tables[position] = table
            advance(len(parts[position]), "")
    return pd.concat([tables[position] for position in sorted(tables)], ignore_index=True) if tables else pd.DataFrame()


def features_of_shard(regions: Regions, config: RadiomicsConfig, cases: list[int]) -> pd.DataFrame:
    """The rows of some cases; runs in a Dask worker."""
    cohort = Cohort.open(regions.cohort, regions.snapshot)
    maps = cohort.maps(regions.maps) if regions.maps else None
    rows = []
    for case in cases:
        masks = found_or_true(cohort, maps, case, regions.threshold)
        known = cohort.table.loc[case].to_dict()
        identity = {"case_id": known["case_id"], "patient_id": known["patient_id"], "split": known["split"]}
        labels = {label: known[label] for label in cohort.labels}
        y, x = cohort.spacing(case)[-2:]
        for row in features_of_case(cohort.image(case), masks, (y, x), config):
            rows.append({**identity, **labels, **row})
    return pd.DataFrame(rows)


def found_or_true(cohort: Cohort, maps: Maps | None, case: int, threshold: float | None) -> dict[str, np.ndarray]:
    """Masks by lesion class: the map at or above the threshold as one class, `found`, or the cohort's own."""
    if maps is not None:
        return {FOUND: maps.saliency(case) >= threshold}
    return dict(zip(cohort.lesions, cohort.masks(case), strict=True))


def write_features(out: Path, table: pd.DataFrame, regions: Regions, config: RadiomicsConfig) -> list[Path]:
    """The Parquet file and `<out>.dictionary.csv`, each appearing whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    dictionary = out.with_suffix(".dictionary.csv")
    partial_table, partial_dictionary = out.with_name(f".{out.name}"), dictionary.with_name(f".{dictionary.name}")
    table.attrs = {"snapshot": regions.snapshot, "maps": regions.maps, "threshold": regions.threshold}
    table.attrs |= {"settings": config.model_dump(mode="json")}
    table.to_parquet(partial_table)
    data_dictionary(config).to_csv(partial_dictionary, index=False)
    partial_table.replace(out)
    partial_dictionary.replace(dictionary)
    return [out, dictionary]


def summary(table: pd.DataFrame, regions: Regions, rule: str, config: RadiomicsConfig) -> dict[str, Any]:
    """Counts for the table and the report."""
    features = data_dictionary(config)["name"].tolist()
    failed = int((table["reason"] != "").sum()) if len(table) else 0
    return {
        "rows": len(table),
        "cases": int(table["case_id"].nunique()) if len(table) else 0,
        "features": len(features),
        "rows_with_gaps": failed,
        "regions": regions.maps or "masks",
        "threshold": regions.threshold,
        "threshold_rule": rule if regions.maps else "",
    }


def sections(table: pd.DataFrame, answer: dict[str, Any]) -> list[Section]:
    """The report: counts, a few features by lesion class, why gaps are there."""
    parts = [Section("What was measured", table=pd.DataFrame([answer]))]
    if table.empty:
        return parts
    sizes = table.groupby("lesion_class")["n_pixels"].describe().reset_index()
    parts.append(Section("Region size in pixels by class", table=sizes))
    gaps = table.loc[table["reason"] != "", "reason"].value_counts().head(12)
    if len(gaps):
        parts.append(Section("Why features are missing", table=gaps.rename("rows").reset_index()))
    return parts
