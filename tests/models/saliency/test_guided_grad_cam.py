import torch
from captum.attr import GuidedGradCam

from models.saliency import class_logit, grad_cam, guided_backprop, guided_grad_cam


def test_equals_captum(resnet):
    layer = resnet.layer3[1].conv2
    image = torch.randn(2, 3, 64, 64)
    given = guided_grad_cam(resnet, image, class_logit(1), layer="layer3.1.conv2").attribution
    training = [(module, module.training) for module in resnet.modules()]
    expected = GuidedGradCam(resnet.eval(), layer).attribute(image, target=1, interpolate_mode="bilinear").detach()
    for module, mode in training:
        module.training = mode
    assert expected.abs().max() > 0
    assert torch.allclose(given, expected, rtol=1e-3, atol=float(1e-4 * expected.abs().max()))


def test_is_guided_backpropagation_where_grad_cam_is(resnet):
    image = torch.randn(2, 3, 64, 64)
    both = guided_grad_cam(resnet, image, class_logit(0))
    guided, coarse = (method(resnet, image, class_logit(0)) for method in (guided_backprop, grad_cam))
    assert torch.equal(both.attribution, guided.attribution * coarse.attribution)
    assert torch.equal(both.score, guided.score)
