"""Features of the lesions of a shard of cases: what a Dask worker loads, so neither Prefect nor MLflow."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from models.radiomics import RadiomicsConfig, features_of_case
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


def features_of_shard(regions: Regions, config: RadiomicsConfig, cases: list[int]) -> pd.DataFrame:
    """The rows of some cases; runs in a Dask worker."""
    cohort = opened_once(regions.cohort, regions.snapshot)
    maps = maps_once(regions.cohort, regions.snapshot, regions.maps) if regions.maps else None
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
