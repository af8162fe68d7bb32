"""`study`: what the features of lesions say of an outcome of their patients."""

from typing import Any

from prefect import flow

from models.outcome import Asked
from tasks.notifications import notified
from tasks.outcomes.study import study_outcome


@notified
@flow(name="study", flow_run_name="{features}: {outcome}")
def study(
    features: str,
    outcome: str | None = None,
    compare: str | None = None,
    time: str | None = None,
    event: str | None = None,
    harmonise: str | None = None,
    stability: str | None = None,
    splits: list[str] | None = None,
    settings: dict[str, Any] | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Judge `features` (the Parquet of radiomics) by nested cross-validation, beside those of `compare` where named.

    With an `outcome` the patients' class is predicted, without it their survival `time` until `event`.
    """
    chosen = settings or {}
    preserve = tuple(chosen.get("preserve", ())) if harmonise else ()
    asked = Asked(outcome, time, event, harmonise, preserve)
    return study_outcome(features, asked, compare, stability, splits or [], chosen, workers)
