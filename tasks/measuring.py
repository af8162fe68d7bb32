"""Features of the lesions of a shard of cases: what a Dask worker loads, so neither Prefect nor MLflow."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from models.radiomics import LesionConfig, StabilityConfig, features_of_case, perturbed_lesions
from storage.cohort import Cohort
from storage.maps import Maps
from tasks.opened import maps_once, opened_once

FOUND = "found"


@dataclass(frozen=True)
class Regions:
    """Where the lesions come from: the cohort's masks, or a map set above a threshold."""

    cohort: str
    snapshot: str
    maps: str | None
    threshold: float | None


def features_of_shard(regions: Regions, config: LesionConfig, cases: list[int]) -> pd.DataFrame:
    """The rows of some cases; runs in a Dask worker."""
    cohort = opened_once(regions.cohort, regions.snapshot)
    maps = maps_once(regions.cohort, regions.snapshot, regions.maps) if regions.maps else None
    rows = []
    for case in cases:
        masks = found_or_true(cohort, maps, case, regions.threshold)
        known = cohort.table.loc[case].to_dict()
        identity = {"case_id": known["case_id"], "patient_id": known["patient_id"], "split": known["split"]}
        labels = {label: known[label] for label in cohort.labels}
        for row in features_of_case(cohort.image(case), masks, cohort.spacing(case), config):
            rows.append({**identity, **labels, **row})
    return pd.DataFrame(rows)


def perturbed_shard(
    regions: Regions,
    config: LesionConfig,
    stability: StabilityConfig,
    wanted: Mapping[int, Sequence[int]],
    cases: list[int],
) -> pd.DataFrame:
    """Features of the `wanted` lesions of some cases, a row a perturbation; runs in a Dask worker."""
    cohort = opened_once(regions.cohort, regions.snapshot)
    maps = maps_once(regions.cohort, regions.snapshot, regions.maps) if regions.maps else None
    rows = []
    for case in cases:
        masks = found_or_true(cohort, maps, case, regions.threshold)
        case_id = str(cohort.table["case_id"].loc[case])
        part = (cohort.image(case), masks, cohort.spacing(case), wanted[case])
        # chance goes by the case's name, so that a cohort that grows perturbs its old cases as before
        for row in perturbed_lesions(*part, config, stability, seed=zlib.crc32(case_id.encode())):
            rows.append({"case_id": case_id, **row})
    return pd.DataFrame(rows)


def found_or_true(cohort: Cohort, maps: Maps | None, case: int, threshold: float | None) -> dict[str, np.ndarray]:
    """Masks by lesion class: the map at or above the threshold as one class, `found`, or the cohort's own."""
    if maps is not None:
        return {FOUND: maps.saliency(case) >= threshold}
    return dict(zip(cohort.lesions, cohort.masks(case), strict=True))
