"""Ingestion: a source of images into a cohort, each shard a transaction, what is broken set aside."""

import hashlib
import hmac
import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import task
from prefect.artifacts import create_table_artifact

from storage.case import Rejected
from storage.cohort import Cohort
from storage.ingestion import (
    IngestReport,
    Intake,
    begin,
    brings_news,
    concluded,
    ingest_in_threads,
    read_shard,
    record_shard,
)
from storage.sources import Source, open_source
from storage.splits import Fractions
from tasks.clusters import names_cluster
from tasks.figures import contact_sheet
from tasks.progress import Advance, progress
from tasks.reporting import Section, publish_report
from tasks.shards import chain_shards
from tasks.tracking.runs import tracked_run
from tasks.workspace import current_workspace, identity_key

WORTH_A_CLUSTER = 4  # shards: starting processes takes as long as reading two of them


@task(name="ingest-source", task_run_name="{address}")
def ingest_source(
    address: str,
    cohort: str,
    fractions: Fractions | None,
    dtype: str | None,
    workers: int | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Bring `cohort` up to date with the source at `address`; counts of what happened and the cohort's snapshot."""
    opened, origin = opened_source(address, options)
    with tracked_run("ingest", {"address": address, "cohort": cohort, "fractions": fractions, **options}) as run:
        begun = begin(opened, cohort, fractions, origin, dtype=dtype)
        report = ingest_with_progress(begun, workers or os.cpu_count() or 1)
        counts = {
            "added": report.added,
            "updated": report.updated,
            "known": report.known,
            "quarantined": len(report.quarantined),
            "broken": len(report.broken),
            "cases": len(Cohort.open(cohort)),
        }
        tell_where(opened, report.broken)
        run.log_metrics(counts)
        run.tag(snapshot=report.snapshot, cohort=cohort)
        page = publish_report("ingest", run, f"Ingested {address}", sections(cohort, counts, report))
    if report.quarantined:
        rows = [{"file": r.file, "reason": r.reason} for r in report.quarantined]
        create_table_artifact(key="quarantine", table=rows, description=f"Set aside while ingesting {address}")
    return {**counts, "snapshot": report.snapshot, "cohort": cohort, "run_id": run.run_id, "report": str(page)}


@task(name="look-for-news", task_run_name="look into {address}")
def look_for_news(address: str, cohort: str, options: dict[str, Any]) -> bool:
    """Whether the source at `address` has anything that `cohort` has not; a cohort that is not there has nothing."""
    opened, origin = opened_source(address, options)
    return brings_news(begin(opened, cohort, None, origin))


def known_options(address: str, cohort: str) -> dict[str, Any]:
    """The options with which `cohort` was last filled from `address`; none where it never was."""
    origins = Cohort.open(cohort).origins if Cohort.exists(cohort) else []
    where = address if address.startswith("sim:") else str(Path(address).resolve())
    matching = [dict(origin["options"]) for origin in origins if origin.get("address") == where]
    return matching[-1] if matching else {}


def tell_where(source: Source, broken: list[Rejected]) -> None:
    """Where a DICOM series lies that was set aside: on the terminal alone, for a path may name a patient."""
    if source.name == "dicom":
        for rejected in broken:
            print(f"{rejected.file} is {source.where(rejected)}", file=sys.stderr)  # type: ignore[attr-defined]


def opened_source(address: str, options: dict[str, Any]) -> tuple[Source, dict[str, Any]]:
    """The source, and how to open it again: what a repair needs, without the secret that hashes patient ids."""
    given = {name: value for name, value in options.items() if value is not None}
    key, place = identity_key(), current_workspace().root / "unpacked"
    source = open_source(address, id_key=key, unpack_into=place, **given)
    where = address if address.startswith("sim:") else str(Path(address).resolve())
    origin: dict[str, Any] = {"address": where, "options": given}
    if source.name == "dicom" and not given.get("keep_identifiers"):
        origin["pseudonyms"] = hmac.new(key, b"lesionflow key", hashlib.sha256).hexdigest()[:16]
    return source, origin


def ingest_with_progress(intake: Intake, workers: int) -> IngestReport:
    """In threads of this process, or in those of a Dask cluster where that is worth its start."""
    done = 0
    with progress("ingest", len(intake.source.listing())) as advance:

        def moved(now: int, total: int) -> None:
            nonlocal done
            advance(now - done, "")
            done = now

        if names_cluster() or (workers > 1 and len(intake.shards()) >= WORTH_A_CLUSTER):
            return ingest_on_cluster(intake, workers, advance)
        return ingest_in_threads(intake, workers, moved)


def ingest_on_cluster(intake: Intake, workers: int, advance: Advance) -> IngestReport:
    """Shards are read in Dask's processes and recorded in the order of the listing."""
    shards, report = intake.shards(), IngestReport(snapshot=intake.base)
    answers = chain_shards(intake, shards, read_shard, record_shard, report, workers)
    for places, answer in zip(shards, answers, strict=True):
        report = answer
        advance(len(places), "")
    return concluded(intake, report)


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
