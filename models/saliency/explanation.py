"""What a saliency method answers, and how an attribution becomes a map."""

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models.saliency.targets import Target

Sign = Literal["negative", "positive", "absolute"]


class Explanation(NamedTuple):
    """`score` (B,) and `attribution` (B, C or 1, *spatial) on the input's grid, raw, in the units its method states."""

    score: Tensor
    attribution: Tensor


class Method(Protocol):
    """A saliency method; `image` is a float tensor (B, C, *spatial), `target` picks the explained score."""

    def __call__(self, model: nn.Module, image: Tensor, target: Target) -> Explanation:
        """Explain each case of the batch on its own."""


def attribution_map(attribution: Tensor, sign: Sign) -> Tensor:
    """(B, C, *spatial) → (B, *spatial) ≥ 0: the chosen part, the largest over channels.

    negative  max_c relu(−a_c)      positive  max_c relu(a_c)      absolute  max_c |a_c|

    The maximum, as in Simonyan et al. 2013 (section 3.1): one strong channel marks a pixel. A sum would let weak
    noise in all three channels weigh as much as one lesion's colour, and make the scale depend on the number of
    channels.
    """
    if sign == "absolute":
        return attribution.abs().amax(dim=1)
    extreme = -attribution.amin(dim=1) if sign == "negative" else attribution.amax(dim=1)
    return torch.relu(extreme)
