"""The map as it grew: `Refinement.steps`."""

import numpy as np
import pytest
import torch
from torch import nn

from models.localization.refinement import STEP_SIDE, RefinementConfig, block_means, refine
from models.saliency import regression_output


def refined(size: int, config: RefinementConfig):
    """A case of a model y = mean(x²), whose saliency is the image itself, scaled."""

    class Energy(nn.Module):
        def forward(self, image):
            return (image**2).flatten(1).mean(1, keepdim=True)

    image = np.random.default_rng(0).integers(0, 256, (3, size, size)).astype(np.uint8)
    options = {"target": regression_output(), "batch_size": 1, "device": "cpu", "threads": 1}
    [result] = refine(Energy(), lambda stored: stored.to(torch.float32), [(0, image)], config, **options)
    return result


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize("stop_score", [-1.0, 1e9], ids=["to the cap", "healthy at once"])
def test_steps_lead_from_s_0_to_s_as_means_over_blocks(size: int, stop_score: float):
    config = RefinementConfig(saliency="gradient", sign="positive", max_iterations=3, stop_score=stop_score)
    result = refined(size, config)
    block = max(1, size // STEP_SIDE)
    side = size // block
    assert result.steps.shape == (result.iterations + 1, side, side)
    assert result.steps.dtype == np.float32
    for step, whole in ((result.steps[0], result.initial_saliency), (result.steps[-1], result.saliency)):
        means = whole.astype(np.float64).reshape(side, block, side, block).mean((1, 3))
        assert np.allclose(step, means, rtol=1e-5, atol=1e-9)


def test_steps_never_fall():
    steps = refined(64, RefinementConfig(saliency="gradient", sign="positive", max_iterations=4, stop_score=-1.0)).steps
    assert (np.diff(steps, axis=0) >= 0).all()
    assert len(steps) == 5


@pytest.mark.parametrize("shape", [(128, 128), (300, 201), (129, 1000), (5, 400), (1, 1)])
def test_blocks_at_the_edges_are_means_of_the_pixels_they_have(shape: tuple[int, int]):
    saliency = np.random.default_rng(1).random(shape, np.float32)
    means = block_means(saliency, STEP_SIDE)
    block = -(-max(shape) // STEP_SIDE)
    assert max(means.shape) <= STEP_SIDE
    for row in range(means.shape[0]):
        for column in range(means.shape[1]):
            pixels = saliency[row * block : (row + 1) * block, column * block : (column + 1) * block]
            assert means[row, column] == pytest.approx(pixels.mean(), rel=1e-5)
