"""The page of a decision: what was decided and why, both models side by side, and their curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from models.metrics import CaseEvidence, froc_curve, pr_curve
from tasks.evaluation import with_interval
from tasks.figures import pr_and_froc
from tasks.promotion.gate import LOCALISATION, SCORE
from tasks.promotion.ledger import CHALLENGER, CHAMPION, Decision
from tasks.promotion.measurement import Measured
from tasks.reporting import Section, publish_report
from tasks.tracking.runs import TrackedRun

OFTEN = 10  # comparisons on the same cases, from which on a page asks for new ones


def publish_decision(run: TrackedRun, decision: Decision, measured: Measured) -> Path:
    """Write and log the page."""
    verdict = decision.verdict
    assert verdict is not None
    sections = [
        Section(
            f"Version {decision.challenger}: {decision.decision}", f"{_sentence(decision.reason)} Rule: {verdict.rule}."
        ),
        Section(
            "Both models on the same cases",
            "95 % intervals by resampling patients. A gain is positive where the challenger is better, of errors too.",
            table=comparison_table(decision),
        ),
        Section("What this rests on", _sentence(grounds(decision)), table=facts(decision)),
    ]
    if measured.evidence:
        roles = {_title(role, decision): found for role, found in measured.evidence.items()}
        pr = {title: pr_curve(found) for title, found in roles.items()}
        froc = {title: froc_curve(found) for title, found in roles.items()}
        figure = pr_and_froc(pr, froc, lesion_share(measured.evidence[CHALLENGER]))
        sections.insert(2, Section("Precision-recall and FROC", figure=figure))
    title = f"{decision.name}: version {decision.challenger} against {decision.champion or 'none'}"
    return publish_report("promotion", run, title, sections)


def comparison_table(decision: Decision) -> pd.DataFrame:
    """A row a metric: the champion, the challenger, the gain, each with its interval."""
    roles = [role for role in (CHAMPION, CHALLENGER) if role in decision.metrics]
    known = decision.metrics.get(CHALLENGER, {})
    rows = [
        {
            "metric": metric,
            **{_title(role, decision): with_interval(decision.metrics[role], metric) for role in roles},
            **({"gain": with_interval(decision.gains, metric)} if metric in decision.gains else {}),
        }
        for metric in (*LOCALISATION, *SCORE)
        if metric in known
    ]
    return pd.DataFrame(rows)


def facts(decision: Decision) -> pd.DataFrame:
    """Where the frozen cases come from, and how many the deciding metric rests on."""
    verdict = decision.verdict
    assert verdict is not None
    row: dict[str, Any] = {
        "frozen cases": decision.frozen_cases,
        f"behind {verdict.metric}": f"{verdict.cases} of {verdict.patients} patients",
        "earlier comparisons": decision.earlier,
        "frozen run": decision.frozen_run,
        "cohort": decision.cohort,
        "snapshot": decision.snapshot,
    }
    return pd.DataFrame([row])


def grounds(decision: Decision) -> str:
    """What many comparisons on the same cases do to the odds."""
    if decision.champion is None:
        return "the first model that is measured on these frozen cases"
    count = decision.earlier + 1
    text = f"comparison {count} on these frozen cases; about 1 in 25 lets a model pass that is no better"
    return text + ("; cases by which nothing was chosen yet would tell more" if count > OFTEN else "")


def lesion_share(evidence: Sequence[CaseEvidence]) -> float:
    """The mean share of lesion pixels in a case, which is the precision of chance."""
    return float(np.mean([case.positives.total / (case.positives.total + case.negatives.total) for case in evidence]))


def _title(role: str, decision: Decision) -> str:
    return f"{role} (version {decision.champion if role == CHAMPION else decision.challenger})"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
