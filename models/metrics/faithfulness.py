"""Is a map faithful to the model: does the score follow the pixels that the map calls important?

Petsiuk, Das and Saenko (2018), RISE, section 4.1, with r_1 … r_P the pixels from the most to the least salient:

    deletion   = ∫ f(x with r_1 … r_⌊tP⌋ replaced by b) dt        t = 0 … 1, small for a faithful map        (1)
    insertion  = ∫ f(b̃ with r_1 … r_⌊tP⌋ taken from x) dt         large for a faithful map                   (2)

b is the case's mean of each channel, b̃ the case blurred by a Gaussian of a sixteenth of its shortest side.

Rong, Leemann et al. (2022), A consistent and efficient evaluation strategy for attribution methods, section 4:

    road = mean over shares q of  f(x without the qP least salient) − f(x without the qP most salient)       (3)

where pixels that are removed are imputed: each is the weighted mean of its neighbours, removed ones included, plus
noise. Weights halve with every axis along which a neighbour differs (in pictures 1/6 and 1/12, as published). Large for
a faithful map, 0 for a random one.

image     (B, C, *spatial) float, what `score` takes; two or three spatial axes
saliency  (B, *spatial), larger is more important; of equal pixels the first in memory comes first
score     (B, C, *spatial) → (B,); all areas are in its units
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.errors import ModelError

Score = Callable[[Tensor], Tensor]
STEPS = 32
ROAD_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
NOISE = 0.01  # standard deviation of the noise on imputed values, in units of the image
BLUR = 1 / 16  # of the shortest side
CONVERGED, MOST_ITERATIONS = 1e-5, 1000


def deletion_curve(score: Score, image: Tensor, saliency: Tensor, steps: int = STEPS) -> Tensor:
    """The scores (B, steps + 1) of (1), from the whole image to none of it, in equal steps."""
    mean = image.flatten(2).mean(dim=2)
    return replacement_curve(score, image, _over_space(mean, image), saliency, steps)


def insertion_curve(score: Score, image: Tensor, saliency: Tensor, steps: int = STEPS) -> Tensor:
    """The scores (B, steps + 1) of (2), from the blurred image to the sharp one, in equal steps."""
    return replacement_curve(score, blurred(image, BLUR * min(image.shape[2:])), image, saliency, steps)


def replacement_curve(score: Score, start: Tensor, end: Tensor, saliency: Tensor, steps: int) -> Tensor:
    """The scores (B, steps + 1) as `start` becomes `end`, the most salient pixels first."""
    _check(start, saliency)
    rank = importance_rank(saliency)
    pixels = saliency[0].numel()
    scores = []
    for step in range(steps + 1):
        replaced = (rank < math.floor(step * pixels / steps)).unsqueeze(1)
        scores.append(score(torch.where(replaced, end, start)))
    return torch.stack(scores, dim=1)


def area(curve: Tensor) -> Tensor:
    """The area (B,) under scores (B, K) at equal steps of a share from 0 to 1, by trapezoids."""
    return torch.trapezoid(curve, dx=1 / (curve.shape[1] - 1), dim=1)


def road_curves(
    score: Score,
    image: Tensor,
    saliency: Tensor,
    generator: torch.Generator,
    shares: Sequence[float] = ROAD_SHARES,
    noise: float = NOISE,
) -> tuple[Tensor, Tensor]:
    """The two scores of (3) for each of `shares` (B, K): without the most, and without the least salient pixels.

    `generator`, of the image's device, draws the noise.

    Raises:
        ModelError: a share is not between 0 and 1.
    """
    _check(image, saliency)
    if not all(0 < share < 1 for share in shares):
        raise ModelError(f"shares of removed pixels lie between 0 and 1, not at {', '.join(map(str, shares))}")
    rank, pixels = importance_rank(saliency), saliency[0].numel()
    most: list[Tensor] = []
    least: list[Tensor] = []
    for share in shares:
        count = math.floor(share * pixels)
        for removed, scores in ((rank < count, most), (rank >= pixels - count, least)):
            scores.append(score(imputed(image, removed, generator, noise)))
    return torch.stack(most, dim=1), torch.stack(least, dim=1)


def road(most: Tensor, least: Tensor) -> Tensor:
    """(3) from its two curves (B, K): (B,)."""
    return (least - most).mean(dim=1)


def importance_rank(saliency: Tensor) -> Tensor:
    """The place (B, *spatial) of each pixel from the most salient, 0, on."""
    order = saliency.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(saliency.shape)


def imputed(image: Tensor, removed: Tensor, generator: torch.Generator, noise: float = NOISE) -> Tensor:
    """`image` with the pixels of `removed` (B, *spatial) bool as weighted means of their neighbours, plus noise.

    The means are those of the linear system D v − W v = W x, with D each removed pixel's weight of neighbours in the
    image and x the pixels that stay, solved by conjugate gradients.

    Raises:
        ModelError: a case has no pixel left.
    """
    if removed.flatten(1).all(dim=1).any():
        raise ModelError("a case has no pixel left to impute the others from")
    mask = removed.unsqueeze(1).to(image.dtype)
    degree = _neighbours(torch.ones_like(mask))
    kept = image * (1 - mask)
    mean = kept.flatten(2).sum(dim=2) / (1 - mask).flatten(2).sum(dim=2)
    start = _over_space(mean, image) * mask
    solved = _conjugate_gradients(lambda v: mask * (degree * v - _neighbours(v)), mask * _neighbours(kept), start)
    drawn = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
    return kept + mask * (solved + noise * drawn)


def blurred(image: Tensor, sigma: float) -> Tensor:
    """`image` under a Gaussian of `sigma` pixels along every axis, cut at three of them; edges are repeated."""
    reach = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis in range(2, image.dim()):
        lines = image.movedim(axis, -1)
        padded = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (reach, reach), mode="replicate")
        image = F.conv1d(padded, kernel.view(1, 1, -1)).view(lines.shape).movedim(-1, axis)
    return image


def _neighbours(values: Tensor) -> Tensor:
    """The weighted mean over the neighbours of each pixel of (B, C, *spatial), those outside of the image being 0.

    Weights are those of (1, 2, 1) along each axis without their centre.
    """
    axes = values.dim() - 2
    total: Tensor = values
    for axis in range(2, values.dim()):
        before, length = total, total.shape[axis]
        total = 2 * before
        total.narrow(axis, 1, length - 1).add_(before.narrow(axis, 0, length - 1))
        total.narrow(axis, 0, length - 1).add_(before.narrow(axis, 1, length - 1))
    own, all_weights = float(2**axes), float(4**axes)
    return (total - own * values) / (all_weights - own)


def _conjugate_gradients(matrix: Callable[[Tensor], Tensor], right: Tensor, start: Tensor) -> Tensor:
    """x with matrix(x) = right, for each case and channel on its own; `matrix` is symmetric and positive definite."""
    x, residual = start, right - matrix(start)
    direction, squared = residual, _dot(residual, residual)
    limit = CONVERGED**2 * _dot(right, right).clamp_min(torch.finfo(right.dtype).tiny)
    for _ in range(MOST_ITERATIONS):
        if (squared <= limit).all():
            break
        image = matrix(direction)
        step = squared / _dot(direction, image).clamp_min(torch.finfo(right.dtype).tiny)
        x, residual = x + step * direction, residual - step * image
        before, squared = squared, _dot(residual, residual)
        direction = residual + squared / before.clamp_min(torch.finfo(right.dtype).tiny) * direction
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=tuple(range(2, a.dim())), keepdim=True)


def _over_space(values: Tensor, image: Tensor) -> Tensor:
    """(B, C) at every pixel of `image`."""
    return values.view(*values.shape, *[1] * (image.dim() - 2)).expand_as(image)


def _check(image: Tensor, saliency: Tensor) -> None:
    if image.dim() not in (4, 5) or saliency.shape != (len(image), *image.shape[2:]):
        raise ModelError(f"a map of shape {tuple(saliency.shape)} does not fit an image of shape {tuple(image.shape)}")
