"""What `evaluate` adds for maps that a segmentation system made: pixels right and wrong within the field of view, and
how well another observer of the same structure does on the same cases.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from models.blocks.field_of_view import in_view
from models.metrics.segmentation import SEGMENTATION, Segmented, segmentation_metrics, segmented
from models.registry import systems
from storage.cohort import Cohort

__all__ = ["SEGMENTATION", "Segmentation", "segmentation_of"]

FAMILY = "segmentation"
SECOND = "_second"  # of the class of masks that a second observer drew: vessels, vessels_second
PHOTOGRAPHIC = (np.uint8, np.uint16)
Metrics = dict[str, Any]
Scores = Callable[[int], np.ndarray]


class Segmentation(NamedTuple):
    """Metrics by map set, and of the class that a second observer drew; both may be empty."""

    methods: dict[str, Metrics]
    observers: dict[str, Metrics]


def segmentation_of(
    cohort: Cohort,
    names: dict[str, str],
    lesions: Sequence[str],
    cases: Sequence[int],
    patients: Sequence[str],
    **drawn: int,
) -> Segmentation:
    """Metrics of those of the map sets `names` that a segmentation system made, against the union of `lesions`.

    Where one class is looked for and the cohort has it by a second observer, too, that one is held against the first.
    """
    made = {short: cohort.maps(name) for short, name in names.items()}
    known = {short: maps.saliency for short, maps in made.items() if family_of(maps.attrs.get("system")) == FAMILY}
    if not known:
        return Segmentation({}, {})
    observed = {name: drawn_by(cohort, name) for name in second_observer(cohort, lesions)}
    held = held_against(cohort, {**known, **observed}, lesions, cases)
    metrics = {name: segmentation_metrics(images, patients, **drawn) for name, images in held.items()}
    return Segmentation(
        {name: metrics[name] for name in known}, {name: without_ranking(metrics[name]) for name in observed}
    )


def second_observer(cohort: Cohort, lesions: Sequence[str]) -> list[str]:
    """The class that a second observer drew of the one that is looked for; none where there is none."""
    others = [f"{lesion}{SECOND}" for lesion in lesions]
    return others if len(others) == 1 and others[0] in cohort.lesions else []


def drawn_by(cohort: Cohort, name: str) -> Scores:
    """The masks of a class as scores, 0 and 1."""
    return lambda case: cohort.mask(case, [name]).astype(np.float32)


def family_of(system: str | None) -> str | None:
    """The family of a system by name; None where it is not known."""
    return systems()[system].family if system in systems() else None


def held_against(
    cohort: Cohort, scores: dict[str, Scores], lesions: Sequence[str], cases: Iterable[int]
) -> dict[str, list[Segmented]]:
    """Every set of scores against the truth of `lesions`, case by case within the view."""
    held: dict[str, list[Segmented]] = {name: [] for name in scores}
    for case in cases:
        truth, view = cohort.mask(case, list(lesions) or None), view_of(cohort, case)
        for name, of_case in scores.items():
            held[name].append(segmented(of_case(case), truth, view))
    return held


def view_of(cohort: Cohort, case: int) -> np.ndarray:
    """The pixels of a photograph that its field of view holds (*grid); all of what is no photograph."""
    image = cohort.image(case)
    if image.ndim != 3 or image.dtype not in PHOTOGRAPHIC:
        return np.ones(image.shape[1:], bool)
    return np.asarray(in_view(torch.from_numpy(image)[None])[0, 0].numpy())


def without_ranking(metrics: Metrics) -> Metrics:
    """What says something of an observer, who ranks no pixels."""
    return {key: value for key, value in metrics.items() if not key.startswith("roc_auc")}
