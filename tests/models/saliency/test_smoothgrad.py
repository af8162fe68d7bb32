import torch
from torch import nn

from models.saliency import gradient, guided_backprop, regression_output, smoothgrad


def quadratic(x):
    return (x**2).flatten(1).sum(1)


class Quadratic(nn.Module):
    def forward(self, x):
        return quadratic(x)


def test_without_noise_it_is_the_gradient(vgg):
    image = torch.randn(2, 3, 64, 64)
    smooth, plain = (
        smoothgrad(vgg, image, regression_output(), samples=2, noise=0.0),
        gradient(vgg, image, regression_output()),
    )
    assert torch.allclose(smooth.attribution, plain.attribution, atol=1e-6)
    assert torch.allclose(smooth.score, plain.score)


def test_closed_form_of_the_noise():
    """For y = Σ x² the map is 2x + 2σ·(mean of the draws), with σ a fraction of each image's own range."""
    image = torch.stack([torch.linspace(0, 1, 16), torch.linspace(0, 4, 16)]).reshape(2, 1, 4, 4)
    smooth = smoothgrad(
        Quadratic(), image, regression_output(), samples=4, noise=0.1, generator=torch.Generator().manual_seed(7)
    )
    generator = torch.Generator().manual_seed(7)
    draw = torch.stack([torch.randn(1, 4, 4, generator=generator) for _ in range(4)]).mean(0)
    sigma = torch.tensor([0.1, 0.4]).reshape(2, 1, 1, 1)
    assert torch.allclose(smooth.attribution, 2 * image + 2 * sigma * draw, atol=1e-5)
    assert torch.allclose(smooth.score, quadratic(image))


def test_the_generator_decides_and_the_global_one_is_left_alone(vgg):
    image = torch.randn(1, 3, 64, 64)
    before = torch.get_rng_state()
    one, other = (
        smoothgrad(
            vgg, image, regression_output(), samples=2, generator=torch.Generator().manual_seed(seed)
        ).attribution
        for seed in (1, 2)
    )
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_any_method_can_be_smoothed(vgg):
    image = torch.randn(1, 3, 64, 64)
    smooth = smoothgrad(vgg, image, regression_output(), samples=1, noise=0.0, method=guided_backprop)
    assert torch.allclose(smooth.attribution, guided_backprop(vgg, image, regression_output()).attribution)
