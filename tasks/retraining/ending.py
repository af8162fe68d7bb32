"""What a retraining leaves: a run in MLflow with a report, and the record by which the next one knows that all is done.

A retraining that found nothing to do leaves neither.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import task

from storage.cohort import Cohort
from tasks.reporting import Section, publish_report
from tasks.retraining.news import CONTENT_TAG, NAME_TAG, News
from tasks.retraining.reasons import Reason
from tasks.reuse import fingerprint, finished, remember
from tasks.tracking.runs import tracked_run

STEP = "retrain"


def ending_key(cohort: str, name: str, champion: int | None, settings: dict[str, Any]) -> str:
    """What a finished retraining is known by: the cases, the champion, and how its maps are made and measured."""
    content = Cohort.open(cohort).content_digest()
    return fingerprint(
        STEP, cohort=str(Path(cohort).resolve()), name=name, champion=champion, content=content, **settings
    )


def all_done(cohort: str, key: str) -> dict[str, Any] | None:
    """How the retraining of this key ended, if each case still has the champion's map, and the features are there."""
    known = finished(STEP, key)
    if known is None or known["failed"]:
        return None
    opened = Cohort.open(cohort)
    names = opened.map_names()
    is_whole = all(name in names and len(opened.maps(name)) == len(opened) for name in known["maps"])
    return known if is_whole else None


@task(name="conclude-retraining", task_run_name="conclude {name}")
def conclude(
    name: str,
    key: str,
    cohort: str,
    news: News,
    reason: Reason,
    taken: dict[str, Any],
    decided: dict[str, Any] | None,
    champion: int | None,
    steps: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """Record what was done, with a page that leads to the pages of its steps; the answer of the retraining."""
    located, measured = steps["localize"], steps["radiomics"]
    answer = {
        "cohort": str(Path(cohort).resolve()),
        "status": status_of(decided),
        "why": decided["reason"] if decided else reason.why,
        "trained": reason.trains,
        "reason_to_train": reason.why,
        "champion": champion,
        "added": taken.get("added", 0),
        "updated": taken.get("updated", 0),
        "fresh": news.fresh,
        "corrected": news.corrected,
        "localized": located["new"],
        "maps": located["maps"],
        "features": measured["file"],
        "failed": [*located.get("failed", []), *measured.get("failed", [])],
        "decision_run": decided["run_id"] if decided else None,
    }
    with tracked_run(STEP, {"cohort": cohort, "name": name}) as run:
        run.tag(registered=name, status=answer["status"], cohort=cohort)
        if reason.trains:
            run.tag(**{NAME_TAG: name, CONTENT_TAG: news.content})
            run.log_file(news.known_file)
        run.log_metrics(answer)
        run.log_json(answer, "retrain.json")
        reports = {step: done["report"] for step, done in {**steps, "ingest": taken}.items() if done.get("report")}
        page = publish_report(STEP, run, f"Retraining of {name}", sections(answer, news, reports, decided))
    answer |= {"run_id": run.run_id, "report": str(page)}
    return remember(STEP, key, answer, [Path(answer["features"]), page])


def status_of(decided: dict[str, Any] | None) -> str:
    """In a word; a decision of an earlier run is no news."""
    return "brought up to date" if decided is None or decided["reused"] else str(decided["decision"])


def sections(
    answer: dict[str, Any], news: News, reports: dict[str, str], decided: dict[str, Any] | None
) -> list[Section]:
    """What happened, why, whether the new images look different, and where to read on."""
    facts = {key: answer[key] for key in ("status", "champion", "added", "updated", "fresh", "corrected", "localized")}
    parts = [Section("What happened", f"{answer['reason_to_train']}. {answer['why']}", table=pd.DataFrame([facts]))]
    if news.drift is not None:
        parts.append(Section("Do the new cases look different?", news.drift.reason, table=drift_table(news)))
    if answer["failed"]:
        parts.append(Section("What failed", table=pd.DataFrame(answer["failed"])))
    pages = reports | ({"decision": decided["report"]} if decided and decided.get("report") else {})
    parts.append(Section("Reports of the steps", table=pd.DataFrame(pages.items(), columns=["step", "page"])))
    return parts


def drift_table(news: News) -> pd.DataFrame:
    """A row a statistic."""
    assert news.drift is not None
    return pd.DataFrame([asdict(row) for row in news.drift.rows.values()])
