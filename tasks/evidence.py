"""Evidence of maps against truth, shard by shard, in memory that does not grow with the number of pixels.

Up to EXACT_PIXELS every score of every pixel is kept. Beyond, the scores of a case are counted in bins that all cases
share: a score is cut to its leading 16 bits (0.8 % of it), or to the next lower of 4,096 quantiles of lesion scores in
SAMPLE cases, whichever is closer. Ranks across cases are then those of the bins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from models.metrics import CaseEvidence, EvidenceConfig, case_evidence
from models.metrics.histogram import Histogram, Keys
from models.metrics.localization import pooled_positives, quantile_edges
from storage.cohort import Cohort
from storage.errors import CohortError
from tasks.clusters import shared_path
from tasks.failures import failures
from tasks.kept import Kept
from tasks.opened import maps_once, opened_once
from tasks.progress import progress
from tasks.shards import Outcome, cases_in_shard, shard_outcomes, shards

EXACT_PIXELS = 1 << 27  # of all maps together; at most a gigabyte
SAMPLE = 64  # cases
COARSE = np.uint32(0xFFFF0000)
FROC_SMOOTHING = 128  # pixels of image side a pixel of sigma
SHARD, SHARD_PIXELS, WORTH_A_CLUSTER = 128, 1 << 22, 8
Evidence = dict[str, list[CaseEvidence]]


@dataclass(frozen=True)
class EvidenceJob:
    """What a worker needs: map sets by short name, the lesion classes that count (none: all), shared bins or none."""

    cohort: str
    snapshot: str
    names: dict[str, str]
    lesions: tuple[str, ...]
    edges: dict[str, Keys]


def evidence_of(
    cohort: Cohort,
    names: dict[str, str],
    cases: Sequence[int],
    lesions: Sequence[str],
    *,
    workers: int | None = None,
    keep: Kept | None = None,
) -> tuple[list[int], Evidence, list[Outcome]]:
    """The cases of `cases` that could be read, in order, each map set's evidence of them, and what failed.

    FROC's smoothing grows with the image, so that it removes speckle of the same relative size: 1 pixel at a mean side
    of 128.

    Raises:
        CohortError: the cases differ in shape, or the cohort has no such lesion class.
    """
    pixels = int(np.prod(common_grid(cohort)))
    if cases:
        cohort.mask(cases[0], lesions or None)
    job = EvidenceJob(shared_path(cohort.path), cohort.snapshot, names, tuple(lesions), {})
    if len(cases) * len(names) * pixels > EXACT_PIXELS:
        job = replace(job, edges=shared_edges(job, cases))
    parts = list(shards(cases, cases_in_shard(pixels * len(names), SHARD, SHARD_PIXELS)))
    found: dict[int, dict[str, CaseEvidence]] = {}
    outcomes = shard_outcomes(
        partial(evidence_of_shard, job), parts, workers=workers, keep=keep, apart=True, worth=WORTH_A_CLUSTER
    )

    def noted() -> Iterator[Outcome]:
        for outcome in outcomes:
            if outcome.error is None:
                found.update(zip(outcome.part, outcome.answer, strict=True))
            yield replace(outcome, answer=None)

    with progress("compare with truth", len(cases)) as advance:
        lost = failures(noted(), advance)
    known = [case for case in cases if case in found]
    return known, {short: [found[case][short] for case in known] for short in names}, lost


def common_grid(cohort: Cohort) -> tuple[int, ...]:
    """The shape of every case, (y, x) or (z, y, x); CohortError where they differ."""
    if cohort.grid is None:
        raise CohortError(f"{cohort.path} holds cases of differing shapes; maps are compared on one shape only")
    return cohort.grid


def evidence_of_shard(job: EvidenceJob, cases: Sequence[int]) -> list[dict[str, CaseEvidence]]:
    """Each case's evidence by map set; runs in a Dask worker."""
    cohort = opened_once(job.cohort, job.snapshot)
    config = EvidenceConfig(froc_sigma=float(np.mean(common_grid(cohort))) / FROC_SMOOTHING)
    maps = {short: maps_once(job.cohort, job.snapshot, name) for short, name in job.names.items()}
    answers = []
    for case in cases:
        truth = cohort.mask(case, job.lesions or None)
        found = {short: case_evidence(opened.saliency(case), truth, config) for short, opened in maps.items()}
        answers.append({short: binned(one, job.edges.get(short)) for short, one in found.items()})
    return answers


def shared_edges(job: EvidenceJob, cases: Sequence[int]) -> dict[str, Keys]:
    """Quantiles of the lesion pixels' scores in cases spread over `cases`, for each map set."""
    chosen = np.unique(np.linspace(0, len(cases) - 1, SAMPLE).round().astype(int))
    sample = evidence_of_shard(job, [cases[place] for place in chosen])
    pairs = {short: [(one[short].positives, one[short].negatives) for one in sample] for short in job.names}
    return {short: quantile_edges(*pooled_positives(of_set)) for short, of_set in pairs.items()}


def binned(evidence: CaseEvidence, edges: Keys | None) -> CaseEvidence:
    """`evidence` with its scores counted in shared bins; itself without `edges`. Its own metrics stay exact."""
    if edges is None:
        return evidence
    return replace(
        evidence, positives=_in_bins(evidence.positives, edges), negatives=_in_bins(evidence.negatives, edges)
    )


def _in_bins(histogram: Histogram, edges: Keys) -> Histogram:
    if not histogram.keys.size:
        return histogram
    below = np.searchsorted(edges, histogram.keys, side="right") - 1
    nearest = np.where(below >= 0, edges[np.maximum(below, 0)], 0) if edges.size else np.zeros_like(histogram.keys)
    keys = np.maximum(histogram.keys & COARSE, nearest).astype(np.uint32)
    starts = np.flatnonzero(np.diff(keys, prepend=keys[0] ^ 1))
    return Histogram(keys[starts], np.add.reduceat(histogram.counts, starts))
