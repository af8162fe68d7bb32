"""Folds of a cross-validation, drawn by patient: who is trained on, who chooses the epoch, who is held out.

What is drawn depends on the patients, their labels and the seed alone, not on the order in which cases arrived.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

from storage.errors import CohortError

MOST_STRATA = 10
FoldCount = int | Literal["loo"]
Names = npt.NDArray[np.str_]
Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Fold:
    """One fold of one repeat, both counted from 1: ascending positions of cases, no patient in two parts.

    `validation` chooses the epoch; nothing of `held_out` is looked at before the model stands.
    """

    repeat: int
    number: int
    train: tuple[int, ...]
    validation: tuple[int, ...]
    held_out: tuple[int, ...]


def draw_folds(
    patients: Sequence[str],
    labels: npt.ArrayLike,
    folds: FoldCount,
    repeats: int = 1,
    seed: int = 0,
    validation_share: float = 0.15,
) -> list[Fold]:
    """Every case held out once a repeat, with about the same shares of labels in every part.

    `labels` (N,), NaN where unknown, has a row a case like `patients`; more than 10 values are taken by quantiles.
    `validation_share` is that of the training patients, who alone choose the epoch.

    Raises:
        CohortError: fewer than 2 folds, more folds than patients, or too few patients to choose the epoch by.
    """
    order = np.lexsort((np.asarray(labels, np.float64), np.asarray(patients, str)))
    names, values = np.asarray(patients, str)[order], np.asarray(labels, np.float64)[order]
    check_fold_count(folds, repeats, len(np.unique(names)))
    drawn = []
    for repeat in range(1, repeats + 1):
        for number, held_out in enumerate(held_out_parts(names, values, folds, derived_seed(seed, repeat)), 1):
            known = np.setdiff1d(np.arange(len(names)), held_out)
            part = validation_part(names[known], values[known], validation_share, derived_seed(seed, repeat, number))
            validation = known[part]
            train = np.setdiff1d(known, validation)
            drawn.append(Fold(repeat, number, *(_ascending(order[part]) for part in (train, validation, held_out))))
    return drawn


def check_fold_count(folds: FoldCount, repeats: int, patients: int) -> None:
    """CohortError where so many patients cannot be divided so."""
    if isinstance(folds, int) and folds < 2:
        raise CohortError(f"a cross-validation of {folds} folds has nobody to train on; give 2 or more, or loo")
    if repeats < 1:
        raise CohortError(f"{repeats} repeats are none; give 1 or more")
    if isinstance(folds, int) and folds > patients:
        raise CohortError(f"{folds} folds of {patients} patients: every fold needs a patient; give at most {patients}")
    if patients < 3:
        raise CohortError(f"{patients} patients are too few: one to train on, one to choose the epoch, one held out")


def held_out_parts(names: Names, labels: Floats, folds: FoldCount, seed: int) -> list[Positions]:
    """The positions that each fold holds out."""
    if folds == "loo":
        return [held_out for _, held_out in LeaveOneGroupOut().split(names, groups=names)]
    return grouped_parts(names, labels, folds, seed)


def validation_part(names: Names, labels: Floats, share: float, seed: int) -> Positions:
    """The positions of about `share` of the patients; which of the parts is drawn, or the largest patient always is."""
    patients = len(np.unique(names))
    if patients < 2:
        raise CohortError("a fold leaves one patient to train on and none to choose the epoch by; give more folds")
    parts = grouped_parts(names, labels, min(max(2, round(1 / share)), patients), seed)
    return parts[np.random.default_rng(seed).integers(len(parts))]


def grouped_parts(names: Names, labels: Floats, parts: int, seed: int) -> list[Positions]:
    """Positions in `parts` parts, none empty, by patient, each value of the labels spread as evenly as patients allow.

    Where no value has as many cases as there are parts, neighbouring values count as one.
    """
    stratum = strata(labels, parts)
    while stratum.any() and np.bincount(stratum).max() < parts:
        stratum //= 2
    found = stratified_parts(names, stratum, parts, seed)
    if not all(map(len, found)):  # by rounding, where two values tie
        found = stratified_parts(names, np.zeros_like(stratum), parts, seed)
    return found


def stratified_parts(names: Names, stratum: Positions, parts: int, seed: int) -> list[Positions]:
    """scikit-learn's greedy division; that some values are rarer than parts is `rare_values`' to tell."""
    splitter = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        return [np.asarray(part, np.intp) for _, part in splitter.split(names, stratum, names)]


def strata(labels: Floats, parts: int) -> Positions:
    """The rank of each case's value, or of its quantile where there are more than 10 values; NaN is the last."""
    values, rank = np.unique(labels, return_inverse=True)
    if len(values) <= MOST_STRATA:
        return rank.astype(np.intp)
    bins = int(np.clip(len(labels) // parts, 1, MOST_STRATA))
    edges = np.nanquantile(labels, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(edges, labels, side="right")


def rare_values(patients: Sequence[str], labels: npt.ArrayLike, folds: FoldCount) -> dict[float, int]:
    """The values that fewer patients have than there are folds, with their number; none where values are many."""
    counts = pd.Series(list(patients)).groupby(np.asarray(labels, np.float64)).nunique()
    if folds == "loo" or len(counts) > MOST_STRATA:
        return {}
    values = counts.index.to_numpy(np.float64).tolist()
    return {value: int(count) for value, count in zip(values, counts, strict=True) if count < folds}


def derived_seed(*parts: int) -> int:
    """One seed of 32 bits from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _ascending(positions: Positions) -> tuple[int, ...]:
    return tuple(sorted(positions.tolist()))
