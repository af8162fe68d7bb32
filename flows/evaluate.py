"""`evaluate`: maps against a person's or a phantom's masks."""

from typing import Any, Literal

from prefect import flow

from tasks.evaluation import evaluate_maps
from tasks.notifications import notified


@notified
@flow(name="evaluate", flow_run_name="{cohort}")
def evaluate(
    cohort: str,
    maps: list[str],
    lesions: list[str] | None = None,
    split: str = "test",
    resamples: int = 1000,
    seed: int = 0,
    workers: int | None = None,
    evaluated: Literal["all", "lesions"] = "all",
    model: str | None = None,
    by: str | None = None,
) -> dict[str, Any]:
    """Every metric with its interval for each of `maps`, and the difference of the first from each other one.

    `evaluated` says whether all annotated cases count, or those with lesions alone. With the `model` that made
    the maps, they are also tested for faithfulness to it. `by` is a label whose values are also judged one by one.
    """
    return evaluate_maps(cohort, maps, lesions or [], split, resamples, seed, workers, evaluated, model, by)
