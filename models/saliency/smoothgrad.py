"""SmoothGrad — the gradient averaged over noisy copies of the image.

Smilkov et al. (2017), section 3:  a(x) = 1/n Σ_{j=1..n} ∂y/∂x (x + ε_j),  ε_j ~ N(0, σ²),  σ = noise · (max x − min x)

in   image        (B, C, *spatial) float, as the model takes it
out  attribution  (B, C, *spatial), score per unit of input; `score` is that of the image without noise
"""

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from models.saliency.explanation import Explanation, Method
from models.saliency.gradient import gradient, plain_score
from models.saliency.targets import Target


def smoothgrad(
    model: nn.Module,
    image: Tensor,
    target: Target,
    *,
    samples: PositiveInt = 50,
    noise: NonNegativeFloat = 0.15,
    generator: torch.Generator | None = None,
    method: Method = gradient,
) -> Explanation:
    """`samples` and `noise` are the paper's (10–20 % of the image's range); a CPU `generator`, seed 0 if None.

    One draw serves every case of the batch, so that a case's map does not depend on the company it is in.
    """
    score = plain_score(model, image, target)
    generator = generator or torch.Generator().manual_seed(0)
    sigma = noise * intensity_range(image)
    total = torch.zeros_like(image)
    for _ in range(samples):
        draw = torch.randn(image.shape[1:], generator=generator, dtype=image.dtype).to(image.device)
        total += method(model, image + sigma * draw, target).attribution
    return Explanation(score, total / samples)


def intensity_range(image: Tensor) -> Tensor:
    """max x − min x of each case, (B, 1, …) to multiply with the image."""
    each = image.flatten(1)
    return (each.amax(dim=1) - each.amin(dim=1)).reshape(-1, *[1] * (image.dim() - 1))
