"""Checking a cohort: every pixel against its digest, and what could be mended."""

from collections.abc import Mapping
from typing import Any

from prefect import task

from storage.check import CheckReport, check, expire, megabytes, repair
from storage.sources import Source
from tasks.ingestion import opened_source
from tasks.progress import progress
from tasks.tracking.runs import tracked_run


@task(name="check-cohort", task_run_name="{cohort}")
def check_cohort(cohort: str, mend: bool, expire_days: int | None) -> dict[str, Any]:
    """Read all of a cohort; mend it and forget old snapshots where asked to."""
    with tracked_run("check", {"cohort": cohort, "repair": mend, "expire_days": expire_days}) as run:
        report = read_all(cohort, mend)
        forgotten, freed = expire(cohort, expire_days) if expire_days is not None else (0, 0)
        answer = {
            "cohort": cohort,
            "snapshot": report.snapshot,
            "cases": report.cases,
            "maps": report.maps,
            "megabytes": megabytes(report.bytes),
            "damaged": [str(damage) for damage in report.damaged],
            "repaired": report.repaired,
            "lost": report.lost,
            "snapshots_forgotten": forgotten,
            "freed_megabytes": megabytes(report.freed_bytes + freed),
        }
        counts = {"damaged": len(report.damaged), "repaired": len(report.repaired), "lost": len(report.lost)}
        run.log_metrics({"cases": report.cases, "maps": report.maps, **counts})
        run.tag(snapshot=report.snapshot, cohort=cohort)
    return {**answer, "run_id": run.run_id}


def read_all(cohort: str, mend: bool) -> CheckReport:
    """`storage.check` with its progress shown."""
    with progress("check", 100) as advance:
        shown = 0

        def moved(done: int, total: int) -> None:
            nonlocal shown
            now = 100 * done // total
            if now > shown:
                advance(now - shown, "")
                shown = now

        return repair(cohort, reopened, moved) if mend else check(cohort, moved)


def reopened(origin: Mapping[str, Any]) -> Source:
    """A source as it was opened when a cohort was made from it."""
    return opened_source(origin["address"], dict(origin["options"]))[0]
