import warnings

import pytest
import torch
from captum.attr import GuidedBackprop
from monai.data import MetaTensor
from torch import nn
from torch.nn import functional as F

from models.errors import ModelError
from models.saliency import class_logit, gradient, guided_backprop, regression_output


def captums(model, image, target):
    training = model.training
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attribution = GuidedBackprop(model).attribute(image.clone(), target=target)
    return attribution.detach(), model.train(training)


@pytest.mark.parametrize(
    ("network", "target", "index"), [("vgg", regression_output(), None), ("resnet", class_logit(3), 3)]
)
def test_equals_captum(network, target, index, request):
    model = request.getfixturevalue(network)
    image = torch.randn(2, 3, 64, 64)
    expected, _ = captums(model, image, index)
    given = guided_backprop(model, image, target).attribution
    assert torch.allclose(given, expected, rtol=1e-4, atol=float(1e-6 * expected.abs().max()))
    plain = gradient(model, image, target).attribution
    assert not torch.allclose(given, plain, atol=float(1e-2 * plain.abs().max()))


def two_layers(inplace):
    """y = 2 relu(relu(x₀ − x₁) − 1) − 3 relu(x₀ + x₁), by hand."""
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2)
    last = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
        second.weight.copy_(torch.eye(2))
        second.bias.copy_(torch.tensor([-1.0, 0.0]))
        last.weight.copy_(torch.tensor([[2.0, -3.0]]))
    return nn.Sequential(first, nn.ReLU(inplace=inplace), second, nn.ReLU(inplace=inplace), last)


@pytest.mark.parametrize("inplace", [False, True])
def test_closed_form(inplace):
    """Only paths that are on, and that raise the score, count: the second unit's −3 never passes its ReLU."""
    image = torch.tensor([[3.0, 1.0], [1.0, 0.5], [-1.0, -4.0]])
    model = two_layers(inplace)
    score, attribution = guided_backprop(model, image, regression_output())
    assert score.tolist() == [2.0 - 12.0, -4.5, 4.0]
    assert attribution.tolist() == [[2.0, -2.0], [0.0, 0.0], [2.0, -2.0]]
    assert gradient(model, image, regression_output()).attribution.tolist() == [[-1.0, -5.0], [-3.0, -3.0], [2.0, -2.0]]


def test_equals_the_gradient_without_a_relu():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GELU(), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 2)
    )
    image = torch.randn(2, 3, 8, 8)
    guided, plain = guided_backprop(model, image, class_logit(1)), gradient(model, image, class_logit(1))
    assert torch.equal(guided.attribution, plain.attribution)


def test_a_path_around_the_relu_keeps_its_gradient():
    """At a sum both summands are handed the same gradient tensor; guiding one must not write into the other's."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return -(self.act(x) + 3 * x).sum(1)

    assert guided_backprop(Residual(), torch.ones(1, 2), regression_output()).attribution.tolist() == [[-3.0, -3.0]]


def test_an_in_place_relu_on_part_of_a_tensor_is_refused():
    """Autograd hides it in the whole tensor's node, where it would silently get the plain gradient."""

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            y = 2 * x
            self.act(y[:, :2])
            return y.sum(1)

    with pytest.raises(ModelError, match="in place on part of a tensor"):
        guided_backprop(Half(), torch.ones(1, 4), regression_output())


def test_monai_s_tensors_are_welcome(resnet):
    image = torch.randn(1, 3, 64, 64)
    expected = guided_backprop(resnet, image, class_logit(0)).attribution
    given = guided_backprop(resnet, MetaTensor(image), class_logit(0)).attribution
    assert torch.equal(torch.as_tensor(given), expected)


@pytest.mark.parametrize(
    "relu", [F.relu, torch.relu, torch.Tensor.relu, torch.relu_, lambda x: F.relu(x, inplace=True)]
)
def test_a_functional_relu_is_refused(relu):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.act = nn.Linear(4, 4), nn.ReLU()

        def forward(self, x):
            return self.act(relu(self.layer(x))).sum(1)

    model = Functional()
    with pytest.raises(ModelError, match=r"functional ReLU.*nn\.ReLU"):
        guided_backprop(model, torch.randn(2, 4), regression_output())
    assert not model.act._forward_hooks
    assert model.training
    gradient(model, torch.randn(2, 4), regression_output())


def test_torchscript_is_refused():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)))
    with pytest.raises(ModelError, match="TorchScript"):
        guided_backprop(scripted, torch.randn(1, 2), regression_output())


def test_nonzero_only_along_open_paths():
    """Every positive gradient at a ReLU is confined to where its input was positive."""
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(conv.weight, 2.0)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(16, 1))
    image = torch.randn(1, 1, 4, 4)
    weight = model[3].weight.detach().reshape(1, 1, 4, 4)
    expected = 2.0 * weight * (weight > 0) * (image > 0)
    assert torch.allclose(guided_backprop(model, image, regression_output()).attribution, expected)
