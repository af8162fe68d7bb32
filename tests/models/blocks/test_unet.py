import pytest
import torch

from models.blocks.unet import UNet, UNetConfig
from models.errors import ModelError


@pytest.mark.parametrize("dims", [2, 3])
def test_the_answer_has_the_image_s_shape_and_lies_between_minus_one_and_one(dims):
    torch.manual_seed(0)
    network = UNet(UNetConfig(channels=2, size=32, spatial_dims=dims, width=0.05))
    image = 2 * torch.rand(2, 2, *(32,) * dims) - 1
    answer = network(image)
    assert answer.shape == image.shape
    assert answer.abs().max() <= 1


def test_at_width_one_the_levels_are_as_wide_as_published():
    network = UNet(UNetConfig(size=32))
    assert [network.levels.get_submodule(f"down_{level}.convs.conv_1.conv").out_channels for level in (1, 2, 3, 4)] == [
        64,
        128,
        256,
        512,
    ]


def test_it_starts_as_a_copy():
    network = UNet(UNetConfig(size=32, width=0.05))
    image = 2 * torch.rand(2, 3, 32, 32) - 1
    assert (network(image) - image).abs().max() < 0.006


def test_an_image_s_answer_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    network = UNet(UNetConfig(size=32, width=0.05)).train()
    torch.nn.init.normal_(network.levels.final_conv.weight)
    image = torch.rand(3, 3, 32, 32)
    assert torch.allclose(network(image)[:1], network(image[:1]), atol=1e-6)


def test_images_of_another_shape_or_an_uneven_size_are_refused():
    network = UNet(UNetConfig(size=32, width=0.05))
    with pytest.raises(ModelError, match=r"takes images of \(3, 32, 32\) \(channels, \*axes\), not \(3, 32, 48\)"):
        network(torch.zeros(1, 3, 32, 48))
    with pytest.raises(ValueError, match="size 50 cannot be halved four times: take a multiple of 16, such as 48"):
        UNetConfig(size=50)
