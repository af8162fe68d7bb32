"""The parts of a study, side by side and kept as they are done, put together to answers for all patients."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.outcome import (
    FoldAnswer,
    Judged,
    Patients,
    StudyConfig,
    concordance,
    permuted,
    study_fold,
    whole_repeat,
)
from tasks.kept import Kept
from tasks.outcomes.plan import FIRST, Part, Plan
from tasks.progress import progress
from tasks.shards import raise_error, shard_outcomes

WORTH = 40  # parts, each about a second: fewer are done before a cluster stands


class Done(NamedTuple):
    """The folds by source and (repeat, fold), and the headline metric of each permutation."""

    folds: dict[str, dict[tuple[int, int], FoldAnswer]]
    permuted: list[float]


def part_answer(patients: Mapping[str, Patients], config: StudyConfig, part: Part) -> FoldAnswer | float:
    """One part: a fold of a source, or a whole repeat with the outcomes shuffled."""
    match part:
        case ["fold", source, repeat, number]:
            return study_fold(patients[source], config, repeat, number)
        case ["permutation", number]:
            shuffled = permuted(patients[FIRST], config.seed, number)
            return concordance(shuffled.outcome, whole_repeat(shuffled, config, 0))
    raise ValueError(f"no part of a study: {part}")


def do_parts(plan: Plan, keep: Kept, workers: int | None) -> Done:
    """All parts, those that an earlier run has kept left out; the first that fails for good raises."""
    parts = plan.parts()
    answers: dict[int, Any] = {}
    with progress("study", len(parts)) as advance:
        function = partial(part_answer, plan.patients, plan.config)
        for outcome in shard_outcomes(function, parts, workers=workers, keep=keep, worth=WORTH):
            if outcome.error:
                raise_error(outcome)
            answers[outcome.position] = outcome.answer
            advance(1, "")
    folds: dict[str, dict[tuple[int, int], FoldAnswer]] = {source: {} for source in plan.patients}
    for position, part in enumerate(parts):
        if part[0] == "fold":
            folds[part[1]][part[2], part[3]] = answers[position]
    return Done(folds, [answers[position] for position, part in enumerate(parts) if part[0] == "permutation"])


def judged_of(patients: Patients, folds: Mapping[tuple[int, int], FoldAnswer]) -> Judged:
    """The out-of-fold answers of all repeats, a row each."""
    scores, thresholds = (by_repeat(patients, folds, name) for name in ("scores", "threshold"))
    return Judged(patients.outcome, scores, scores > thresholds, patients.names)


def high_risk(patients: Patients, folds: Mapping[tuple[int, int], FoldAnswer]) -> npt.NDArray[np.bool_]:
    """(R, N): who is above the median risk of the training patients of their fold."""
    return np.asarray(by_repeat(patients, folds, "scores") > by_repeat(patients, folds, "median"))


def by_repeat(patients: Patients, folds: Mapping[tuple[int, int], FoldAnswer], name: str) -> npt.NDArray[np.float64]:
    """(R, N): a value of the fold that held a patient out."""
    values = np.full((1 + max(repeat for repeat, _ in folds), len(patients.names)), np.nan)
    for (repeat, _), answer in folds.items():
        values[repeat, answer.held_out] = getattr(answer, name)
    return values


def prediction_table(patients: Patients, folds: Mapping[tuple[int, int], FoldAnswer]) -> pd.DataFrame:
    """A row a patient and repeat, both as the folds had them: what was known, what was predicted, by which fold."""
    parts = []
    for (repeat, number), answer in sorted(folds.items()):
        held_out = patients.at(answer.held_out)
        truth = (
            {name: held_out.outcome[name] for name in ("time", "event")}
            if patients.is_survival
            else {"outcome": held_out.outcome}
        )
        told = {"score": answer.scores, "threshold": answer.threshold, "median_risk": answer.median}
        where = {"repeat": repeat + 1, "fold": number + 1}
        parts.append(pd.DataFrame({"patient_id": held_out.names, **where, **truth, **told}))
    return pd.concat(parts, ignore_index=True)
