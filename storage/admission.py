"""Which cases a cohort takes in: each file once, each name once, each patient in one split."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from storage.case import Case, Rejected
from storage.errors import SourceError
from storage.splits import SPLITS, Fractions, split_of

IDENTITY = ("case_id", "patient_id", "split", "file", "sha256")  # columns that never change once they are written


class Register:
    """Who is in a cohort: files by their digest, names, and the split of each patient. It grows with the table."""

    def __init__(self) -> None:
        self.rows = 0
        self.last = ""
        self.file_of: dict[str, str] = {}
        self.names: set[str] = set()
        self.split_of: dict[str, str] = {}

    def learn(self, rows: pd.DataFrame) -> None:
        """Enter further rows of the table; only the columns of IDENTITY are looked at."""
        self.rows += len(rows)
        for name, patient, split, file, digest in rows[list(IDENTITY)].itertuples(index=False, name=None):
            self.last = digest
            self.file_of[digest] = file
            self.names.add(name)
            self.split_of[patient] = split


@dataclass(frozen=True)
class Admission:
    """The judgement over a batch: `splits` belongs to `cases`; `known` counts those that the cohort already has."""

    cases: list[Case]
    splits: list[str]
    rejected: list[Rejected]
    known: int


def admit(register: Register, cases: Sequence[Case], fractions: Fractions) -> Admission:
    """Judge `cases` against those of a cohort and against each other; `register` stays as it is.

    SourceError where a patient would be in two splits: training and testing on one person must never happen unseen.
    """
    admitted, rejected, known = list[Case](), list[Rejected](), 0
    names, file_of = set[str](), dict[str, str]()
    for case in cases:
        first = register.file_of.get(case.sha256) or file_of.get(case.sha256)
        if register.file_of.get(case.sha256) == case.file:
            known += 1
        elif first is not None:
            rejected.append(Rejected(case.file, duplicate_of(first), case.sha256))
        elif case.case_id in register.names or case.case_id in names:
            rejected.append(Rejected(case.file, _CHANGED.format(case.case_id), case.sha256))
        else:
            admitted.append(case)
            names.add(case.case_id)
            file_of[case.sha256] = case.file
    return Admission(admitted, _splits(register, admitted, fractions), rejected, known)


def duplicate_of(file: str) -> str:
    """The reason to set aside a second file of the same bytes."""
    return f"{_DUPLICATE} {file}: the same bytes under another name"


def is_duplicate(rejected: Rejected) -> bool:
    """Whether a file was set aside because the cohort has it already: nothing is lost and nothing to repair."""
    return rejected.reason.startswith(_DUPLICATE)


_DUPLICATE = "duplicate of"


_CHANGED = (
    "changed since it was ingested: case '{0}' of the cohort has other bytes; "
    "a new photograph needs a new name, a corrected one a new cohort"
)


def _splits(register: Register, cases: Sequence[Case], fractions: Fractions) -> list[str]:
    """The split of each case: the one its patient has, else the one the source names, else drawn by hash."""
    patients = {case.patient_id for case in cases}
    split_of_patient = {name: register.split_of[name] for name in patients if name in register.split_of}
    named = one_split_each((case.patient_id, case.split) for case in cases if case.split is not None)
    for patient, split in named.items():
        if split_of_patient.setdefault(patient, split) != split:
            raise SourceError(_TWO_SPLITS.format(patient, split_of_patient[patient], split))
    return [split_of_patient.get(case.patient_id) or split_of(case.patient_id, fractions) for case in cases]


_TWO_SPLITS = "patient '{}' is in split {} of the cohort and the source says {}; keep each patient in one split"


def one_split_each(named: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """The split of each patient from (patient, split) pairs; SourceError for a second or an unknown split."""
    split_of_patient: dict[str, str] = {}
    for patient, split in named:
        if split not in SPLITS:
            raise SourceError(f"patient '{patient}' has split '{split}'; a split is one of {', '.join(SPLITS)}")
        if split_of_patient.setdefault(patient, split) != split:
            first = split_of_patient[patient]
            raise SourceError(
                f"patient '{patient}' is in two splits, {first} and {split}; keep each patient in one split"
            )
    return split_of_patient


def merged_quarantine(quarantine: pd.DataFrame, rejected: Sequence[Rejected], settled: Iterable[str]) -> pd.DataFrame:
    """The quarantine with one row a file, the newest reason of each, and without the files that are `settled`."""
    news = pd.DataFrame(
        [(one.file, one.sha256, one.reason) for one in rejected], columns=list(quarantine.columns), dtype=object
    )
    kept = quarantine[~quarantine["file"].isin([*settled, *news["file"]])]
    merged = pd.concat([kept.astype(object), news.drop_duplicates("file", keep="last")])
    return merged.sort_values("file", ignore_index=True)
