"""Maps as a system answers them itself: its `predict_step`'s `saliency`, and its `image` where there is one.

What a Dask worker loads, so neither Prefect nor MLflow.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from models.errors import ModelError
from models.system import Prediction, System
from storage.cohort import Cohort


class OwnMap(NamedTuple):
    """A case's `score` (NaN where the system gives none), map (*spatial) float32, and image (C, *spatial) as stored."""

    case: int
    score: float
    saliency: np.ndarray
    image: np.ndarray | None


def own_maps(
    system: System, images: Iterable[tuple[int, np.ndarray]], batch_size: int, device: torch.device | str
) -> Iterator[OwnMap]:
    """The system's answer to each (case, image (C, *spatial)), in order, `batch_size` of them on the device at once.

    `system` is on `device`. ModelError where it predicts no map on the images' grid.
    """
    waiting = iter(images)
    while batch := list(islice(waiting, batch_size)):
        cases, arrays = zip(*batch, strict=True)
        stored = torch.from_numpy(np.stack(arrays)).to(device)
        predicted = predicted_map(system, stored, torch.tensor(cases))
        scores = predicted.get("score", torch.full((len(cases),), float("nan"))).tolist()
        maps = predicted["saliency"].float().cpu().numpy()
        pictures = as_stored(predicted["image"], stored.dtype) if "image" in predicted else [None] * len(cases)
        yield from map(OwnMap, cases, scores, maps, pictures)


@torch.no_grad()
def predicted_map(system: System, stored: Tensor, cases: Tensor) -> Prediction:
    """The prediction for stored images (B, C, *spatial), with its map checked."""
    predicted: Prediction = system.predict_step({"image": stored, "case": cases}, 0)
    if "saliency" not in predicted:
        raise ModelError(f"{system.name} predicts no map of its own: {', '.join(predicted)}; take --method saliency")
    expected, given = (len(stored), *stored.shape[2:]), tuple(predicted["saliency"].shape)
    if given != expected:
        raise ModelError(f"{system.name} predicts maps of {given}, which do not fit images of {expected}")
    return predicted


def as_stored(image: Tensor, dtype: torch.dtype) -> np.ndarray:
    """A predicted image, scaled as stored, in the stored type: rounded and clipped where that is of whole numbers."""
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        image = image.float().round().clamp(limits.min, limits.max)
    return image.to(dtype).cpu().numpy()


def write_own(cohort: Cohort, name: str, shard: list[OwnMap], attributes: dict[str, Any], **noted: Any) -> None:
    """One shard of own maps; `noted` are further columns of its table, one value for all its cases.

    Images are kept where all cases of the cohort have one shape.
    """
    cases, scores, maps, images = zip(*shard, strict=True)
    kept = cohort.grid is not None and images[0] is not None
    arrays = {"image": np.stack(images)} if kept else None
    cohort.write_maps(name, list(cases), maps, pd.DataFrame({"score": scores, **noted}), arrays, attrs=attributes)
