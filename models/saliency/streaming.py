"""Saliency of many images: read lazily, explained in batches, handed out one by one."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from models.saliency import Method, Sign, Target, attribution_map

ToInput = Callable[[Tensor], Tensor]


def saliency_maps(
    model: nn.Module,
    to_input: ToInput,
    images: Iterable[tuple[int, np.ndarray]],
    method: Method,
    *,
    target: Target,
    sign: Sign,
    batch_size: int,
    device: torch.device | str,
) -> Iterator[tuple[int, float, np.ndarray]]:
    """(case, score, map (*spatial) float32 ≥ 0) of each (case, image (C, *spatial)), in order.

    `model` is on `device`.
    """
    waiting = iter(images)
    while batch := list(islice(waiting, batch_size)):
        cases, arrays = zip(*batch, strict=True)
        scores, maps = explained(model, to_input, arrays, method, target=target, sign=sign, device=device)
        yield from zip(cases, scores.tolist(), maps, strict=True)


def explained(
    model: nn.Module,
    to_input: ToInput,
    images: Iterable[np.ndarray],
    method: Method,
    *,
    target: Target,
    sign: Sign,
    device: torch.device | str,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (B,) and maps (B, *spatial), float32 on the host, of images (C, *spatial) that fit the device at once."""
    stored = torch.from_numpy(np.stack(list(images))).to(device)
    score, attribution = method(model, to_input(stored), target)
    maps = attribution_map(attribution, sign)
    return score.float().cpu().numpy(), maps.float().cpu().numpy()
