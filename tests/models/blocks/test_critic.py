import pytest
import torch
from torch import nn

from models.blocks.critic import Critic, CriticConfig
from models.errors import ModelError


@pytest.mark.parametrize("dims", [2, 3])
def test_an_image_gets_one_number(dims):
    critic = Critic(CriticConfig(in_channels=2, spatial_dims=dims, width=0.05, strided=3))
    assert critic(torch.rand(3, 2, *(16,) * dims)).shape == (3, 1)


def test_it_has_seven_convolutions_and_no_batch_normalisation():
    modules = list(Critic(CriticConfig()).modules())
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    assert [one.out_channels for one in convolutions] == [64, 128, 256, 512, 512, 512, 1]
    assert [one.stride[0] for one in convolutions] == [2, 2, 2, 2, 1, 1, 1]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in modules)


def test_it_looks_past_brightness_and_contrast():
    torch.manual_seed(0)
    critic, image = Critic(CriticConfig(width=0.1)), torch.rand(2, 3, 32, 32)
    assert torch.allclose(critic(image), critic(0.3 * image + 0.5), atol=1e-3)
    assert not torch.allclose(critic(image), critic(image.square()), atol=1e-3)


def test_it_sees_brightness_where_it_is_to():
    torch.manual_seed(0)
    critic, image = Critic(CriticConfig(width=0.1, sees_brightness=True)), torch.rand(2, 3, 32, 32)
    assert not torch.allclose(critic(image), critic(0.3 * image + 0.5), atol=1e-3)


def test_an_image_s_number_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    critic, image = Critic(CriticConfig(width=0.1)), torch.rand(3, 3, 32, 32)
    assert torch.allclose(critic(image)[:1], critic(image[:1]), atol=1e-5)


def test_images_that_do_not_fit_are_refused():
    critic = Critic(CriticConfig(width=0.1))
    with pytest.raises(ModelError, match=r"takes images of 3 channels and 2 axes, not of the shape \(1, 32, 32\)"):
        critic(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ModelError, match=r"images of \(16, 32\) are too small .* the smallest side is 32"):
        critic(torch.zeros(1, 3, 16, 32))
    with pytest.raises(ValueError, match="of 3 layers at most 2 can halve the sides"):
        CriticConfig(layers=3, strided=3)
