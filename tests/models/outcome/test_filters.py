"""What is left of the features."""

import numpy as np
import pandas as pd
import pytest

from models.errors import ModelError
from models.outcome.filters import Distinct, FilledGaps, Varying, stable_features

RNG = np.random.default_rng(0)
NAN = np.nan


def test_gaps_are_filled_by_the_median_of_the_training_patients():
    filled = FilledGaps(most_gaps=0.5).fit(pd.DataFrame({"a": [1.0, 2.0, 9.0, NAN], "b": [NAN, NAN, NAN, 1.0]}))
    assert filled.transform(pd.DataFrame({"a": [NAN, 5.0], "b": [1.0, 1.0]})).to_dict("list") == {"a": [2.0, 5.0]}


def test_features_all_with_gaps_are_refused():
    with pytest.raises(ModelError, match="every feature is missing in more than 20 %"):
        FilledGaps().fit(pd.DataFrame({"a": [NAN, 1.0]}))


def test_constant_features_go():
    assert Varying().fit(pd.DataFrame({"a": [3.0, 3.0], "b": [1.0, 2.0]})).kept_ == ["b"]


def test_one_of_a_cluster_is_kept():
    base, other = RNG.normal(size=(2, 100))
    table = pd.DataFrame({"a": base, "a³": base**3, "other": other, "−a": -base + 1e-3 * other})
    kept = Distinct(0.9).fit(table).kept_
    assert len(kept) == 2
    assert "other" in kept


def test_every_two_of_a_cluster_are_alike():
    # a chain: neighbours alike, the ends not; a single-linkage cluster would be one
    steps = RNG.normal(size=(5, 400))
    table = pd.DataFrame({f"f{end}": steps[: end + 1].sum(axis=0) for end in range(5)})
    likeness = table.corr("spearman").abs()
    kept = Distinct(0.85).fit(table).kept_
    assert likeness.iloc[0, -1] < 0.85
    assert len(kept) >= 2


def test_unstable_and_unknown_features_go():
    stability = pd.DataFrame({"name": ["a", "b"], "icc": [0.9, 0.8], "icc_low": [0.8, 0.6], "icc_high": [1.0, 0.9]})
    assert stable_features(("a", "b", "c"), stability, "icc", 0.75) == ("a", "b")
    assert stable_features(("a", "b", "c"), stability, "icc_low", 0.75) == ("a",)
    with pytest.raises(ModelError, match=r"no feature has icc of 0\.95 or more"):
        stable_features(("a", "b"), stability, "icc", 0.95)
