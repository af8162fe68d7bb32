"""occlusion — where does the score fall when a patch is hidden?

Zeiler and Fergus (2014), section 4.2, with P_u the patches that cover u and x ⊖ p the image with p filled:

    S(u) = 1/|P_u| Σ_{p ∈ P_u} y(x) − y(x ⊖ p)

in   image        (B, C, *spatial) float, as the model takes it
out  attribution  (B, 1, *spatial) in units of the score; positive where hiding lowers it
"""

from itertools import product
from types import EllipsisType

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from models.saliency.explanation import Explanation
from models.saliency.gradient import leaf, scored
from models.saliency.hooks import evaluation
from models.saliency.perturbation import Fill, filling, variants_at_once
from models.saliency.targets import Target

Place = tuple[EllipsisType | slice, ...]


def occlusion(
    model: nn.Module,
    image: Tensor,
    target: Target,
    *,
    patch: PositiveInt = 16,
    stride: PositiveInt = 8,
    fill: Fill = "mean",
) -> Explanation:
    """One forward pass a patch; `patch` and `stride` in pixels along every axis.

    The paper's patch is grey, of unstated size; `fill`: see `perturbation.filling`. No gradient is needed.
    """
    with evaluation(model), torch.no_grad():
        whole = leaf(image).detach()
        score, grey = scored(model, whole, target), filling(whole, fill)
        fall = torch.zeros_like(whole[:, :1])
        covered = torch.zeros_like(whole[:1, :1])
        places, at_once = patches(image.shape[2:], patch, min(stride, patch)), variants_at_once(len(whole))
        for start in range(0, len(places), at_once):
            some = places[start : start + at_once]
            hidden = torch.cat([without(whole, place, grey) for place in some])
            falls = score - scored(model, hidden, target).reshape(len(some), -1)
            for place, lost in zip(some, falls, strict=True):
                fall[place] += lost.reshape(-1, *[1] * (whole.dim() - 1)).to(fall.dtype)
                covered[place] += 1
        return Explanation(score, fall / covered)


def patches(spatial: torch.Size, patch: int, stride: int) -> list[Place]:
    """Every patch, `stride` pixels apart along each axis, and one flush with the far edge; together they cover all."""
    sides = [min(patch, size) for size in spatial]
    starts = [[*range(0, size - side, stride), size - side] for size, side in zip(spatial, sides, strict=True)]
    return [
        (..., *(slice(start, start + side) for start, side in zip(corner, sides, strict=True)))
        for corner in product(*starts)
    ]


def without(whole: Tensor, place: Place, grey: Tensor) -> Tensor:
    """x ⊖ p: `whole` with `place` filled (same shape, new memory)."""
    hidden = whole.clone()
    hidden[place] = grey
    return hidden
