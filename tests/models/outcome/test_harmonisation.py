"""ComBat: what scanners add goes, what a covariate says stays."""

import numpy as np
import pandas as pd
import pytest

from models.errors import ModelError
from models.outcome.harmonisation import Combat, apply_combat, fit_combat

PATIENTS, FEATURES = 300, 12


def scanned(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features as they are and as scanners show them, scanners, and an age that all features follow."""
    rng = np.random.default_rng(seed)
    scanner = np.repeat(["A", "B", "C"], PATIENTS // 3)
    age = rng.normal(size=PATIENTS) + 0.8 * (scanner == "B")  # scanner B has the older patients
    truth = rng.normal(size=(PATIENTS, FEATURES)) + age[:, None] * np.linspace(0.5, 1.5, FEATURES)
    shift = {"A": 0.0, "B": 3.0, "C": -2.0}
    scale = {"A": 1.0, "B": 2.0, "C": 0.5}
    seen = np.array([truth[row] * scale[name] + shift[name] for row, name in enumerate(scanner)])
    return truth, seen, scanner, age


def gaps(features: np.ndarray, scanner: np.ndarray) -> tuple[float, float]:
    """The largest distance between scanners of a feature's mean, and the largest ratio of their deviations."""
    means = np.array([features[scanner == name].mean(axis=0) for name in "ABC"])
    spreads = np.array([features[scanner == name].std(axis=0) for name in "ABC"])
    return float(np.ptp(means, axis=0).max()), float((spreads.max(axis=0) / spreads.min(axis=0)).max())


def test_shift_and_scale_between_scanners_go():
    rng = np.random.default_rng(1)
    scanner = np.repeat(["A", "B", "C"], 100)
    seen = rng.normal(size=(300, FEATURES)) * np.repeat([1, 3, 0.5], 100)[:, None] + np.repeat([0, 5, -5], 100)[:, None]
    none = np.empty((300, 0))
    after = apply_combat(fit_combat(seen, scanner, none), seen, scanner, none)
    before, (shift, ratio) = gaps(seen, scanner)[0], gaps(after, scanner)
    assert before > 9
    assert shift < 0.05 * before  # what chance makes of single features is shrunk, not followed
    assert ratio < 1.15


def test_covariate_keeps_its_effect():
    truth, seen, scanner, age = scanned()
    covariates = age[:, None]
    after = apply_combat(fit_combat(seen, scanner, covariates), seen, scanner, covariates)
    older = truth[scanner == "B"].mean() - truth[scanner == "A"].mean()
    kept = after[scanner == "B"].mean() - after[scanner == "A"].mean()
    none = np.empty((PATIENTS, 0))
    without = apply_combat(fit_combat(seen, scanner, none), seen, scanner, none)
    assert older > 0.5
    assert kept > 0.4
    assert without[scanner == "B"].mean() - without[scanner == "A"].mean() < 0.2


def test_transforming_the_training_patients_equals_johnsons_formulas_in_one_go():
    _, seen, scanner, _ = scanned(2)
    none = np.empty((PATIENTS, 0))
    after = apply_combat(fit_combat(seen, scanner, none), seen, scanner, none)
    assert np.allclose(after, johnson(seen, scanner), atol=1e-4)


def test_held_out_patients_are_moved_as_the_training_ones_were():
    _, seen, scanner, _ = scanned(3)
    table = pd.DataFrame(seen, columns=[f"f{number}" for number in range(FEATURES)]).assign(scanner=scanner)
    step = Combat("scanner").fit(table)
    assert np.allclose(step.transform(table).iloc[[7, 150]], step.transform(table.iloc[[7, 150]]))
    assert list(step.transform(table).columns) == [f"f{number}" for number in range(FEATURES)]


def test_unseen_scanner_is_refused_by_name():
    _, seen, scanner, _ = scanned()
    table = pd.DataFrame(seen).rename(columns=str).assign(scanner=scanner)
    step = Combat("scanner").fit(table[table["scanner"] != "C"])
    with pytest.raises(ModelError, match=r"scanner C is in no training fold.*scanner A, scanner B"):
        step.transform(table)


@pytest.mark.parametrize(("scanner", "message"), [("A" * 6, "nothing to harmonise"), ("AAAAAB", "B has one patient")])
def test_scanners_that_cannot_be_harmonised(scanner: str, message: str):
    with pytest.raises(ModelError, match=message):
        fit_combat(np.random.default_rng(0).normal(size=(6, 3)), list(scanner), np.empty((6, 0)))


def test_covariate_that_tells_the_scanner_is_refused():
    _, seen, scanner, _ = scanned()
    with pytest.raises(ModelError, match="cannot be parted"):
        fit_combat(seen, scanner, (scanner == "A").astype(float)[:, None])


def johnson(seen: np.ndarray, scanner: np.ndarray) -> np.ndarray:
    """Feature by feature and scanner by scanner, as the paper writes it."""
    rows = {name: scanner == name for name in np.unique(scanner)}
    alpha = seen.mean(axis=0)
    residual = seen - np.array([seen[rows[name]].mean(axis=0) for name in scanner])
    sigma = np.sqrt((residual**2).mean(axis=0))
    z = (seen - alpha) / sigma
    after = np.empty_like(seen)
    for chosen in rows.values():
        own, n = z[chosen], chosen.sum()
        g_hat, d_hat = own.mean(axis=0), own.var(axis=0, ddof=1)
        g_bar, t2 = g_hat.mean(), g_hat.var(ddof=1)
        m, s2 = d_hat.mean(), d_hat.var(ddof=1)
        a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
        for feature in range(seen.shape[1]):
            g, d = g_hat[feature], d_hat[feature]
            for _ in range(200):
                g = (t2 * n * g_hat[feature] + d * g_bar) / (t2 * n + d)
                d = (0.5 * ((own[:, feature] - g) ** 2).sum() + b) / (n / 2 + a - 1)
            after[chosen, feature] = sigma[feature] / np.sqrt(d) * (own[:, feature] - g) + alpha[feature]
    return after
