"""What a study is about and how it goes, decided before anything is fitted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.config import validated
from models.errors import ModelError
from models.outcome import Asked, Patients, StudyConfig, check_folds, patients_of
from models.outcome.patients import label_columns
from models.outcome.pipeline import model_of
from tasks.outcomes.table import FeatureTable, read_features
from tasks.reuse import fingerprint

FIRST, OTHER = "first", "other"
Part = list[Any]
"""`["fold", source, repeat, number]` or `["permutation", number]`: what JSON can say, for `tasks.kept`."""


@dataclass(frozen=True)
class Plan:
    """The patients by source of features (`first`, and `other` where two are compared), the question, the settings."""

    files: dict[str, str]
    patients: dict[str, Patients]
    asked: Asked
    config: StudyConfig
    unpaired: int
    key: str

    @property
    def first(self) -> Patients:
        """Those that the study is about."""
        return self.patients[FIRST]

    @property
    def model(self) -> str:
        """The model that is fitted."""
        return model_of(self.config, self.first.is_survival)

    @property
    def about(self) -> str:
        """The outcome in words."""
        return self.asked.outcome or f"{self.asked.event} by {self.asked.time}"

    @property
    def headline(self) -> str:
        """The metric that counts."""
        return "harrell_c" if self.first.is_survival else "auc"

    def parts(self) -> list[Part]:
        """All that is to be done, each in its own time and place."""
        repeats, folds = range(self.config.repeats), range(self.config.folds)
        parts = [["fold", source, repeat, fold] for source in self.patients for repeat in repeats for fold in folds]
        return [*parts, *(["permutation", number] for number in range(self.config.permutations))]

    def described(self) -> dict[str, Any]:
        """What MLflow and the page show of it."""
        asked = {key: value for key, value in vars(self.asked).items() if value}
        return {**self.files, **asked, **self.config.model_dump(mode="json"), "model": self.model}


def plan_study(
    features: str,
    compare: str | None,
    stability: str | None,
    asked: Asked,
    splits: Sequence[str],
    settings: dict[str, Any],
) -> Plan:
    """Read the tables and check that the question can be answered.

    Raises:
        ModelError: what is wrong with a file, a column, a setting, or the number of patients.
    """
    config = validated(StudyConfig, settings, where="--set")
    if not asked.outcome and not (asked.time and asked.event):
        raise ModelError("a study needs --outcome LABEL, or --time COLUMN with --event COLUMN")
    if bool(asked.time) != bool(asked.event):
        raise ModelError("--time and --event belong together: how long, and whether it happened")
    files = {FIRST: features, **({OTHER: compare} if compare else {})}
    read = {
        name: read_features(Path(file), Path(stability) if stability else None, config) for name, file in files.items()
    }
    tables = {name: restricted(table, splits, config, files[name]) for name, table in read.items()}
    found = {name: patients_of(table.rows, table.features, asked, config) for name, table in tables.items()}
    paired = in_common(found)
    for patients in paired.values():
        check_model(config, patients)
        check_folds(patients, config.folds, config.inner_folds, asked.outcome or str(asked.event))
    digests = {name: table.digests for name, table in tables.items()}
    key = fingerprint("study", files=digests, asked=vars(asked), splits=list(splits), config=config.model_dump())
    unpaired = sum(len(patients.names) for patients in found.values()) - len(found) * len(paired[FIRST].names)
    return Plan(files, paired, asked, config, unpaired, key)


def restricted(table: FeatureTable, splits: Sequence[str], config: StudyConfig, file: str) -> FeatureTable:
    """The rows that the study is about."""
    return where_labels_are(of_splits(table, splits, file), config.where, file)


def of_splits(table: FeatureTable, splits: Sequence[str], file: str) -> FeatureTable:
    """The rows of the named splits, or all."""
    if not splits:
        return table
    rows = table.rows[table.rows["split"].isin(splits)]
    if rows.empty:
        raise ModelError(
            f"{file} has no row of split {', '.join(splits)}; splits: {', '.join(table.rows['split'].unique())}"
        )
    return table._replace(rows=rows)


def where_labels_are(table: FeatureTable, where: Mapping[str, float], file: str) -> FeatureTable:
    """The rows whose labels have the values of `where`.

    Raises:
        ModelError: there is no such label, or no such row.
    """
    rows = table.rows
    for label, value in where.items():
        if label not in (known := label_columns(rows, table.features)):
            raise ModelError(f"where: {file} has no label {label!r}; labels are: {', '.join(known) or 'none'}")
        found = rows[rows[label] == value]
        if found.empty:
            values = ", ".join(map(str, rows[label].unique()[:12]))
            raise ModelError(f"where: {file} has no row of {label} {value:g}; values: {values}")
        rows = found
    return table._replace(rows=rows)


def check_model(config: StudyConfig, patients: Patients) -> None:
    """ModelError where the model is not one for the outcome."""
    if config.model and config.is_survival != patients.is_survival:
        fitting = "cox, survival_forest" if patients.is_survival else "logistic, forest"
        wanted = "a survival time" if patients.is_survival else "an outcome of two classes"
        raise ModelError(f"model={config.model} is not for {wanted}; those are {fitting}")


def in_common(found: dict[str, Patients]) -> dict[str, Patients]:
    """The patients that every source has, in one order, so that all have the same folds.

    Raises:
        ModelError: sources have no patient in common, or differ in a patient's outcome.
    """
    names = sorted(set.intersection(*(set(patients.names) for patients in found.values())))
    if not names:
        raise ModelError("the two tables have no patient in common")
    paired = {source: patients.of(names) for source, patients in found.items()}
    outcomes = [patients.outcome for patients in paired.values()]
    for outcome in outcomes[1:]:
        if (differs := outcome != outcomes[0]).any():
            raise ModelError(f"the tables differ in the outcome of patient {names[int(np.argmax(differs))]}")
    return paired
