import pytest
import torch
from captum.attr import LayerGradCam
from torch import nn
from torch.nn import functional as F

from models.errors import ModelError
from models.saliency import class_logit, grad_cam, regression_output


@pytest.mark.parametrize("network", ["vgg", "resnet"])
def test_equals_captum_on_the_input_grid(network, request):
    model = request.getfixturevalue(network)
    layer, target, index = (
        (model.features[28], regression_output(), None)
        if network == "vgg"
        else (model.layer4[1].conv2, class_logit(1), 1)
    )
    image = torch.randn(3, 3, 64, 64)
    given = grad_cam(model, image, target, layer=layer).attribution
    expected = captums(model, layer, image, index)
    assert given.shape == (3, 1, 64, 64)
    assert torch.allclose(given, expected, rtol=1e-3, atol=float(1e-5 * expected.abs().max()))


@pytest.mark.parametrize("network", ["vgg", "resnet"])
def test_default_layer_is_the_last_convolution_after_its_relu(network, request):
    model = request.getfixturevalue(network)
    rectified = model.features[29] if network == "vgg" else model.layer4[1].act
    image, target = torch.randn(2, 3, 64, 64), regression_output() if network == "vgg" else class_logit(1)
    expected = grad_cam(model, image, target, layer=rectified).attribution
    assert torch.equal(grad_cam(model, image, target).attribution, expected)


def captums(model, layer, image, index):
    """captum can't have the layer's output changed in place, so here the following ReLU gets a copy."""
    handle = layer.register_forward_hook(lambda _module, _inputs, output: output.clone())
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    coarse = LayerGradCam(model, layer).attribute(image, target=index, relu_attributions=True)
    for module, mode in training:
        module.training = mode
    handle.remove()
    return F.interpolate(coarse.detach(), size=(64, 64), mode="bilinear", align_corners=False)


def test_closed_form():
    """One channel A = 2x, y = 3 mean(A): α = 3 / 16 and L = relu(α A)."""
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(conv.weight, 2.0)
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1, bias=False))
    nn.init.constant_(model[3].weight, 3.0)
    image = torch.randn(2, 1, 4, 4)
    expected = torch.relu(3 / 16 * 2 * image)
    assert torch.allclose(grad_cam(model, image, regression_output()).attribution, expected)


def test_an_in_place_relu_after_the_layer_does_not_change_it():
    def model(inplace):
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(inplace=inplace), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
        )

    image = torch.randn(2, 1, 8, 8)
    given = [grad_cam(model(inplace), image, regression_output()).attribution for inplace in (False, True)]
    assert torch.equal(*given)


def test_without_a_convolution_it_says_so():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    with pytest.raises(ModelError, match="needs a convolution"):
        grad_cam(model, torch.randn(1, 1, 4, 4), regression_output())


def test_a_layer_is_named_by_its_dotted_path(vgg):
    image = torch.randn(1, 3, 64, 64)
    named, given = (
        grad_cam(vgg, image, regression_output(), layer=layer) for layer in ("features.20", vgg.features[20])
    )
    assert torch.equal(named.attribution, given.attribution)


def test_a_layer_that_is_not_there_or_did_not_run_is_one_line(vgg):
    image = torch.randn(1, 3, 64, 64)
    with pytest.raises(
        ModelError, match=r"VGGRegressor has no layer 'features.99'; it has, among others: .*classifier"
    ):
        grad_cam(vgg, image, regression_output(), layer="features.99")
    unused = nn.Sequential(vgg.features[0], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1))
    unused.register_module("aside", nn.Conv2d(3, 3, 3))
    unused.forward = lambda pixels: unused[3](unused[2](unused[1](unused[0](pixels))))
    with pytest.raises(ModelError, match="ran none as aside"):
        grad_cam(unused, image, regression_output(), layer="aside")
