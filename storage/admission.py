"""Which cases a cohort takes in: each file once, each name once, each patient in one split."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from storage.case import Case, Rejected
from storage.errors import SourceError
from storage.splits import SPLITS, Fractions, split_of


@dataclass(frozen=True)
class Admission:
    """The judgement over a batch: `splits` belongs to `cases`; `known` counts those that the cohort already has."""

    cases: list[Case]
    splits: list[str]
    rejected: list[Rejected]
    known: int


def admit(table: pd.DataFrame, cases: Sequence[Case], fractions: Fractions) -> Admission:
    """Judge `cases` against the `table` of a cohort and against each other.

    SourceError where a patient would be in two splits: training and testing on one person must never happen unseen.
    """
    file_of = _known(table, "sha256", [case.sha256 for case in cases])
    digest_of = {file: digest for digest, file in file_of.items()}
    names = set(_known(table, "case_id", [case.case_id for case in cases]))
    admitted, rejected, known = list[Case](), list[Rejected](), 0
    for case in cases:
        if digest_of.get(case.file) == case.sha256:
            known += 1
        elif case.sha256 in file_of:
            rejected.append(Rejected(case.file, duplicate_of(file_of[case.sha256]), case.sha256))
        elif case.case_id in names:
            rejected.append(Rejected(case.file, _CHANGED.format(case.case_id), case.sha256))
        else:
            admitted.append(case)
            names.add(case.case_id)
            file_of[case.sha256] = case.file
    return Admission(admitted, _splits(table, admitted, fractions), rejected, known)


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


def _known(table: pd.DataFrame, column: str, values: Sequence[str]) -> dict[str, str]:
    """The file of each of `values` that `column` holds."""
    rows = table[table[column].isin(list(values))]
    return dict(zip(rows[column], rows["file"], strict=True))


def _splits(table: pd.DataFrame, cases: Sequence[Case], fractions: Fractions) -> list[str]:
    """The split of each case: the one its patient has, else the one the source names, else drawn by hash."""
    rows = table[table["patient_id"].isin([case.patient_id for case in cases])]
    split_of_patient = dict(zip(rows["patient_id"], rows["split"], strict=True))
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
