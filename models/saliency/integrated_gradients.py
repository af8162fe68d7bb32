"""Integrated gradients — each pixel's share of what the score gains on the way from a baseline to the image.

Sundararajan, Taly and Yan (2017), equations 1 and 3, the integral by the midpoints of m equal steps:

    a(u) = Σ_c (x_c(u) − x'_c(u)) · 1/m Σ_{k=1..m} ∂y/∂x_c(u) at x' + (k − ½)/m (x − x')
    Σ_u a(u) → y(x) − y(x')  as m grows                                         (proposition 1, completeness)

in   image        (B, C, *spatial) float, as the model takes it
out  attribution  (B, 1, *spatial) of either sign, in units of the score: the sum over channels, as the paper shows it
"""

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from models.saliency.explanation import Explanation
from models.saliency.gradient import gradient, plain_score
from models.saliency.perturbation import Fill, filling
from models.saliency.targets import Target


def integrated_gradients(
    model: nn.Module, image: Tensor, target: Target, *, steps: PositiveInt = 50, baseline: Fill = "darkest"
) -> Explanation:
    """`steps` m (the paper finds 20 to 300 enough), each a forward and a backward pass.

    `baseline` x': the paper's is black for photographs; see `perturbation.filling`.
    """
    score = plain_score(model, image, target)
    start = filling(image, baseline)
    way = image - start
    total = torch.zeros_like(image)
    for step in range(steps):
        total += gradient(model, start + (step + 0.5) / steps * way, target).attribution
    return Explanation(score, (way * total / steps).sum(dim=1, keepdim=True))
