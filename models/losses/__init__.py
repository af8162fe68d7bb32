"""Losses that more than one system can use: small functions of tensors and networks."""

from models.losses.wasserstein import critic_loss, generator_loss, gradient_penalty, interpolated, wasserstein_distance

__all__ = ["critic_loss", "generator_loss", "gradient_penalty", "interpolated", "wasserstein_distance"]
