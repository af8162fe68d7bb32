import pytest
import torch
from captum.attr import DeepLift
from torch import nn
from torch.nn import functional as F

from models.errors import ModelError
from models.saliency import class_logit, deeplift, integrated_gradients, regression_output

IMAGE = torch.randn(3, 2, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    """A block whose one in-place ReLU runs twice, and that adds its input in place."""

    def __init__(self, channels, twice=True):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.last = self.act if twice else nn.ReLU(inplace=True)

    def forward(self, image):
        out = self.second(self.act(self.first(image)))
        out += image
        return self.last(out)


def network(*middle):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), *middle, nn.Flatten(), nn.LazyLinear(2)).double().eval()
    model(IMAGE)
    return model


@pytest.mark.parametrize(
    "middle",
    [
        (nn.ReLU(), nn.AvgPool2d(2)),
        (nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2)),
        (nn.Sigmoid(), nn.Conv2d(4, 4, 3), nn.Tanh()),
        (nn.LeakyReLU(0.2), Residual(4, twice=False)),
        (nn.Softplus(), nn.BatchNorm2d(4), nn.ELU()),
    ],
    ids=["relu", "max-pooling", "sigmoid-tanh", "residual", "softplus-batch-norm"],
)
def test_equals_captum_where_captum_is_right(middle):
    model, image = network(*middle), IMAGE
    given = deeplift(model, image, class_logit(1), baseline=0.1).attribution
    expected = DeepLift(model).attribute(image, torch.full_like(image, 0.1), target=1).detach()
    assert torch.allclose(given, expected.sum(dim=1, keepdim=True), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "middle",
    [
        (nn.ReLU(), nn.MaxPool2d(2)),
        (nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)),
        (Residual(4), Residual(4), nn.AdaptiveAvgPool2d(1)),
    ],
    ids=["max-pooling-after-relu", "overlapping-max-pooling", "relu-used-twice"],
)
def test_differences_are_summed_where_captum_s_are_not(middle):
    model, image = network(*middle), IMAGE
    score, attribution = deeplift(model, image, class_logit(0), baseline="mean")
    start = image.mean(dim=(2, 3), keepdim=True).expand_as(image)
    assert torch.allclose(attribution.sum(dim=(1, 2, 3)), score - model(start)[:, 0])


@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_differences_are_summed_through_the_networks_here(name, request):
    model, index = request.getfixturevalue(name), {"vgg": 0, "resnet": 3}[name]
    modes = [(module, module.training) for module in model.modules()]
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    model.double().eval()
    score, attribution = deeplift(model, image, class_logit(index), baseline="zero")
    with torch.no_grad():
        gain = score - model(torch.zeros_like(image))[:, index]
    assert torch.allclose(attribution.sum(dim=(1, 2, 3)), gain, rtol=1e-8)
    model.float()
    for module, training in modes:
        module.training = training


def test_volumes_pooled_by_their_maxima_are_summed_too():
    torch.manual_seed(5)
    layers = (nn.Conv3d(1, 3, 3), nn.ReLU(inplace=True), nn.MaxPool3d(3, 2), nn.Flatten(), nn.LazyLinear(1))
    model, image = nn.Sequential(*layers).double(), torch.randn(2, 1, 9, 9, 9, dtype=torch.float64)
    model(image)
    score, attribution = deeplift(model, image, regression_output(), baseline=0.2)
    assert torch.allclose(attribution.sum(dim=(1, 2, 3, 4)), score - model(torch.full_like(image, 0.2))[:, 0])


def test_of_a_linear_score_it_is_integrated_gradients():
    model, image = nn.Sequential(nn.Flatten(), nn.Linear(32, 1)), torch.randn(2, 2, 4, 4)
    lifted, integrated = (method(model, image, regression_output()) for method in (deeplift, integrated_gradients))
    assert torch.allclose(lifted.attribution, integrated.attribution, atol=1e-5)


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, image):
        return self.function(image)


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (Functional(F.relu), "ReluBackward0"),
        (nn.Softmax(dim=1), "SoftmaxBackward0"),
        (nn.InstanceNorm2d(4), "NativeBatchNormBackward0"),
        (Functional(lambda values: values * values), "MulBackward0"),
        (nn.AdaptiveMaxPool2d(2), "AdaptiveMaxPool2DBackward0"),
    ],
    ids=["functional-relu", "softmax", "instance-norm", "product", "adaptive-max"],
)
def test_what_has_no_rule_is_refused(layer, named):
    model = network(layer)
    with pytest.raises(ModelError, match=rf"DeepLIFT has no rule for .*({named})"):
        deeplift(model, IMAGE, class_logit(0))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
