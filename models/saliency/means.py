"""What is explained of a model that is a mean of others."""

from collections.abc import Iterable

import torch
from torch import nn

from models.saliency.explanation import Explanation


class MeanOfMembers:
    """A model whose output is the mean of its members' outputs for the same input."""

    members: nn.ModuleList


def mean_explanation(explanations: Iterable[Explanation]) -> Explanation:
    """The mean score (B,) and the mean attribution (B, C or 1, *spatial)."""
    scores, attributions = zip(*explanations, strict=True)
    return Explanation(torch.stack(scores).mean(dim=0), torch.stack(attributions).mean(dim=0))
