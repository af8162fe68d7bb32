"""Folds of patients, with positives, or events, spread evenly; of each scanner too where one harmonises."""

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import StratifiedKFold

from models.errors import ModelError
from models.outcome.harmonisation import batch_names
from models.outcome.patients import Patients

Rows = npt.NDArray[np.intp]


def patient_folds(patients: Patients, folds: int, seed: int) -> list[tuple[Rows, Rows]]:
    """(training, held out) rows of each fold; each patient is held out once. Equal arguments give equal folds."""
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    rows = np.arange(len(patients.table))
    return [(rows[known], rows[held_out]) for known, held_out in splitter.split(rows, strata(patients, folds))]


def strata(patients: Patients, folds: int) -> list[str]:
    """What is spread over the folds: positive or not, by scanner unless a combination is too rare for that."""
    outcome = [str(value) for value in patients.event]
    if not patients.aside:
        return outcome
    scanner = batch_names(patients.table[patients.aside[0]])
    both = [f"{value} {name}" for value, name in zip(outcome, scanner, strict=True)]
    return both if pd.Series(both).value_counts().min() >= folds else outcome


def check_folds(patients: Patients, folds: int, inner_folds: int, asked: str) -> None:
    """ModelError where a class has too few patients to be in every fold, inner ones too; `asked` names the outcome."""
    counts = {"with": int(patients.event.sum()), "without": int((~patients.event).sum())}
    which, rarest = min(counts.items(), key=lambda item: item[1])
    if patients.is_survival:
        which, rarest = "with", counts["with"]
    needed = next(count for count in range(folds, 10**9) if count - -(-count // folds) >= inner_folds)
    if rarest < needed:
        raise ModelError(
            f"{rarest} patients {which} {asked} are too few for {folds} folds with {inner_folds} inside: "
            f"{needed} are needed; lower --folds or --set inner_folds"
        )


def derived_seed(*parts: int) -> int:
    """One seed of 32 bits from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def permuted(patients: Patients, seed: int, number: int) -> Patients:
    """The patients with their outcomes shuffled, time and event together; `number` tells one shuffle from another."""
    order = np.random.default_rng(derived_seed(seed, 1, number)).permutation(len(patients.table))
    return patients.with_outcome(patients.outcome[order])
