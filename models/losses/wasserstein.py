"""The losses of a Wasserstein GAN — Arjovsky et al. (2017), with the gradient penalty of Gulrajani et al. (2017).

    W   = mean D(x) − mean D(x̃)                                 what the critic D tells real x and generated x̃ apart by
    L_D = −W + η mean (‖∇D(x̂)‖₂ − 1)²                           (Gulrajani et al., equation 3)
    x̂   = ε x + (1 − ε) x̃,   ε ~ U(0, 1), one a pair            (their algorithm 1)
    L_G = −mean D(x̃)

A critic takes (B, C, *spatial) and gives one number a case, (B,) or (B, 1). What is random comes from torch's own
generator.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Critic = Callable[[Tensor], Tensor]


def wasserstein_distance(real_score: Tensor, generated_score: Tensor) -> Tensor:
    """W of the critic's answers (M, …) to real and (N, …) to generated images."""
    return real_score.mean() - generated_score.mean()


def interpolated(real: Tensor, generated: Tensor) -> Tensor:
    """x̂ for pairs of (M, C, *spatial) and (N, C, *spatial) in their order; the longer one's rest has no pair."""
    pairs = min(len(real), len(generated))
    share = torch.rand(pairs, *(1,) * (real.dim() - 1), dtype=real.dtype, device=real.device)
    return share * real[:pairs] + (1 - share) * generated[:pairs]


def gradient_penalty(critic: Critic, image: Tensor) -> Tensor:
    """mean (‖∇D(x̂)‖₂ − 1)² over cases x̂ (B, C, *spatial), differentiable by the critic's weights."""
    place = image.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(place).sum(), place, create_graph=True)
    steepness: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
    return (steepness - 1).square().mean()


def critic_loss(critic: Critic, real: Tensor, generated: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """L_D with η = `penalty`, and W without a graph, of (M, C, *spatial) real and (N, C, *spatial) generated images.

    Both are answered in one pass. Where there is nothing to tell apart, M or N being 0, both are zero, and the
    critic's gradients are zero rather than absent: in a distributed training every process has to have some.
    """
    score = critic(torch.cat([real, generated])).reshape(-1)
    if not (len(real) and len(generated)):
        return 0 * score.sum(), score.new_zeros(())
    distance = wasserstein_distance(score[: len(real)], score[len(real) :])
    return penalty * gradient_penalty(critic, interpolated(real, generated)) - distance, distance.detach()


def generator_loss(generated_score: Tensor) -> Tensor:
    """L_G of the critic's answers (N, …)."""
    return -generated_score.mean()
