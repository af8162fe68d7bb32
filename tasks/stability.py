"""Stability of radiomics: a sample of the lesions perturbed and measured again, an intraclass correlation a feature."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from models.metrics.reliability import intraclass_correlation
from models.radiomics import LesionConfig, StabilityConfig, columns
from storage.cohort import Cohort
from tasks.failures import Failed, failed_cases
from tasks.kept import Kept
from tasks.measuring import Regions, perturbed_shard
from tasks.progress import progress
from tasks.shards import Outcome, cases_in_shard, raise_error, shard_outcomes, shards

SHARD = 4
STABLE = 0.75  # good reliability from here on: Koo and Li, J Chiropr Med 2016;15:155–163


def sampled_lesions(features: Path, cohort: Cohort, stability: StabilityConfig) -> dict[int, list[int]]:
    """Numbers of the lesions to perturb by case: all of the table, or as many as wanted, drawn evenly."""
    table = pd.read_parquet(features, columns=["case_id", "lesion"], filters=[("lesion", ">", 0)])
    if len(table) > stability.lesions:
        drawn = np.random.default_rng(stability.seed).choice(len(table), stability.lesions, replace=False)
        table = table.iloc[np.sort(drawn)]
    places = {case_id: case for case, case_id in enumerate(cohort.table["case_id"])}
    chosen: dict[int, list[int]] = {}
    for case_id, lesion in zip(table["case_id"], table["lesion"], strict=True):
        chosen.setdefault(places[case_id], []).append(int(lesion))
    return chosen


def perturbed_features(
    regions: Regions,
    cohort: Cohort,
    lesions: dict[int, list[int]],
    config: LesionConfig,
    stability: StabilityConfig,
    workers: int | None,
    keep: Kept,
) -> tuple[pd.DataFrame, Failed]:
    """The features of every lesion under every perturbation, and what failed.

    Raises:
        Exception: not one case could be done, for what its error says.
    """
    cases = sorted(lesions)
    size = cases_in_shard(int(np.prod(cohort.shape(cases[0]))) if cases else 1, SHARD)
    tables: list[pd.DataFrame] = []
    lost: list[Outcome] = []
    with progress("stability", len(cases)) as advance:
        function = partial(perturbed_shard, regions, config, stability, lesions)
        for outcome in shard_outcomes(function, list(shards(cases, size)), workers=workers, keep=keep, apart=True):
            if outcome.error is None:
                tables.append(outcome.answer)
            else:
                lost.append(outcome)
            advance(len(outcome.part), "")
    if lost and not tables:
        raise_error(lost[0])
    empty = pd.DataFrame(columns=["case_id", "lesion", "perturbation", *columns(config)])
    return pd.concat(tables) if tables else empty, failed_cases(cohort, lost)


def reliability_table(measured: pd.DataFrame, config: LesionConfig, stability: StabilityConfig) -> pd.DataFrame:
    """`name, icc, icc_low, icc_high, lesions` of each feature; lesions in which it is undefined take no part."""
    ordered = measured.sort_values(["case_id", "lesion", "perturbation"])
    rows = []
    for name in columns(config):
        ratings = ordered[name].to_numpy(np.float64).reshape(-1, stability.perturbations)
        rows.append((name, *intraclass_correlation(ratings, stability.icc)))
    return pd.DataFrame(rows, columns=["name", "icc", "icc_low", "icc_high", "lesions"])


def write_reliability(out: Path, table: pd.DataFrame) -> Path:
    """`<out>.stability.csv`, which appears whole."""
    file = out.with_suffix(".stability.csv")
    partial_file = file.with_name(f".{file.name}")
    table.to_csv(partial_file, index=False)
    partial_file.replace(file)
    return file
