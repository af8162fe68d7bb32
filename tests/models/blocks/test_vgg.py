import pytest
import torch
from pydantic import ValidationError
from torch import nn

from models.blocks.vgg import VGGConfig, VGGRegressor, load_torchvision_state
from models.errors import ModelError

TORCHVISION = {
    16: (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"),
    19: (64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"),
}


def torchvision_state(batch_norm=False, depth=16):
    """A state dict in torchvision's layout: features.N by position, classifier.0, .3 and .6."""
    layers, channels = [], 3
    for item in TORCHVISION[depth]:
        if item == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(channels, item, 3), *([nn.BatchNorm2d(item)] if batch_norm else []), nn.ReLU()]
            channels = item
    state = {
        f"features.{name}": torch.full_like(t, i)
        for i, (name, t) in enumerate(nn.Sequential(*layers).state_dict().items())
    }
    for index, (outputs, inputs) in {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}.items():
        state[f"classifier.{index}.weight"] = torch.full((outputs, inputs), 100.0 + index)
        state[f"classifier.{index}.bias"] = torch.full((outputs,), 100.5 + index)
    return state


@pytest.fixture(scope="module")
def state():
    return torchvision_state()


@pytest.fixture(scope="module")
def paper_network():
    with torch.device("meta"):
        return VGGRegressor(VGGConfig())


def test_the_paper_s_geometry(paper_network):
    shape = paper_network.features(torch.zeros(1, 3, 512, 512, device="meta")).shape
    assert shape == (1, 512, 7, 7)
    assert VGGConfig().feature_side == 7
    convolutions = [module for module in paper_network.features if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 13
    assert convolutions[0].stride == (2, 2)
    assert [c.padding for c in convolutions] == [(1, 1)] * 10 + [(0, 0)] + [(1, 1)] * 2
    assert [(m.in_features, m.out_features) for m in paper_network.classifier if isinstance(m, nn.Linear)] == [
        (25088, 4096),
        (4096, 4096),
        (4096, 1),
    ]
    assert [module.p for module in paper_network.classifier if isinstance(module, nn.Dropout)] == [0.5, 0.5]
    assert sum(parameter.numel() for parameter in paper_network.parameters()) == 138_357_544 - 1000 * 4097 + 4097


@pytest.mark.parametrize(
    ("size", "stride", "valid"), [(128, 1, True), (128, 2, True), (224, 1, False), (65, 1, False), (300, 3, True)]
)
@pytest.mark.parametrize("normalisation", ["none", "batch", "group"])
def test_other_sizes_fit_their_head(size, stride, valid, normalisation):
    config = VGGConfig(
        size=size,
        stem_stride=stride,
        block5_valid=valid,
        width=0.1,
        normalisation=normalisation,
        head=(8,),
        in_channels=2,
        outputs=3,
    )
    network = VGGRegressor(config)
    image = torch.randn(2, 2, size, size)
    assert network.features(image).shape[2:] == (config.feature_side,) * 2
    assert network(image).shape == (2, 3)


def test_configuration_e_has_sixteen_convolutions_and_the_published_number_of_weights():
    with torch.device("meta"):
        network = VGGRegressor(VGGConfig(depth=19, size=224, stem_stride=1, block5_valid=False, outputs=1000))
    convolutions = [module.out_channels for module in network.features if isinstance(module, nn.Conv2d)]
    assert convolutions == [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    assert sum(parameter.numel() for parameter in network.parameters()) == 143_667_240


def test_torchvision_weights_of_vgg_19_fit_it_and_not_vgg_16():
    state = torchvision_state(depth=19)
    network = VGGRegressor(VGGConfig(depth=19, size=224, stem_stride=1, block5_valid=False))
    load_torchvision_state(network, state)
    assert all(torch.equal(t, state[n]) for n, t in network.state_dict().items() if not n.startswith("classifier.6."))
    with torch.device("meta"):
        shallow = VGGRegressor(VGGConfig(size=224, stem_stride=1, block5_valid=False))
    with pytest.raises(ModelError, match="of the depth and normalisation they were trained with"):
        load_torchvision_state(shallow, state)


def test_pooled_head():
    config = VGGConfig(size=128, stem_stride=1, width=0.25, head=(), head_pool=1)
    network = VGGRegressor(config)
    assert network(torch.randn(2, 3, 128, 128)).shape == (2, 1)
    assert network.classifier[0].in_features == 128


@pytest.mark.parametrize(
    ("size", "stride", "valid", "smallest"), [(126, 2, True, 127), (63, 1, True, 64), (31, 1, False, 32)]
)
def test_too_small_images_are_refused_and_the_smallest_is_named(size, stride, valid, smallest):
    with pytest.raises(ValidationError, match=f"smallest size is {smallest}"):
        VGGConfig(size=size, stem_stride=stride, block5_valid=valid)
    network = VGGRegressor(VGGConfig(size=smallest, stem_stride=stride, block5_valid=valid, width=0.05, head=(4,)))
    assert network.features(torch.zeros(1, 3, smallest, smallest)).shape[2:] == (1, 1)


def test_an_image_of_another_shape_is_refused():
    network = VGGRegressor(VGGConfig(size=64, stem_stride=1, width=0.05, head=(4,)))
    with pytest.raises(ModelError, match=r"\(3, 64, 64\) .* not \(3, 96, 96\)"):
        network(torch.zeros(1, 3, 96, 96))


def test_torchvision_weights_fit_all_but_the_last_layer(state):
    network = VGGRegressor(VGGConfig())
    last = {name: tensor.clone() for name, tensor in network.state_dict().items() if name.startswith("classifier.6.")}
    load_torchvision_state(network, state)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, last.get(name, state.get(name))), name


@pytest.mark.parametrize("depth", [16, 19])
def test_torchvision_weights_with_batch_normalisation(depth):
    with torch.device("meta"):
        state = {n: t for n, t in torchvision_state(True, depth).items() if n.startswith("features.")}
        network = VGGRegressor(VGGConfig(depth=depth, normalisation="batch"))
    assert {name: t.shape for name, t in network.features.state_dict(prefix="features.").items()} == {
        name: t.shape for name, t in state.items()
    }


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"width": 0.5}, r"'classifier.0.weight' is \(4096, 25088\), the network's \(4096, 12544\)"),
        ({"head": (8,)}, r"'classifier.0.bias' is \(4096,\), the network's \(8,\)"),
        ({"in_channels": 1}, r"'features.0.weight' is \(64, 3, 3, 3\), the network's \(64, 1, 3, 3\)"),
        ({"normalisation": "group"}, r"'features.1.bias' is absent, the network's \(64,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(config, complaint, state):
    with torch.device("meta"):
        network = VGGRegressor(VGGConfig(**config))
    with pytest.raises(ModelError, match=complaint):
        load_torchvision_state(network, state)
    assert network.features[0].weight.is_meta


def test_activations_keep_their_scale_at_the_start():
    torch.manual_seed(0)
    network = VGGRegressor(VGGConfig(size=64, stem_stride=1, width=0.25, head=(64,)))
    features = network.features(torch.randn(4, 3, 64, 64))
    assert 0.05 < features.square().mean().sqrt() < 20
