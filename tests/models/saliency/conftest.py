import pytest
import torch
from monai.networks.nets.resnet import resnet18
from torch import nn

from models.blocks.vgg import VGGConfig, VGGRegressor


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def vgg():
    """VGG-16 of full width at 64 pixels, with in-place ReLUs, dropout and a small head."""
    torch.manual_seed(1)
    return VGGRegressor(VGGConfig(size=64, stem_stride=1, block5_valid=False, head=(64, 64))).train()


@pytest.fixture(scope="module")
def resnet():
    """MONAI's ResNet-18: in-place ReLUs used twice a block, batch normalisation with statistics of its own."""
    torch.manual_seed(2)
    network = resnet18(spatial_dims=2, n_input_channels=3, num_classes=5).train()
    with torch.no_grad():
        network(torch.randn(8, 3, 64, 64))
    return network


@pytest.fixture
def volume_model():
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.AvgPool3d(2),
        nn.Conv3d(4, 6, 3),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )
