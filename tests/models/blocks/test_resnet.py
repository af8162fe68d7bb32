import pytest
import torch
from monai.networks.nets.resnet import resnet18
from pydantic import ValidationError
from torch import nn

from models.blocks.resnet import ResNet18, ResNetConfig, load_torchvision_state
from models.errors import ModelError
from models.saliency import cam, class_logit, gradient, guided_backprop

SIDES = {2: 96, 3: 40}


def features(network, image):
    """What `avgpool` gets."""
    kept = []
    handle = network.avgpool.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0].detach()))
    network(image)
    handle.remove()
    return kept[0]


def images(axes, side=None, cases=2, channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(cases, channels, *[side or SIDES[axes]] * axes, generator=generator)


@pytest.mark.parametrize("axes", [2, 3])
def test_it_computes_what_monai_s_resnet_18_computes(axes):
    torch.manual_seed(0)
    network = ResNet18(ResNetConfig(spatial_dims=axes, outputs=7)).eval()
    oracle = resnet18(
        spatial_dims=axes, n_input_channels=3, conv1_t_stride=2, num_classes=7, bias_downsample=False
    ).eval()
    oracle.load_state_dict(network.state_dict())
    assert torch.allclose(network(images(axes)), oracle(images(axes)), rtol=1e-4, atol=1e-5)


def test_the_paper_s_number_of_weights():
    with torch.device("meta"):
        network = ResNet18(ResNetConfig())
    assert sum(parameter.numel() for parameter in network.parameters()) == 11_689_512


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(("stride", "side", "last"), [(4, 64, 2), (2, 64, 4), (1, 64, 8), (4, 128, 4), (1, 30, 4)])
def test_the_last_feature_map_is_eight_times_smaller_than_the_stem_leaves_it(axes, stride, side, last):
    with torch.device("meta"):
        network = ResNet18(ResNetConfig(spatial_dims=axes, width=0.05, stem_stride=stride))
        assert features(network, torch.empty(2, 3, *[side] * axes)).shape[2:] == (last,) * axes


@pytest.mark.parametrize(("width", "channels"), [(0.25, [16, 32, 64, 128]), (2, [128, 256, 512, 1024])])
def test_the_width_multiplies_the_channels(width, channels):
    with torch.device("meta"):
        network = ResNet18(ResNetConfig(width=width, in_channels=1, outputs=2))
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    assert [stage[-1].conv2.out_channels for stage in stages] == channels
    assert (network.conv1.in_channels, network.fc.in_features, network.fc.out_features) == (1, channels[-1], 2)


@pytest.mark.parametrize("axes", [2, 3])
def test_class_activation_mapping_applies(axes):
    torch.manual_seed(0)
    network = ResNet18(ResNetConfig(spatial_dims=axes, width=0.1, outputs=2, stem_stride=2, dropout=0.3)).eval()
    image = images(axes, 32)
    maps = torch.einsum("k,bk...->b...", network.fc.weight[1], features(network, image))
    places = tuple(range(1, axes + 1))
    score, attribution = cam(network, image, class_logit(1))
    assert torch.allclose(score, maps.mean(dim=places) + network.fc.bias[1], atol=1e-5)
    assert attribution.shape == (2, 1, *image.shape[2:])


def test_every_relu_is_a_module_called_once_and_none_works_in_place():
    network = ResNet18(ResNetConfig(width=0.1, outputs=2))
    calls: dict[nn.Module, int] = {}
    relus = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    for relu in relus:
        relu.register_forward_hook(lambda module, inputs, output: calls.update({module: calls.get(module, 0) + 1}))
    network(images(2, 64))
    assert len(relus) == 17
    assert set(calls.values()) == {1}
    assert not any(relu.inplace for relu in relus)


def test_guided_backpropagation_guides_its_relus():
    torch.manual_seed(0)
    network = ResNet18(ResNetConfig(width=0.1, outputs=2, stem_stride=2)).eval()
    image = images(2, 64)
    guided = guided_backprop(network, image, class_logit(1)).attribution
    assert not torch.allclose(guided, gradient(network, image, class_logit(1)).attribution)


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    network = ResNet18(ResNetConfig(width=0.1, outputs=2, stem_stride=1, dropout=0.5)).eval()
    image = images(2, 32)
    assert torch.equal(network(image), network(image))
    network.dropout.train()
    assert not torch.equal(network(image), network(image))


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [((1, 64, 64), r"3 channels and 2 axes, not of the shape \(1, 64, 64\)"), ((3, 8, 64, 64), r"\(3, 8, 64, 64\)")],
)
def test_images_of_another_shape_are_refused(shape, complaint):
    with pytest.raises(ModelError, match=complaint):
        ResNet18(ResNetConfig(width=0.1))(torch.zeros(2, *shape))


@pytest.mark.parametrize("setting", [{"stem_stride": 3}, {"spatial_dims": 1}, {"dropout": 1.0}, {"width": 0}])
def test_what_makes_no_network_is_refused(setting):
    with pytest.raises(ValidationError):
        ResNetConfig(**setting)


def test_torchvision_s_weights_fit_all_but_the_last_layer():
    with torch.device("meta"):
        names = ResNet18(ResNetConfig()).state_dict()
    state = {name: torch.full(tensor.shape, 2.0, dtype=tensor.dtype) for name, tensor in names.items()}
    network = ResNet18(ResNetConfig(outputs=2))
    before = network.fc.weight.clone()
    load_torchvision_state(network, state)
    assert torch.equal(network.fc.weight, before)
    assert all((tensor == 2).all() for name, tensor in network.state_dict().items() if not name.startswith("fc."))


@pytest.mark.parametrize("config", [{"width": 0.5}, {"stem_stride": 1}, {"in_channels": 1}, {"spatial_dims": 3}])
def test_weights_that_do_not_fit_are_refused(config):
    with torch.device("meta"):
        state, network = ResNet18(ResNetConfig()).state_dict(), ResNet18(ResNetConfig(**config))
    with pytest.raises(ModelError, match=r"pre-trained '\w+[.0-9]*.*the weights fit a ResNet-18 of the default width"):
        load_torchvision_state(network, state)
