"""Figures that a system gives of each case by itself, over a split: their means with patient-level intervals."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.errors import ModelError
from models.metrics.bootstrap import mean_draws, patient_resamples, with_intervals
from models.metrics.kid import kernel_inception_distance
from models.system import System
from storage.cohort import Cohort
from storage.errors import CohortError
from tasks.map_making import best_device
from tasks.maps import selected_cases
from tasks.model_files import describe_model, load_model
from tasks.progress import progress
from tasks.reuse import fingerprint, finished, remember

STEP = "case-figures"
REAL, SYNTHETIC = "real_features", "synthetic_features"
KID, MILLISECONDS = "kid", "milliseconds"
OF_SYNTHESIS = (KID, MILLISECONDS)  # what a system that synthesises has besides
TIMED = 16  # images

Measured = dict[str, np.ndarray]


def case_figures(
    cohort: str, model: str, split: str, *, resamples: int = 1000, seed: int = 0, batch_size: int = 32
) -> dict[str, Any]:
    """`{figure: mean, figure_interval: [low, high]}` of what the model in a folder measures on the cases of `split`.

    A figure with a value a mask class is one figure a class, such as `low_energy_rim_loss`. Of a system that
    synthesises, `kid` compares the features of both sets, and `milliseconds` is how long one image takes. `cases` and
    `patients` are those measured.

    Raises:
        ModelError: the system measures nothing by itself.
        CohortError: the cohort has no labelled case in `split`.
    """
    opened, about = Cohort.open(cohort), describe_model(Path(model))
    drawn = {"resamples": resamples, "seed": seed}
    key = fingerprint(STEP, content=opened.content_digest(), model=about["version"], split=split, **drawn)
    if known := finished(STEP, key):
        return {**known, "reused": True}
    system = load_model(Path(model), about).to(best_device())
    if not system.measures:
        raise ModelError(f"{system.name} measures nothing by itself: evaluate its maps")
    cases = labelled_cases(opened, about["target"], split)
    measured = measure_cases(system, opened, about["target"], cases, batch_size)
    patients = opened.table.loc[cases, "patient_id"].tolist()
    figures = {**means(measured, opened.lesions, patients, **drawn), **of_both_sets(measured)}
    if type(system).synthesize is not System.synthesize:
        figures[MILLISECONDS] = milliseconds(system, opened, cases[:TIMED])
    return remember(STEP, key, {"cases": len(cases), "patients": len(set(patients)), **figures})


def labelled_cases(cohort: Cohort, target: str, split: str) -> list[int]:
    """The cases of a split (or `all`) that have the label; CohortError where there is none."""
    known = np.isfinite(cohort.label(target))
    cases = [case for case in selected_cases(cohort, [] if split == "all" else [split]) if known[case]]
    if not cases:
        raise CohortError(f"{cohort.path} has no case with {target!r} in split {split!r}")
    return cases


def measure_cases(system: System, cohort: Cohort, target: str, cases: Sequence[int], batch_size: int) -> Measured:
    """What the system measures of all cases, (N,) or (N, K) each."""
    labels, parts = cohort.label(target), list[Mapping[str, torch.Tensor]]()
    device = next(system.parameters()).device
    with progress("measure", len(cases)) as advance:
        for start in range(0, len(cases), batch_size):
            chosen = list(cases[start : start + batch_size])
            batch = {
                "image": torch.from_numpy(cohort.images(chosen)),
                "label": torch.from_numpy(labels[chosen]),
                "masks": torch.from_numpy(np.stack([cohort.masks(case) for case in chosen])),
                "case": torch.tensor(chosen),
            }
            parts.append(system.measure({key: value.to(device) for key, value in batch.items()}))
            advance(len(chosen), "")
    return {name: torch.cat([part[name] for part in parts]).double().cpu().numpy() for name in parts[0]}


def means(
    measured: Measured, lesions: Sequence[str], patients: Sequence[str], resamples: int, seed: int
) -> dict[str, Any]:
    """The mean of each figure over the cases that it applies to, with its interval."""
    resampled = patient_resamples(patients, resamples, seed)
    draws: dict[str, np.ndarray] = {}
    for name, values in measured.items():
        if name in (REAL, SYNTHETIC):
            continue
        columns = {name: values} if values.ndim == 1 else named_columns(name, values, lesions)
        draws |= {column: mean_draws(found, resampled) for column, found in columns.items()}
    return dict(with_intervals(draws))


def named_columns(name: str, values: np.ndarray, lesions: Sequence[str]) -> Measured:
    """The columns of a figure (N, L) by the mask class that each is of."""
    return {f"{name}_{lesion}": column for lesion, column in zip(lesions, values.T, strict=True)}


def of_both_sets(measured: Measured) -> dict[str, float]:
    """`kid` of the cases that have features, where there are any."""
    if REAL not in measured or SYNTHETIC not in measured:
        return {}
    real, made = (found[np.isfinite(found).all(axis=1)] for found in (measured[REAL], measured[SYNTHETIC]))
    return {KID: kernel_inception_distance(real, made)}


def milliseconds(system: System, cohort: Cohort, cases: Sequence[int]) -> float:
    """The median time of one image after another; the first is not counted."""
    device, seconds = next(system.parameters()).device, list[float]()
    for case in [cases[0], *cases]:
        image = torch.from_numpy(cohort.image(case)[None]).to(device)
        started = time.perf_counter()
        system.synthesize(image, [0]).cpu()
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds[1:]))
