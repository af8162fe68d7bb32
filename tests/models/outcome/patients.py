"""Simulated lesions with outcomes whose best predictor is known."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from models.outcome import Asked, Patients, StudyConfig, patients_of

BY_CLASS, BY_TIME = Asked(outcome="response"), Asked(time="days", event="death")
FAST = StudyConfig(repeats=1, numbers=(2, 5), penalties=(1.0, 0.1))


class Simulated(NamedTuple):
    """Rows of lesions, the names of the features, and the true log-odds, which is the log-hazard too."""

    rows: pd.DataFrame
    features: list[str]
    log_odds: np.ndarray


def simulated(patients: int, features: int, seed: int, informative: int = 3, strength: float = 0.8) -> Simulated:
    """Normal features, of which the first `informative` add up to the log-odds."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(patients, features))
    log_odds = strength * values[:, :informative].sum(axis=1)
    names = [f"f{number}" for number in range(features)]
    table = pd.DataFrame(values, columns=names)
    event, censored = rng.exponential(1000 * np.exp(-log_odds)), rng.exponential(2000, patients)
    about = {
        "patient_id": [f"p{number:04d}" for number in range(patients)],
        "lesion_class": "tumour",
        "n_pixels": 9,
        "response": (rng.random(patients) < 1 / (1 + np.exp(-log_odds))).astype(float),
        "days": np.minimum(event, censored),
        "death": (event <= censored).astype(float),
    }
    return Simulated(table.assign(**about), names, log_odds)


def simulated_patients(
    patients: int,
    features: int,
    seed: int,
    informative: int = 3,
    strength: float = 0.8,
    asked: Asked = BY_CLASS,
    config: StudyConfig = FAST,
) -> Patients:
    """`simulated` as a study has it; patients in the order in which they were drawn."""
    drawn = simulated(patients, features, seed, informative, strength)
    return patients_of(drawn.rows, drawn.features, asked, config)
