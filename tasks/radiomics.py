"""Radiomics: features of every lesion, true or found, as one Parquet file with a data dictionary beside it.

Shards of cases are measured side by side and kept on disk; the file is put together from them, so that memory holds a
few shards and one group of rows, however many cases there are.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from prefect import task

from models.config import validated
from models.radiomics import (
    LesionConfig,
    RadiomicsConfig,
    StabilityConfig,
    VolumeRadiomicsConfig,
    data_dictionary,
    lesion_columns,
    with_preset,
)
from storage.cohort import Cohort
from storage.errors import CohortError
from tasks.clusters import shared_path
from tasks.failures import Failed, failed_cases, note_failures
from tasks.kept import Kept, kept_answers
from tasks.maps import detection_threshold, find_maps, maps_digest, selected_cases
from tasks.measuring import Regions, features_of_shard
from tasks.progress import progress
from tasks.reporting import Section, publish_report
from tasks.reuse import fingerprint, finished, remember
from tasks.shards import Outcome, cases_in_shard, raise_error, shard_outcomes, shards
from tasks.stability import STABLE, perturbed_features, reliability_table, sampled_lesions, write_reliability
from tasks.tracking.runs import tracked_run

SHARD = 24
SHARD_VOXELS = 1 << 20  # a lesion in a volume takes as long as dozens in an image: small shards keep all workers busy
ROW_GROUP = 1 << 15  # rows that are written at once
COUNTED = ["case_id", "lesion_class", "n_pixels", "reason"]


@task(name="radiomics-features", task_run_name="{cohort}")
def extract_features(
    cohort: str,
    maps: str | None,
    out: str,
    splits: list[str],
    threshold: float | None,
    settings: dict[str, Any],
    workers: int | None = None,
    with_stability: bool = False,
) -> dict[str, Any]:
    """Write `out` (Parquet), its data dictionary and, where asked for, stability; reused where nothing has changed."""
    opened = Cohort.open(cohort)
    config, stability = chosen_settings(opened, settings, with_stability)
    name = find_maps(opened, maps) if maps else None
    cases = with_regions(opened, name, selected_cases(opened, splits))
    made = maps_digest(opened, [name] if name else [])
    inputs: dict[str, Any] = {"cohort": opened.content_digest(), "maps": made, "cases": cases, "threshold": threshold}
    inputs |= {"stability": stability.model_dump() if stability else None}
    key = fingerprint("radiomics", config=config.model_dump(), out=str(Path(out).resolve()), **inputs)
    if known := finished("radiomics", key):
        return {**known, "reused": True}
    limit, rule = (
        (threshold, "given") if threshold is not None or not name else detection_threshold(opened, name, workers)
    )
    regions, keep = Regions(shared_path(cohort), opened.snapshot, name, limit), kept_answers("radiomics", key)
    with tracked_run("radiomics", {"cohort": cohort, "maps": name, "threshold": limit, **config.model_dump()}) as run:
        done, failed = measure_shards(regions, opened, cases, config, workers, keep)
        schema = table_schema(opened.labels, regions, config)
        files = [write_features(Path(out), kept_tables(keep, done, schema), schema)]
        again = kept_answers("radiomics-stability", key)
        reliability, unstable = measure_stability(regions, opened, files[0], config, stability, workers, again)
        files += write_explanations(Path(out), config, reliability)
        failed += unstable
        for file in files:
            run.log_file(file, "features")
        table = counted_rows(files[0])
        answer = {"cohort": regions.cohort, **summary(table, regions, rule, config), **stable_counts(reliability)}
        answer |= {"failed": failed, "file": str(files[0]), "run_id": run.run_id}
        run.log_metrics(answer)
        note_failures(run, failed)
        run.tag(snapshot=opened.snapshot)
        page = publish_report("radiomics", run, f"Radiomics of {cohort}", sections(table, answer, reliability))
    answer |= {"report": str(page)}
    if failed:
        return answer
    keep.clear()
    again.clear()
    return remember("radiomics", key, answer, files)


def chosen_settings(
    cohort: Cohort, settings: dict[str, Any], with_stability: bool
) -> tuple[LesionConfig, StabilityConfig | None]:
    """How lesions of this cohort are measured, and perturbed where that is asked for or has settings.

    Raises:
        ModelError: a setting or preset that does not exist, or does not fit images (volumes).
    """
    own = with_preset(settings)
    wanted = own.pop("stability", None)
    volumetric = len(cohort.dims) == 3
    if volumetric and own.get("channel") in cohort.channels:
        own["channel"] = cohort.channels.index(own["channel"])
    config: LesionConfig = (
        validated(VolumeRadiomicsConfig, own, where="--set")
        if volumetric
        else validated(RadiomicsConfig, own, where="--set")
    )
    if wanted is None and not with_stability:
        return config, None
    return config, validated(StabilityConfig, wanted or {}, where="--set stability")


def with_regions(cohort: Cohort, maps: str | None, cases: list[int]) -> list[int]:
    """The cases that have masks, or a map."""
    having = set(map(int, cohort.maps(maps).indices)) if maps else set(np.flatnonzero(cohort.table["has_masks"]))
    return [case for case in cases if case in having]


def measure_shards(
    regions: Regions, cohort: Cohort, cases: list[int], config: LesionConfig, workers: int | None, keep: Kept
) -> tuple[list[list[int]], Failed]:
    """Measure shards side by side; the parts of the cohort that are now kept, in case order, and what failed.

    Raises:
        Exception: not one case could be done, for what its error says.
    """
    size = shard_size(cohort, cases)
    parts = list(shards(cases, size))
    done: list[Outcome] = []
    lost: list[Outcome] = []
    with progress("radiomics", len(cases)) as advance:
        function = partial(features_of_shard, regions, config)
        for outcome in shard_outcomes(function, parts, workers=workers, keep=keep, apart=True):
            (lost if outcome.error else done).append(Outcome(outcome.position, outcome.part, error=outcome.error))
            advance(len(outcome.part), "")
    if lost and not done:
        raise_error(lost[0])
    return sorted(outcome.part for outcome in done), failed_cases(cohort, lost)


def shard_size(cohort: Cohort, cases: list[int]) -> int:
    """How many cases are measured at a time, whatever the number of workers, so that kept answers fit the next run."""
    pixels = int(np.prod(cohort.shape(cases[0]))) if cases else 1
    return cases_in_shard(pixels, SHARD, SHARD_VOXELS) if len(cohort.dims) == 3 else cases_in_shard(pixels, SHARD)


def measure_stability(
    regions: Regions,
    cohort: Cohort,
    features: Path,
    config: LesionConfig,
    stability: StabilityConfig | None,
    workers: int | None,
    keep: Kept,
) -> tuple[pd.DataFrame | None, Failed]:
    """How stable each feature is under perturbation of the measured lesions, and what failed; None if not asked for."""
    if stability is None:
        return None, []
    lesions = sampled_lesions(features, cohort, stability)
    measured, failed = perturbed_features(regions, cohort, lesions, config, stability, workers, keep)
    return reliability_table(measured, config, stability), failed


def table_schema(labels: Sequence[str], regions: Regions, config: LesionConfig) -> pa.Schema:
    """The columns of the file, and how it was made as pandas keeps that (`DataFrame.attrs`)."""
    kinds = {name: pa.string() for name in ("case_id", "patient_id", "split", "lesion_class", "units", "reason")}
    kinds |= {name: pa.int64() for name in ("lesion", "n_pixels")}
    names = ["case_id", "patient_id", "split", *labels, *lesion_columns(config)]
    made: dict[str, Any] = {"snapshot": regions.snapshot, "maps": regions.maps, "threshold": regions.threshold}
    made["settings"] = config.model_dump(mode="json")
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in names])
    return schema.with_metadata({"PANDAS_ATTRS": json.dumps(made)})


def kept_tables(keep: Kept, parts: Sequence[list[int]], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of `parts`, in their order, ROW_GROUP or a few more at a time."""
    waiting = [schema.empty_table()]
    for part in parts:
        answer = keep.read(part)
        if answer is None:
            raise CohortError(f"{keep.folder} has lost what was measured of cases {part[0]} … {part[-1]}; start again")
        if len(answer[0]):
            waiting.append(pa.Table.from_pandas(answer[0], schema, preserve_index=False))
        if sum(table.num_rows for table in waiting) >= ROW_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def write_features(out: Path, tables: Iterator[pa.Table], schema: pa.Schema) -> Path:
    """The Parquet file, which appears whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial_table = out.with_name(f".{out.name}")
    with pq.ParquetWriter(partial_table, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=2 * ROW_GROUP)
    partial_table.replace(out)
    return out


def write_explanations(out: Path, config: LesionConfig, reliability: pd.DataFrame | None) -> list[Path]:
    """`<out>.dictionary.csv`, and where stability was measured its columns there and `<out>.stability.csv`."""
    dictionary, table, files = out.with_suffix(".dictionary.csv"), data_dictionary(config), []
    if reliability is not None:
        files.append(write_reliability(out, reliability))
        table = table.merge(reliability[["name", "icc", "icc_low", "icc_high"]], on="name", how="left")
    partial_dictionary = dictionary.with_name(f".{dictionary.name}")
    table.to_csv(partial_dictionary, index=False)
    partial_dictionary.replace(dictionary)
    return [dictionary, *files]


def counted_rows(file: Path) -> pd.DataFrame:
    """Of every row what the summary and the report count."""
    return pd.read_parquet(file, columns=COUNTED)


def summary(table: pd.DataFrame, regions: Regions, rule: str, config: LesionConfig) -> dict[str, Any]:
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


def stable_counts(reliability: pd.DataFrame | None) -> dict[str, Any]:
    """How many features are surely stable (lower end of the interval), where that was measured."""
    if reliability is None:
        return {}
    stable = int((reliability["icc_low"] >= STABLE).sum())
    return {"stable": stable, "perturbed_lesions": int(reliability["lesions"].max())}


def sections(table: pd.DataFrame, answer: dict[str, Any], reliability: pd.DataFrame | None = None) -> list[Section]:
    """The report: counts, a few features by lesion class, why gaps are there, which features are least stable."""
    counts = {key: value for key, value in answer.items() if key != "failed"}
    parts = [Section("What was measured", table=pd.DataFrame([counts]))]
    if answer["failed"]:
        parts.append(Section("What could not be measured", table=pd.DataFrame(answer["failed"])))
    if table.empty:
        return parts
    sizes = table.groupby("lesion_class")["n_pixels"].describe().reset_index()
    parts.append(Section("Region size in pixels by class", table=sizes))
    gaps = table.loc[table["reason"] != "", "reason"].value_counts().head(12)
    if len(gaps):
        parts.append(Section("Why features are missing", table=gaps.rename("rows").reset_index()))
    if reliability is not None:
        least = reliability.sort_values("icc", na_position="first").head(12)
        parts.append(Section("Least stable under perturbation", table=least))
    return parts
