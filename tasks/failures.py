"""What could not be done while the rest went on: by case id, with the reason, in the answer and in MLflow."""

from collections.abc import Iterable, Sequence
from typing import Any

from storage.cohort import Cohort
from tasks.progress import Advance
from tasks.shards import Outcome
from tasks.tracking.runs import TrackedRun

Failed = list[dict[str, Any]]


def failures(outcomes: Iterable[Outcome], advance: Advance) -> list[Outcome]:
    """Follow `outcomes` to their end; those that failed for good."""
    lost = []
    for outcome in outcomes:
        advance(len(outcome.part), "")
        if outcome.error is not None:
            lost.append(outcome)
    return lost


def failed_cases(cohort: Cohort, lost: Sequence[Outcome]) -> Failed:
    """{"cases": [case ids], "reason": one line} of each shard, or case, that failed; parts are positions of cases."""
    ids = cohort.table["case_id"]
    ordered = sorted(lost, key=lambda outcome: outcome.part)
    return [{"cases": [str(ids.iloc[case]) for case in one.part], "reason": one.reason} for one in ordered]


def note_failures(run: TrackedRun, failed: Failed) -> None:
    """Log how many cases failed, and where there are any `failed.json`."""
    run.log_metrics({"failed": sum(len(one["cases"]) for one in failed)})
    if failed:
        run.log_json(failed, "failed.json")
