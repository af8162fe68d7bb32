"""Ingestion: a source of images into a cohort, each batch a transaction, what is broken set aside."""

from typing import Any

import pandas as pd
from prefect import task
from prefect.artifacts import create_table_artifact

from storage.cohort import Cohort
from storage.ingestion import IngestReport, ingest
from storage.sources import Source, open_source
from storage.splits import Fractions
from tasks.figures import contact_sheet
from tasks.progress import progress
from tasks.reporting import Section, publish_report
from tasks.tracking import tracked_run


@task(name="ingest-source", task_run_name="{source}")
def ingest_source(source: str, cohort: str, fractions: Fractions | None, **options: Any) -> dict[str, Any]:
    """Bring `cohort` up to date with `source`; counts of what happened and the cohort's snapshot."""
    opened = open_source(source, **options)
    with tracked_run("ingest", {"source": source, "cohort": cohort, "fractions": fractions, **options}) as run:
        report = _ingest_with_progress(opened, cohort, fractions)
        counts = {
            "added": report.added,
            "updated": report.updated,
            "known": report.known,
            "quarantined": len(report.quarantined),
            "broken": len(report.broken),
            "cases": len(Cohort.open(cohort)),
        }
        run.log_metrics(counts)
        run.tag(snapshot=report.snapshot, cohort=cohort)
        page = publish_report("ingest", run, f"Ingested {source}", sections(cohort, counts, report))
    if report.quarantined:
        rows = [{"file": r.file, "reason": r.reason} for r in report.quarantined]
        create_table_artifact(key="quarantine", table=rows, description=f"Set aside while ingesting {source}")
    return {**counts, "snapshot": report.snapshot, "cohort": cohort, "run_id": run.run_id, "report": str(page)}


def _ingest_with_progress(source: Source, cohort: str, fractions: Fractions | None) -> IngestReport:
    done = 0
    with progress("ingest", len(source.listing())) as advance:

        def moved(now: int, total: int) -> None:
            nonlocal done
            advance(now - done, "")
            done = now

        return ingest(source, cohort, fractions=fractions, on_progress=moved)


def sections(cohort: str, counts: dict[str, int], report: IngestReport) -> list[Section]:
    """The report of an ingestion: counts, splits and labels, a contact sheet, the quarantine."""
    opened = Cohort.open(cohort)
    table = opened.table
    parts = [Section("What happened", table=pd.DataFrame([counts]))]
    for label in opened.labels:
        crossed = table.groupby(label, dropna=False)["split"].value_counts().unstack(fill_value=0)
        parts.append(Section(f"Cases by {label} and split", table=crossed.reset_index()))
    if len(opened):
        parts.append(Section("Some of its cases", figure=contact_sheet(opened)))
    if len(opened.quarantine):
        parts.append(Section("Quarantine", table=opened.quarantine[["file", "reason"]]))
    return parts
