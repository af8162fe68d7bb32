import pytest
import torch
from monai.visualize import GradCAMpp
from torch import nn

from models.saliency import class_logit, grad_cam_plus_plus, regression_output


def test_closed_form_of_a_constant_derivative():
    """One channel A = 2x, y = 3 mean(A): g = 3/16, α = 1 / (2 + g ΣA), w = 16 α g and L = relu(w A)."""
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(conv.weight, 2.0)
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1, bias=False))
    nn.init.constant_(model[3].weight, 3.0)
    image = torch.rand(2, 1, 4, 4)
    weight = 16 * 3 / 16 / (2 + 3 / 16 * 2 * image.sum(dim=(2, 3), keepdim=True))
    expected = torch.relu(weight * 2 * image)
    assert torch.allclose(grad_cam_plus_plus(model, image, regression_output()).attribution, expected)


def test_a_channel_that_lowers_the_score_has_no_weight():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1))
    nn.init.ones_(model[0].weight)
    with torch.no_grad():
        model[3].weight.copy_(torch.tensor([[-1.0, -2.0]]))
    assert not grad_cam_plus_plus(model, torch.rand(1, 1, 4, 4), regression_output()).attribution.any()


@pytest.mark.parametrize("dims", [2, 3])
def test_equals_monai_where_the_derivative_is_the_same_at_all_places(dims):
    """MONAI sums A g³ where the paper has g³ Σ A, divides by 1e-7 more, and multiplies by exp(y)."""
    torch.manual_seed(4)
    convolution, average = {2: (nn.Conv2d, nn.AdaptiveAvgPool2d), 3: (nn.Conv3d, nn.AdaptiveAvgPool3d)}[dims]
    layers = (convolution(1, 4, 3), nn.ReLU(), average(1), nn.Flatten(), nn.Linear(4, 2))
    model, image = nn.Sequential(*layers).double().eval(), torch.randn(3, 1, *[8] * dims, dtype=torch.float64)
    with torch.no_grad():
        model[4].weight.mul_(20)  # g² well above 1e-7
    score, given = grad_cam_plus_plus(model, image, class_logit(1), layer="1")
    oracle = GradCAMpp(model, "1", postprocessing=lambda coarse: coarse)
    expected = torch.cat([oracle(one[None], class_idx=1) for one in image]).detach()
    assert expected.max() > 0
    factor = score.exp().reshape(-1, *[1] * (dims + 1))
    assert torch.allclose(factor * given, expected.double(), rtol=1e-2, atol=float(1e-3 * expected.max()))
