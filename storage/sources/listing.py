"""What is known of a case before it is read: where its files lie, and what a CSV says of it."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from storage.admission import one_split_each
from storage.case import Listed
from storage.errors import SourceError
from storage.sources.label_table import LabelColumns, Row, read_label_table

Key = TypeVar("Key", bound=Listed)


def files_below(folder: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Paths relative to `folder`, '/' between folders, of the files in and below it; linked folders are not entered."""
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(parent, name).relative_to(folder).as_posix()


def is_inside(path: Path, folder: Path) -> bool:
    """Whether `path`, with every link followed, lies in `folder`."""
    return path.resolve().is_relative_to(folder.resolve())


def is_own_file(path: Path, folder: Path) -> bool:
    """Whether `path` is a plain file that lies in `folder`: a pipe would be waited on for ever."""
    return is_inside(path, folder) and path.is_file()


def label_rows(path: str | Path | None, columns: LabelColumns, names: Sequence[str]) -> dict[str, Row]:
    """What the CSV at `path` says of each of `names`; SourceError for a column named without a file, or the reverse."""
    named = [*columns.label.values(), *filter(None, (columns.patient, columns.split))]
    if path is None:
        if named:
            raise SourceError(f"column '{named[0]}' is named but no labels file is given. Name it with --labels FILE")
        return {}
    if not named:
        raise SourceError(f"{path} is given but none of its columns is named. Name one with --label NAME=COLUMN")
    return read_label_table(Path(path), columns, names)


def with_rows(keys: Iterable[Key], rows: Mapping[str, Row], labels: Sequence[str]) -> tuple[Key, ...]:
    """`keys` with what the row of their case says of them; a split named once holds for all cases of the patient."""
    unlabelled = Row(dict.fromkeys(labels, np.nan))
    pairs = [(key, rows.get(key.case_id, unlabelled)) for key in keys]
    patients = [row.patient_id or key.patient_id for key, row in pairs]
    split_of = one_split_each(
        (patient, row.split) for patient, (_, row) in zip(patients, pairs, strict=True) if row.split
    )
    return tuple(
        replace(
            key,
            patient_id=patient,
            labels=row.labels,
            split=split_of.get(patient, key.split),
            problem=key.problem or row.problem,
        )
        for patient, (key, row) in zip(patients, pairs, strict=True)
    )
