"""Does a map depend on what the model has learned? The model-randomisation test, and how alike two maps are.

Adebayo et al. (2018), Sanity checks for saliency maps, section 3.1: the layers are drawn anew one after the other, from
the output down, each staying so, and the map of the model so far is compared with that of the trained one. A method
whose maps hardly change explains the image, not the model.

maps  (B, *spatial), two or three spatial axes
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import ModelError

Model = TypeVar("Model", bound=nn.Module)
SHARES = (0.25, 0.5, 0.75, 1.0)
WINDOW = 7
_C1, _C2 = 0.01**2, 0.03**2


def layers_from_output(model: nn.Module, forward: Callable[[], object]) -> list[str]:
    """Names of the modules with parameters of their own that `forward` runs, the last to run first.

    Raises:
        ModelError: there is none.
    """
    ran: dict[str, None] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda *_: ran.update({name: None})

    hooks = [
        module.register_forward_pre_hook(note(name))
        for name, module in model.named_modules()
        if list(module.parameters(recurse=False))
    ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    if not ran:
        raise ModelError("the model runs no layer with parameters; there is nothing to randomise")
    return list(ran)[::-1]


def cascade(
    model: Model, layers: list[str], seed: int, shares: tuple[float, ...] = SHARES
) -> Iterator[tuple[float, Model]]:
    """(share of layers randomised, the model so): its output layer alone, then each of `shares` of `layers`.

    One copy of the model, randomised further each time; the model itself stays as it was. Equal seeds, equal draws.
    """
    randomised = copy.deepcopy(model)
    stops = sorted({1, *(math.ceil(share * len(layers)) for share in shares)})
    done = 0
    for stop in stops:
        for place in range(done, stop):
            randomise(randomised.get_submodule(layers[place]), seed + place)
        done = stop
        yield stop / len(layers), randomised


@torch.no_grad()
def randomise(module: nn.Module, seed: int) -> None:
    """Draw the module's own parameters as before training; those without such a rule from their mean and spread."""
    devices = {parameter.device for parameter in module.parameters(recurse=False)}
    with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
        torch.manual_seed(seed)
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
            return
        for parameter in module.parameters(recurse=False):
            spread = parameter.std() if parameter.numel() > 1 else parameter.abs().mean()
            parameter.copy_(parameter.mean() + spread * torch.randn_like(parameter))


def rank_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's ρ (B,) of two maps over their pixels, equal ones sharing their rank; 0 where a map is constant."""
    a, b = (_mean_ranks(maps.flatten(1)) for maps in (one, other))
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    scale = (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
    return torch.where(scale > 0, (a * b).sum(dim=1) / scale.clamp_min(1e-12), 0.0)


def structural_similarity(one: Tensor, other: Tensor) -> Tensor:
    """SSIM (B,) of two maps, each scaled to 0–1 by its own range, in windows of 7 pixels (Wang et al. 2004).

    Means over every window that lies within the map, with unbiased variances; a map narrower than 7 pixels has one
    window along that axis.
    """
    a, b = (_unit_range(maps).unsqueeze(1).double() for maps in (one, other))
    window = tuple(min(WINDOW, side) for side in a.shape[2:])
    pool = F.avg_pool2d if a.dim() == 4 else F.avg_pool3d
    means = [pool(values, window, stride=1) for values in (a, b, a * a, b * b, a * b)]
    unbiased = math.prod(window) / (math.prod(window) - 1)
    mean_a, mean_b, square_a, square_b, product = means
    covariance = unbiased * (product - mean_a * mean_b)
    variances = unbiased * (square_a - mean_a**2 + square_b - mean_b**2)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return (luminance * (2 * covariance + _C2) / (variances + _C2)).flatten(1).mean(dim=1).float()


def _mean_ranks(values: Tensor) -> Tensor:
    """(B, P) → ranks (B, P) from 0, double."""
    ranks = []
    for row in values:
        _, place, counts = row.unique(return_inverse=True, return_counts=True)
        ends = counts.cumsum(0).double()
        ranks.append((ends - (counts.double() + 1) / 2)[place])
    return torch.stack(ranks)


def _unit_range(maps: Tensor) -> Tensor:
    flat = maps.flatten(1)
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    return ((flat - low) / (high - low).clamp_min(torch.finfo(flat.dtype).tiny)).view(maps.shape)
