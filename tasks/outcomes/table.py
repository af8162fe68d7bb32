"""The Parquet of `radiomics` as a study reads it; its data dictionary says which of its columns are features."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]

from models.errors import ModelError
from models.outcome.config import StudyConfig
from models.outcome.filters import stable_features
from tasks.reuse import file_digest

LESION = "lesion"  # the family of the columns that say which lesion a row is, where it lies and how large it is


class FeatureTable(NamedTuple):
    """Rows of lesions, the names of the features among the columns, and the digests of the files they are from."""

    rows: pd.DataFrame
    features: tuple[str, ...]
    digests: list[str]


def read_features(file: Path, stability: Path | None, config: StudyConfig) -> FeatureTable:
    """The table and its features, of which those that `stability` knows to be unstable are left out.

    Raises:
        ModelError: a file is missing or is something else, or no feature is left.
    """
    rows, dictionary = read_parquet(file), file.with_suffix(".dictionary.csv")
    known = read_csv(dictionary, "data dictionary, which says which columns are features")
    if not {"name", "family"} <= set(known.columns):
        raise ModelError(f"{dictionary} has no columns name and family, which say what is a feature")
    named = set(known.loc[known["family"] != LESION, "name"])
    features = tuple(column for column in rows.columns if column in named)
    files = [file, dictionary]
    if stability:
        table = read_csv(stability, "table of stability")
        features, files = stable_features(features, table, config.icc_bound, config.least_icc), [*files, stability]
    return FeatureTable(rows, features, [file_digest(one) for one in files])


def read_parquet(file: Path) -> pd.DataFrame:
    """A Parquet file; ModelError where it is none."""
    try:
        return pd.read_parquet(file)
    except FileNotFoundError as error:
        raise ModelError(f"there is no {file}; `lesionflow radiomics COHORT --masks -o {file}` writes one") from error
    except (OSError, pa.ArrowException) as error:
        raise ModelError(f"{file} is no Parquet file ({str(error).splitlines()[0]})") from error


def read_csv(file: Path, what: str) -> pd.DataFrame:
    """A CSV file; ModelError where it is none."""
    try:
        return pd.read_csv(file)
    except FileNotFoundError as error:
        raise ModelError(f"there is no {what}: {file}") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is no CSV file ({error})") from error
