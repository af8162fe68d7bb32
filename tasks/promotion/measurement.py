"""Champion and challenger on the frozen cases: maps written, then both held against the same truth and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from models.errors import ModelError
from models.metrics import CaseEvidence, localization_metrics, paired_difference
from models.metrics.scores import label_kind, paired_score_difference, score_metrics
from storage.cohort import Cohort
from tasks.errors import PromotionError
from tasks.evidence import Evidence, evidence_of
from tasks.promotion.frozen import Frozen, patients_of
from tasks.promotion.gate import LOCALISATION, Gate, gains
from tasks.promotion.ledger import CHALLENGER, CHAMPION
from tasks.shards import raise_error


@dataclass(frozen=True)
class Measured:
    """Metrics by role, gains of the challenger, and how many cases and patients each kind of metric rests on.

    `unusable` says why the challenger could not be measured; then there is nothing else.
    """

    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    gains: dict[str, Any] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=dict)
    with_lesions: tuple[int, int] = (0, 0)
    with_label: tuple[int, int] = (0, 0)
    unusable: str = ""

    def resting_on(self, metric: str) -> tuple[int, int]:
        """Cases and patients behind a metric: those with lesions, or those with a label."""
        return self.with_lesions if metric in LOCALISATION else self.with_label


class Part(NamedTuple):
    """The metrics of one kind by role, the difference of the first role from the second, what they rest on."""

    metrics: dict[str, dict[str, Any]]
    difference: dict[str, Any]
    resting_on: tuple[int, int]


NOTHING = Part({}, {}, (0, 0))


def measure(
    cohort: Cohort,
    frozen: Frozen,
    cases: Sequence[int],
    maps: Mapping[str, str],
    gate: Gate,
    workers: int | None = None,
) -> Measured:
    """The models of `maps` (map set by role, the challenger first) on `cases`, the frozen ones in `cohort`.

    Raises:
        PromotionError: the champion has no usable map of each case.
    """
    for role, name in maps.items():
        if complaint := _unusable(cohort, name, cases):
            return _out_of(role, frozen.name, complaint)
    annotated = np.flatnonzero(frozen.table["has_masks"]).tolist()
    evidence: Evidence = {}
    for role, name in maps.items():
        try:
            evidence[role] = _evidence(cohort, name, [cases[row] for row in annotated], gate.lesions, workers)
        except ModelError as error:
            return _out_of(role, frozen.name, str(error))
    located = localisation(frozen, annotated, evidence, gate)
    graded = grading(frozen, {role: _scores(cohort, name, cases) for role, name in maps.items()}, gate)
    return Measured(
        metrics={role: located.metrics.get(role, {}) | graded.metrics.get(role, {}) for role in maps},
        gains=gains(located.difference | graded.difference),
        evidence=evidence if located.metrics else {},
        with_lesions=located.resting_on,
        with_label=graded.resting_on,
    )


def localisation(frozen: Frozen, rows: list[int], evidence: Evidence, gate: Gate) -> Part:
    """How well the maps of the annotated `rows` of the frozen table show lesions; nothing where none has a lesion."""
    first, *others = evidence.values()
    lesions = [row for row, case in zip(rows, first, strict=True) if case.has_lesions]
    if not lesions:
        return NOTHING
    drawn: dict[str, Any] = {"resamples": gate.resamples, "seed": gate.seed}
    patients = patients_of(frozen, rows)
    metrics = {role: localization_metrics(found, patients, **drawn) for role, found in evidence.items()}
    difference = paired_difference(first, others[0], patients, **drawn) if others else {}
    return Part(metrics, difference, (len(lesions), len(set(patients_of(frozen, lesions)))))


def grading(frozen: Frozen, scores: Mapping[str, np.ndarray], gate: Gate) -> Part:
    """How well the scores (N,) tell the frozen label, over the cases that have one; nothing where none has."""
    rows = np.flatnonzero(frozen.table["label"].notna()).tolist()
    if not rows:
        return NOTHING
    drawn: dict[str, Any] = {"resamples": gate.resamples, "seed": gate.seed}
    labels, patients = frozen.table["label"].to_numpy(float)[rows], patients_of(frozen, rows)
    kind = label_kind(labels)
    first, *others = (found[rows] for found in scores.values())
    metrics = {role: score_metrics(labels, found[rows], patients, kind, **drawn) for role, found in scores.items()}
    difference = paired_score_difference(labels, first, others[0], patients, kind, **drawn) if others else {}
    return Part(metrics, difference, (len(rows), len(set(patients))))


def _evidence(
    cohort: Cohort, name: str, cases: list[int], lesions: Sequence[str], workers: int | None
) -> list[CaseEvidence]:
    """What each case's map is worth; the first error of those that cannot be measured."""
    _, evidence, lost = evidence_of(cohort, {name: name}, cases, lesions, workers=workers)
    if lost:
        raise_error(lost[0])
    return evidence[name]


def _unusable(cohort: Cohort, name: str, cases: Sequence[int]) -> str:
    """Why a map set cannot be measured; empty where it can."""
    having = set(map(int, cohort.maps(name).indices)) if name in cohort.map_names() else set()
    if lacking := [case for case in cases if case not in having]:
        return f"{len(lacking)} of {len(cases)} frozen cases have no map"
    without = int((~np.isfinite(_scores(cohort, name, cases))).sum())
    return f"the score of {without} of {len(cases)} frozen cases is not finite" if without else ""


def _scores(cohort: Cohort, name: str, cases: Sequence[int]) -> np.ndarray:
    return cohort.maps(name).table.loc[list(cases), "score"].to_numpy(float)


def _out_of(role: str, name: str, complaint: str) -> Measured:
    """A challenger that cannot be measured is refused; of a champion a person has to know."""
    if role == CHAMPION:
        raise PromotionError(f"the {CHAMPION} of {name} cannot be measured: {complaint}")
    return Measured(unusable=f"the {CHALLENGER} cannot be measured: {complaint}")
