"""`localize`: a lesion map for every case of a cohort, by a trained model."""

from typing import Any

from prefect import flow

from tasks.localization import Method, localize_refined, localize_saliency
from tasks.notifications import notified
from tasks.tracking.registry import locate_model


@notified
@flow(name="localize", flow_run_name="{cohort}")
def localize(
    cohort: str,
    model: str,
    method: Method = "iterative-refinement",
    saliency: str | None = None,
    splits: list[str] | None = None,
    settings: dict[str, Any] | None = None,
    batch_size: int = 32,
    cases: list[str] | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Write the maps that are missing; `saliency` names the method itself, or what drives the refinement loop.

    `cases` are the ids of the only cases to do; `workers` processes do them, by default as many as are worth it.
    """
    folder, chosen = str(locate_model(model)), dict(settings or {})
    if method == "saliency":
        named = saliency or "guided_backprop"
        return localize_saliency(cohort, folder, splits or [], named, chosen, batch_size, cases, workers)
    if saliency:
        chosen["saliency"] = saliency
    return localize_refined(cohort, folder, splits or [], chosen, batch_size, cases, workers)
