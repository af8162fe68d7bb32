"""What is left of the features before any is chosen: filled, varying, no two of them the same in other words.

Each is a scikit-learn transformer from DataFrame to DataFrame, so that all it knows is learnt from the patients of a
training fold. None looks at the outcome.
"""

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.base import BaseEstimator, TransformerMixin

from models.errors import ModelError

Floats = npt.NDArray[np.float64]
_FLAT = 1e-9  # of a feature's size: less than this is rounding


class FilledGaps(TransformerMixin, BaseEstimator):
    """Drops features that more than `most_gaps` of the patients lack; fills the others' gaps with their median.

    The columns `aside` pass through.
    """

    def __init__(self, most_gaps: float = 0.2, aside: tuple[str, ...] = ()) -> None:
        self.most_gaps, self.aside = most_gaps, aside

    def fit(self, table: pd.DataFrame, outcome: Any = None) -> Self:
        """Medians of the features that are kept; ModelError where none is."""
        features = table.drop(columns=list(self.aside))
        kept = features.loc[:, features.isna().mean() <= self.most_gaps]
        if kept.columns.empty:
            raise ModelError(f"every feature is missing in more than {100 * self.most_gaps:g} % of a fold's patients")
        self.kept_, self.medians_ = kept.columns.tolist(), kept.median().to_numpy(np.float64)
        return self

    def transform(self, table: pd.DataFrame) -> pd.DataFrame:
        """The kept features without gaps, then the columns aside."""
        values = table[self.kept_].to_numpy(np.float64)
        filled = pd.DataFrame(np.where(np.isnan(values), self.medians_, values), table.index, self.kept_)
        return filled.join(table[list(self.aside)]) if self.aside else filled


class Kept(TransformerMixin, BaseEstimator):
    """Base of what keeps some columns: `kept_` are their names, in the order in which they are handed on."""

    kept_: list[str]

    def transform(self, table: pd.DataFrame) -> pd.DataFrame:
        """The kept columns."""
        return table[self.kept_]


class Varying(Kept):
    """Keeps features that are not the same for all patients."""

    def fit(self, table: pd.DataFrame, outcome: Any = None) -> Self:
        """ModelError where no feature varies."""
        spread = table.max() - table.min()
        self.kept_ = table.columns[spread > _FLAT * table.abs().max()].tolist()
        if not self.kept_:
            raise ModelError("no feature differs between the patients of a fold")
        return self


class Distinct(Kept):
    """Keeps one feature of each cluster in which every two have |Spearman's ρ| of at least `most_correlated`.

    Clusters by complete linkage on 1 − |ρ|. The one that is kept has the largest mean |ρ| with its cluster.
    """

    def __init__(self, most_correlated: float = 0.9) -> None:
        self.most_correlated = most_correlated

    def fit(self, table: pd.DataFrame, outcome: Any = None) -> Self:
        """Find the clusters."""
        columns = table.columns.to_numpy()
        likeness = absolute_correlation(table.rank().to_numpy())
        cluster = clusters_of(likeness, self.most_correlated)
        together = likeness * (cluster[:, None] == cluster)
        order = np.lexsort((np.arange(len(columns)), -together.sum(axis=1).round(12), cluster))
        first = np.unique(cluster[order], return_index=True)[1]
        self.kept_ = columns[np.sort(order[first])].tolist()
        return self


def clusters_of(likeness: Floats, at_least: float) -> npt.NDArray[np.intp]:
    """The cluster of each of F features: every two of a cluster have a likeness (F, F) of `at_least`."""
    if len(likeness) == 1:
        return np.zeros(1, np.intp)
    distance = squareform(np.clip(1 - likeness, 0, None), checks=False)
    return np.asarray(fcluster(linkage(distance, "complete"), 1 - at_least, "distance"), np.intp)


def absolute_correlation(columns: Floats) -> Floats:
    """|Pearson's r| (F, F) of the columns of (N, F); 0 with a constant one, 1 on the diagonal."""
    centred = columns - columns.mean(axis=0)
    norm = np.sqrt((centred**2).sum(axis=0))
    unit = centred / np.where(norm > 0, norm, 1)
    likeness = np.clip(np.abs(unit.T @ unit), 0, 1)
    np.fill_diagonal(likeness, 1)
    return np.asarray(likeness)


def stable_features(features: tuple[str, ...], stability: pd.DataFrame, bound: str, least: float) -> tuple[str, ...]:
    """The features whose intraclass correlation, or its lower bound `icc_low`, is `least` or more.

    `stability` has the columns `name, icc, icc_low, icc_high`; a feature that it does not name is not known to be
    stable, and goes.

    Raises:
        ModelError: a column is missing, or no feature is stable.
    """
    if missing := {"name", bound} - set(stability.columns):
        raise ModelError(f"the stability table has no column {', '.join(sorted(missing))}; it needs name and {bound}")
    stable = set(stability.loc[stability[bound] >= least, "name"])
    kept = tuple(feature for feature in features if feature in stable)
    if not kept:
        raise ModelError(f"no feature has {bound} of {least:g} or more in the stability table")
    return kept
