"""`radiomics`: features of every lesion into one Parquet file."""

from typing import Any

from prefect import flow

from tasks.notifications import notified
from tasks.radiomics import extract_features


@notified
@flow(name="radiomics", flow_run_name="{cohort}")
def radiomics(
    cohort: str,
    out: str,
    maps: str | None = None,
    splits: list[str] | None = None,
    threshold: float | None = None,
    settings: dict[str, Any] | None = None,
    workers: int | None = None,
    stability: bool = False,
) -> dict[str, Any]:
    """Measure the cohort's own masks, or, where `maps` is named, the lesions found in those maps.

    `stability` also perturbs a sample of them and says how stable each feature is.
    """
    return extract_features(cohort, maps, out, splits or [], threshold, settings or {}, workers, stability)
