"""RISE — how high is the score, on average, when a pixel is to be seen?

Petsiuk, Das and Saenko (2018), equation 6, over N random masks M_i in 0 … 1:

    S(u) = Σ_i y(x ⊙ M_i) M_i(u) / Σ_i M_i(u)

A mask is a grid of cells, each visible with probability p, linearly enlarged by a little more than to the image's
size and shifted by a random part of a cell (section 3.2). The paper divides by N · E[M], which Σ_i M_i(u) becomes for
many masks; divided by the sum itself, a score that does not change gives a flat map for few masks, too.

in   image        (B, C, *spatial) float, as the model takes it; 0 is what is not seen
out  attribution  (B, 1, *spatial), in units of the score; as high as the score, and so for positive scores
"""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from models.saliency.explanation import Explanation
from models.saliency.gradient import leaf, scored
from models.saliency.hooks import evaluation
from models.saliency.layers import on_grid
from models.saliency.perturbation import variants_at_once
from models.saliency.targets import Target


def rise(
    model: nn.Module,
    image: Tensor,
    target: Target,
    *,
    masks: PositiveInt = 4000,
    cells: PositiveInt = 7,
    visible: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    seed: NonNegativeInt = 0,
) -> Explanation:
    """One forward pass a mask; the defaults are the paper's (`cells` along every axis, `visible` is p).

    The masks are drawn on the CPU from `seed`, the same for every case. No gradient is needed.
    """
    generator = torch.Generator().manual_seed(seed)
    with evaluation(model), torch.no_grad():
        whole = leaf(image).detach()
        score = scored(model, whole, target)
        seen = torch.zeros_like(whole[:, :1])
        total = torch.zeros_like(whole[:1, :1])
        at_once = variants_at_once(len(whole))
        for start in range(0, masks, at_once):
            count = min(at_once, masks - start)
            drawn = torch.stack([random_mask(image.shape[2:], cells, visible, generator) for _ in range(count)])
            drawn = drawn.to(whole)
            masked = (whole[None] * drawn[:, None, None]).flatten(0, 1)
            scores = scored(model, masked, target).reshape(count, -1).to(seen.dtype)
            seen += torch.einsum("nb,n...->b...", scores, drawn)[:, None]
            total += drawn.sum(dim=0)
        return Explanation(score, seen / total.clamp_min(torch.finfo(total.dtype).tiny))


def random_mask(spatial: torch.Size, cells: int, visible: float, generator: torch.Generator) -> Tensor:
    """M (*spatial), float32 in 0 … 1."""
    grid = (torch.rand([1, 1, *[cells] * len(spatial)], generator=generator) < visible).float()
    sides = [-(-size // cells) for size in spatial]
    large = on_grid(grid, torch.Size([(cells + 1) * side for side in sides]))[0, 0]
    for axis, (size, side) in enumerate(zip(spatial, sides, strict=True)):
        shift = int(torch.randint(side, (), generator=generator))
        large = large.narrow(axis, shift, size)
    return large
