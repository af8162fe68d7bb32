"""From a table with a row a lesion to one with a row a patient, with what is to be predicted.

What is not a feature by the data dictionary is never one: another label, such as the survival time, would give the
outcome away.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.errors import ModelError
from models.outcome.config import StudyConfig

Outcome = npt.NDArray[Any]
"""(N,): 0 and 1, or the structured `event` (bool) and `time` (float64) of `survival_outcome`."""

WHOLE = "all"  # the lesion class of a case's whole mask
SIZE = "n_pixels"  # of a volume its voxels
ROW_COLUMNS = ("case_id", "patient_id", "split", "lesion", "lesion_class", "units", "reason", SIZE)


@dataclass(frozen=True)
class Asked:
    """The columns that a study is about: an outcome, or time and event, or all three; by which to harmonise."""

    outcome: str | None = None
    time: str | None = None
    event: str | None = None
    harmonise: str | None = None
    preserve: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """All of them, in order."""
        named = (self.outcome, self.time, self.event, self.harmonise, *self.preserve)
        return [column for column in named if column]

    @property
    def aside(self) -> list[str]:
        """What travels beside the features for the harmonisation alone."""
        return [self.harmonise, *self.preserve] if self.harmonise else []


@dataclass(frozen=True)
class Patients:
    """A row a patient, by ascending name: `table` has the features, then the `aside` columns of the harmonisation.

    `followed` is the survival beside an outcome of two classes, for the curves; `left_out` counts patients by reason.
    """

    table: pd.DataFrame
    features: tuple[str, ...]
    aside: tuple[str, ...]
    outcome: Outcome
    followed: Outcome | None
    left_out: dict[str, int]

    @property
    def names(self) -> list[str]:
        """The patients."""
        return [str(name) for name in self.table.index]

    @property
    def is_survival(self) -> bool:
        """Whether the outcome is a time with an event."""
        return self.outcome.dtype.names is not None

    @property
    def event(self) -> npt.NDArray[np.bool_]:
        """(N,): positive, or with an event."""
        return np.asarray(self.outcome["event"] if self.is_survival else self.outcome == 1, dtype=bool)

    def of(self, names: Sequence[str]) -> "Patients":
        """The patients `names`, all of whom are here, in that order."""
        return self.at(self.table.index.get_indexer(pd.Index(names)))

    def at(self, rows: npt.NDArray[np.intp]) -> "Patients":
        """The patients in `rows`, in that order."""
        followed = None if self.followed is None else self.followed[rows]
        return replace(self, table=self.table.iloc[rows], outcome=self.outcome[rows], followed=followed)

    def with_outcome(self, outcome: Outcome) -> "Patients":
        """The same patients with other outcomes, as a permutation test has them."""
        return replace(self, outcome=outcome)


def patients_of(rows: pd.DataFrame, features: Sequence[str], asked: Asked, config: StudyConfig) -> Patients:
    """One row a patient of `rows` (a lesion each), who have all that is asked.

    Raises:
        ModelError: a column is missing, a patient has two outcomes, an outcome is constant or has too many values,
            nobody is left.
    """
    check_columns(rows, features, asked)
    rows = rows.assign(patient_id=rows["patient_id"].astype(str))
    lesions = lesion_rows(rows, config)
    labels = patient_labels(rows, asked.columns, config.differing == "highest")
    without = {f"without {column}": int(labels[column].isna().sum()) for column in asked.columns}
    known = labels.dropna()
    left_out = {**without, "without a lesion": int((~known.index.isin(lesions["patient_id"])).sum())}
    measured = measured_by_patient(lesions, list(features), config)
    table = measured.loc[measured.index.intersection(known.index).sort_values()]
    labels = known.loc[table.index]
    if table.empty:
        raise ModelError(f"no patient has a lesion and {' and '.join(asked.columns)}")
    followed = survival_outcome(labels, asked.time, asked.event) if asked.time and asked.event else None
    outcome = binary_outcome(labels[asked.outcome], config.positive_from) if asked.outcome else followed
    if outcome is None:
        raise ModelError("nothing is asked: name an outcome, or a time and an event")
    return Patients(
        table=table.join(labels[asked.aside]),
        features=tuple(features),
        aside=tuple(asked.aside),
        outcome=outcome,
        followed=followed if asked.outcome else None,
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def label_columns(rows: pd.DataFrame, features: Iterable[str]) -> list[str]:
    """The columns that are neither features nor what a row is about: what can be an outcome."""
    return [column for column in rows.columns if column not in {*features, *ROW_COLUMNS}]


def check_columns(rows: pd.DataFrame, features: Sequence[str], asked: Asked) -> None:
    """ModelError that names what there is where something asked for is not."""
    if missing := {"patient_id", "lesion_class", SIZE} - set(rows.columns):
        raise ModelError(
            f"the table has no column {', '.join(sorted(missing))}; `lesionflow radiomics` writes such a table"
        )
    if not features:
        raise ModelError("the table has no feature that its data dictionary names")
    labels = label_columns(rows, features)
    for column in asked.columns:
        if column in features:
            raise ModelError(f"{column!r} is a feature and cannot be what is asked; labels: {', '.join(labels)}")
        if column not in rows.columns:
            raise ModelError(f"there is no column {column!r}; labels are: {', '.join(labels) or 'none'}")


def lesion_rows(rows: pd.DataFrame, config: StudyConfig) -> pd.DataFrame:
    """The rows that may speak for a patient: single lesions, or with `whole` those of the whole mask; none empty."""
    is_whole = rows["lesion_class"] == WHOLE
    return rows[(is_whole == (config.lesions == "whole")) & (rows[SIZE] > 0)]


def measured_by_patient(lesions: pd.DataFrame, features: list[str], config: StudyConfig) -> pd.DataFrame:
    """Features of the largest lesion of each patient (the first of equals), or their means over lesions."""
    if config.lesions == "mean":
        measured = lesions.groupby("patient_id")[features].mean()
    else:
        order = lesions.sort_values(SIZE, ascending=False, kind="stable")
        measured = order.drop_duplicates("patient_id").set_index("patient_id")[features]
    return measured.astype(np.float64).replace([np.inf, -np.inf], np.nan)


def patient_labels(rows: pd.DataFrame, columns: list[str], takes_highest: bool) -> pd.DataFrame:
    """One value a patient of each label; where their cases differ the highest, or a ModelError."""
    grouped = rows.groupby("patient_id")[columns]
    if takes_highest:
        return grouped.max()
    counts = grouped.nunique()
    for column in columns:
        if differing := counts.index[counts[column] > 1].tolist():
            values = sorted(rows.loc[rows["patient_id"] == differing[0], column].dropna().unique())
            shown = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
            raise ModelError(
                f"patient {differing[0]} has several values of {column}: {shown}; a study needs one a patient "
                "(--set differing=highest takes the highest)"
            )
    return grouped.first()


def binary_outcome(label: pd.Series, positive_from: float | None) -> Outcome:
    """0 and 1: at least `positive_from`, or the greater of two values.

    Raises:
        ModelError: not a number, constant, or more than two values and no limit given.
    """
    values = numbers(label)
    known = np.unique(values)
    if positive_from is None and len(known) > 2:
        raise ModelError(
            f"{label.name} has {len(known)} values; say from which on a patient is positive: --set positive_from=NUMBER"
        )
    positive = values >= (known[-1] if positive_from is None else positive_from)
    if positive.all() or not positive.any():
        raise ModelError(
            f"{label.name} is the same for all {len(values)} patients"
            + ("" if positive_from is None else f" once divided at {positive_from:g}")
        )
    return positive.astype(np.intp)


def survival_outcome(labels: pd.DataFrame, time: str, event: str) -> Outcome:
    """`event` (bool) and `time` (float64) as scikit-survival takes them.

    Raises:
        ModelError: a time is negative, an event is neither 0 nor 1, nobody has an event.
    """
    times, events = numbers(labels[time]), numbers(labels[event])
    if (times < 0).any():
        raise ModelError(f"{time} of patient {labels.index[times < 0][0]} is negative; it is a time until {event}")
    if not np.isin(events, (0, 1)).all():
        raise ModelError(f"{event} must be 1 where it happened and 0 where it did not; it has {np.unique(events)}")
    if not events.any():
        raise ModelError(f"no patient has {event} = 1; without events there is nothing to learn")
    outcome = np.empty(len(times), dtype=[("event", bool), ("time", np.float64)])
    outcome["event"], outcome["time"] = events == 1, times
    return outcome


def numbers(label: pd.Series) -> npt.NDArray[np.float64]:
    """A label as numbers; ModelError where it is text."""
    try:
        return label.to_numpy(dtype=np.float64)
    except ValueError as error:
        raise ModelError(f"{label.name} is no number ({error})") from error
