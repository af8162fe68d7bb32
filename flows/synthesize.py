"""`synthesize`: a cohort of images that a trained model makes after those of another."""

from typing import Any

from prefect import flow

from tasks.notifications import notified
from tasks.synthesis import synthesize_cohort
from tasks.tracking.registry import locate_model


@notified
@flow(name="synthesize", flow_run_name="{cohort} → {out}")
def synthesize(
    model: str, cohort: str, out: str, splits: list[str] | None = None, per_case: int = 1, seed: int = 0
) -> dict[str, Any]:
    """Make `per_case` images after each case of the splits (none named: all); those that `out` has are left alone."""
    return synthesize_cohort(str(locate_model(model)), cohort, out, splits or [], per_case, seed)
