"""A cross-validation as data: which cases take part, and a training job a fold."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.registry import registered
from storage.cohort import Cohort
from storage.errors import CohortError
from tasks.engine.job import TrainingJob
from tasks.folds.draw import Fold, FoldCount, draw_folds, rare_values
from tasks.reuse import fingerprint
from tasks.training.train import Cases, training_job
from tasks.workspace import current_workspace


@dataclass(frozen=True)
class FoldJob:
    """A fold, in positions of the cohort, and the training of its model."""

    fold: Fold
    name: str
    key: str
    job: TrainingJob


@dataclass(frozen=True)
class Plan:
    """A cross-validation; `key` is its fingerprint, `folder` keeps what belongs to no single fold."""

    key: str
    cohort: str
    snapshot: str
    system: str
    target: str
    splits: tuple[str, ...]
    folds: tuple[FoldJob, ...]
    folder: Path

    @property
    def cases(self) -> list[int]:
        """Every case that is held out, ascending."""
        return sorted(case for planned in self.folds if planned.fold.repeat == 1 for case in planned.fold.held_out)

    @property
    def repeats(self) -> int:
        """How often every case is held out."""
        return self.folds[-1].fold.repeat

    def repeat(self, number: int) -> list[FoldJob]:
        """The folds of one repeat, counted from 1."""
        return [planned for planned in self.folds if planned.fold.repeat == number]

    def described(self) -> dict[str, Any]:
        """The settings, for MLflow."""
        job = self.folds[0].job.model_dump(mode="json", exclude={"cases", "folder"})
        return {"folds": len(self.repeat(1)), "repeats": self.repeats, "splits": list(self.splits), **job}


def plan_folds(
    cohort: str,
    system: str,
    target: str,
    folds: FoldCount,
    repeats: int,
    splits: Sequence[str],
    settings: dict[str, Any],
    trainer: dict[str, Any],
    seed: int,
    devices: int,
    initial: Path | None,
) -> Plan:
    """The cross-validation that the arguments describe, checked, with a job a fold; repeat r has the seed + r − 1.

    Raises:
        CohortError: no such label or split, no case to learn from, or too few patients for so many folds.
        ModelError: no such system or setting, or the initial weights do not fit.
    """
    opened = Cohort.open(cohort)
    cases = usable_cases(opened, system, target, splits)
    patients, labels = opened.table.loc[cases, "patient_id"].tolist(), labels_of(opened, target, cases)
    drawn = draw_folds(patients, labels, folds, repeats, seed)
    tell_rare_values(target, rare_values(patients, labels, folds))
    planned = []
    for fold in (in_cohort(fold, cases) for fold in drawn):
        parts: Cases = {"train": fold.train, "validation": fold.validation}
        seed_of = seed + fold.repeat - 1
        key, job = training_job(cohort, system, target, settings, trainer, seed_of, devices, initial, cases=parts)
        planned.append(FoldJob(fold, fold_name(fold, repeats), key, job))
    key = fingerprint("cross-validate", folds=[(planned.key, planned.fold.held_out) for planned in planned])
    folder = current_workspace().runs / key[:12]
    return Plan(key, opened.path, opened.snapshot, system, target, tuple(splits), tuple(planned), folder)


def usable_cases(cohort: Cohort, system: str, target: str, splits: Sequence[str]) -> list[int]:
    """Positions of the cases of `splits` that have what the system learns from."""
    keys, table = registered(system).system.inputs, cohort.table
    if "label" in keys and target not in cohort.labels:
        known = ", ".join(cohort.labels) or "none"
        raise CohortError(f"{cohort.path} has no label {target!r}; it has: {known}. Choose by --target.")
    if unknown := set(splits) - set(table["split"]):
        known = ", ".join(sorted(set(table["split"])))
        raise CohortError(f"{cohort.path} has no split {sorted(unknown)[0]!r}; it has: {known}. Choose by --split.")
    chosen = table["split"].isin(list(splits))
    if "label" in keys:
        chosen &= table[target].notna()
    if "mask" in keys:
        chosen &= table["has_masks"]
    if not chosen.any():
        what = "masks" if "mask" in keys else f"{target!r}"
        raise CohortError(f"{cohort.path} has no case with {what} in its splits {', '.join(splits)}")
    return [int(case) for case in table.index[chosen]]


def labels_of(cohort: Cohort, target: str, cases: Sequence[int]) -> np.ndarray:
    """The target of each case, NaN where it is unknown."""
    known = target in cohort.labels
    return cohort.label(target)[list(cases)] if known else np.full(len(cases), np.nan)


def in_cohort(fold: Fold, cases: Sequence[int]) -> Fold:
    """`fold` of positions in `cases` as positions in the cohort."""
    parts = [tuple(cases[place] for place in part) for part in (fold.train, fold.validation, fold.held_out)]
    return Fold(fold.repeat, fold.number, *parts)


def fold_name(fold: Fold, repeats: int) -> str:
    """`fold 2`, or `fold 2 of repeat 1` where there are several."""
    return f"fold {fold.number}" + (f" of repeat {fold.repeat}" if repeats > 1 else "")


def tell_rare_values(target: str, rare: dict[float, int]) -> None:
    """One line on values that cannot be in every fold."""
    if rare:
        counted = ", ".join(f"{value:g} ({patients})" for value, patients in rare.items())
        tell(f"cross-validation: not every fold holds out each {target}; fewer patients than folds have {counted}")


def tell(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)
