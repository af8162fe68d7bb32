import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.errors import ModelError
from models.saliency import cam, class_logit, grad_cam, negated, regression_output


def pooled(dims: int) -> nn.Sequential:
    convolution, average = {2: (nn.Conv2d, nn.AdaptiveAvgPool2d), 3: (nn.Conv3d, nn.AdaptiveAvgPool3d)}[dims]
    body = nn.Sequential(convolution(1, 4, 3, stride=2), nn.ReLU(inplace=True))
    return nn.Sequential(body, average(1), nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize("dims", [2, 3])
def test_is_the_linear_layer_s_weighting_of_the_channels(dims):
    model, image = pooled(dims), torch.randn(2, 1, *[9] * dims)
    expected = torch.einsum("k,bk...->b...", model[3].weight[1], model[0](image))[:, None].detach()
    mode = {2: "bilinear", 3: "trilinear"}[dims]
    expected = F.interpolate(expected, size=image.shape[2:], mode=mode)
    assert torch.allclose(cam(model, image, class_logit(1)).attribution, expected, atol=1e-6)


def test_of_a_resnet_is_its_last_layer_s_weights_on_layer_4(resnet):
    network = resnet.double().eval()
    maps = []
    handle = network.layer4.register_forward_hook(lambda _module, _inputs, output: maps.append(output.detach()))
    image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    score, attribution = cam(network, image, class_logit(2))
    handle.remove()
    coarse = torch.einsum("k,bkyx->byx", network.fc.weight[2].detach(), maps[0])
    assert torch.allclose(coarse.mean(dim=(1, 2)) + network.fc.bias[2], score)
    expected = F.interpolate(coarse[:, None], size=(64, 64), mode="bilinear")
    assert torch.allclose(attribution, expected)
    resnet.float().train()


def test_its_mean_is_the_score_without_the_bias():
    model, image = pooled(2), torch.randn(3, 1, 9, 9)
    score, _ = cam(model, image, class_logit(0))
    coarse = torch.einsum("k,bk...->b...", model[3].weight[0], model[0](image))
    assert torch.allclose(coarse.mean(dim=(1, 2)), score - model[3].bias[0], atol=1e-6)


def test_its_positive_part_is_grad_cam_times_the_number_of_places():
    """On the layer's own grid, so that the interpolation of what was cut off at zero does not differ."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    image = 5 * torch.randn(2, 1, 5, 5)
    signed, positive = (method(model, image, class_logit(1)).attribution for method in (cam, grad_cam))
    assert torch.allclose(torch.relu(signed), 25 * positive, atol=1e-6)
    assert signed.min() < 0
    assert torch.allclose(cam(model, image, negated(class_logit(1))).attribution, -signed)


def test_a_network_that_weighs_places_differently_is_refused(vgg):
    with pytest.raises(ModelError, match=r"CAM needs a network that ends in the global average .* 'grad_cam'"):
        cam(vgg, torch.randn(1, 3, 64, 64), regression_output())


def test_a_score_that_no_place_reaches_gives_a_map_of_zeros():
    model = pooled(2)
    nn.init.zeros_(model[3].weight)
    assert not cam(model, torch.randn(1, 1, 9, 9), class_logit(0)).attribution.any()
