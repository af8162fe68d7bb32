"""A labels file: what a CSV says of each case, with every mistake in it named."""

import csv
import math
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from storage.errors import SourceError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
MISSING = frozenset({"", "na", "n/a", "nan", "none", "null"})
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class LabelColumns:
    """Which columns of a labels file mean what: `label` maps a label's name to its column."""

    file: str
    label: Mapping[str, str]
    patient: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Row:
    """What is said of one case; `problem` is set where that cannot be used."""

    labels: dict[str, float]
    patient_id: str = ""
    split: str | None = None
    problem: str = ""


def read_label_table(path: Path, columns: LabelColumns, files: Sequence[str]) -> dict[str, Row]:
    """The row of each of `files` (paths relative to the source) that the CSV at `path` speaks of.

    The CSV may name a file with or without its folder and its suffix. SourceError for a missing file or column, for a
    name that fits two cases, and where no row fits any.
    """
    records = _records(path, columns)
    finder = _Finder(files)
    records_of: dict[str, list[dict[str, str]]] = defaultdict(list)
    for record in records:
        if file := finder.find(record[columns.file], path.name, columns.file):
            records_of[file].append(record)
    if not records_of:
        said = records[0][columns.file] if records else "nothing"
        raise SourceError(
            f"no row of {path.name} fits a case: its column '{columns.file}' says '{said}', a case is "
            f"'{files[0]}'. Name the right column with --file-column"
        )
    return {file: _row(of_file, path.name, columns) for file, of_file in records_of.items()}


def _records(path: Path, columns: LabelColumns) -> list[dict[str, str]]:
    """The rows of the CSV by column name, all text stripped."""
    if not path.is_file():
        raise SourceError(f"there is no labels file {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise SourceError(f"{path} cannot be read as a CSV in UTF-8: {error}") from error
    header = text.partition("\n")[0]
    reader = csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=header.count), restval="")
    names = [name.strip() for name in reader.fieldnames or []]
    _check_columns(path.name, names, columns)
    reader.fieldnames = names
    return [{name: (record.get(name) or "").strip() for name in names} for record in reader]


def _check_columns(name: str, present: Sequence[str], columns: LabelColumns) -> None:
    wanted = [(columns.file, "--file-column COLUMN")]
    wanted += [(column, f"--label {label}=COLUMN") for label, column in columns.label.items()]
    wanted += [(columns.patient, "--patient-column COLUMN")] if columns.patient else []
    wanted += [(columns.split, "--split-column COLUMN")] if columns.split else []
    for column, option in wanted:
        if column not in present:
            raise SourceError(f"{name} has no column '{column}'; it has: {', '.join(present)}. Name it with {option}")


class _Finder:
    """Finds the case that a name in a CSV means."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files: dict[str, list[str]] = defaultdict(list)
        for file in files:
            path = PurePosixPath(_normal(file))
            for name in {str(path), str(without_suffix(path)), path.name, without_suffix(path).name}:
                self._files[name].append(file)

    def find(self, name: str, table: str, column: str) -> str | None:
        """The file of the most telling reading of `name`, or None; SourceError where two fit equally well."""
        path = PurePosixPath(_normal(name))
        for reading in (str(path), str(without_suffix(path)), path.name, without_suffix(path).name):
            fitting = self._files.get(reading, [])
            exact = [file for file in fitting if _normal(file) == reading]
            if len(fitting) > 1 and not exact:
                raise SourceError(
                    f"{table} names '{name}', which fits {len(fitting)} cases ({fitting[0]}, {fitting[1]}); "
                    f"give folder and suffix in column '{column}'"
                )
            if fitting:
                return (exact or fitting)[0]
        return None


def without_suffix(path: PurePosixPath) -> PurePosixPath:
    """`path` without the suffix of an image or a volume; 'IDRiD.01' has none."""
    for suffix in VOLUME_SUFFIXES:
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.with_name(path.name[: -len(suffix)])
    return path.with_suffix("") if path.suffix.lower() in SUFFIXES else path


def _normal(name: str) -> str:
    """One spelling of a file name: '/' between folders, composed characters (macOS hands out decomposed ones)."""
    return unicodedata.normalize("NFC", name.replace("\\", "/").removeprefix("./"))


def _row(records: Sequence[Mapping[str, str]], table: str, columns: LabelColumns) -> Row:
    """What the records of one case say together."""
    used = [columns.file, *columns.label.values(), *filter(None, (columns.patient, columns.split))]
    for column in used[1:]:
        if len(said := sorted({record[column] for record in records})) > 1:
            return _unusable(
                columns, f"{table} has {len(records)} rows for it that differ in '{column}': {', '.join(said)}"
            )
    record = records[0]
    labels = {label: _number(record[column]) for label, column in columns.label.items()}
    for label, value in labels.items():
        if value is None:
            column = columns.label[label]
            return _unusable(columns, f"{table} says '{record[column]}' in column '{column}', which is not a number")
    patient = record[columns.patient] if columns.patient else ""
    word = record[columns.split] if columns.split else ""
    if word.lower() not in MISSING | set(SPLIT_WORDS):
        return _unusable(columns, f"{table} says split '{word}'; a split is train, validation or test")
    numbers = {label: value for label, value in labels.items() if value is not None}
    return Row(numbers, "" if patient.lower() in MISSING else patient, SPLIT_WORDS.get(word.lower()))


def _unusable(columns: LabelColumns, problem: str) -> Row:
    return Row(dict.fromkeys(columns.label, math.nan), problem=problem)


def _number(text: str) -> float | None:
    """A finite number, NaN for a missing one, None for anything else."""
    if text.lower() in MISSING:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
