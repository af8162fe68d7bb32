import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

from models.errors import ModelError
from models.saliency import class_logit, integrated_gradients, regression_output
from models.saliency.perturbation import filling


def smooth_model():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Softplus(), nn.Conv2d(4, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 2)
    ).double()


@pytest.mark.parametrize("baseline", ["darkest", "mean", "zero", 0.5, (0.5, -1.0)])
def test_equals_captum_summed_over_channels(baseline):
    model, image = smooth_model(), torch.randn(3, 2, 8, 8, dtype=torch.float64)
    start = filling(image, baseline).expand_as(image)
    given = integrated_gradients(model, image, class_logit(1), steps=7, baseline=baseline).attribution
    expected = IntegratedGradients(model).attribute(image, start, target=1, n_steps=7, method="riemann_middle")
    assert torch.allclose(given, expected.sum(dim=1, keepdim=True), rtol=1e-5, atol=1e-8)


def test_it_is_complete():
    """Σ_u a(u) = y(x) − y(x'), to the error of the midpoint rule, which falls with the square of the steps."""
    model, image = smooth_model(), torch.randn(2, 2, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        gain = (model(image) - model(torch.zeros_like(image)))[:, 0]
    missing = []
    for steps in (10, 100):
        attribution = integrated_gradients(model, image, class_logit(0), steps=steps, baseline="zero").attribution
        missing.append((attribution.sum(dim=(1, 2, 3)) - gain).abs().max().item())
    assert missing[1] < 1e-5 < gain.abs().min()
    assert missing[1] < missing[0] / 50


def test_closed_form_of_a_linear_score():
    """w · (x − x'), in one step."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 1)).double()
    image = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    weight = model[1].weight.detach().reshape(1, 2, 4, 4)
    expected = (weight * (image - image.amin(dim=(2, 3), keepdim=True))).sum(dim=1, keepdim=True)
    assert torch.allclose(integrated_gradients(model, image, regression_output(), steps=1).attribution, expected)


def test_a_filling_is_of_each_case_and_channel():
    image = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert filling(image, "darkest").flatten().tolist() == [0, 4, 8, 12, 16, 20]
    assert filling(image, "mean").flatten().tolist() == [1.5, 5.5, 9.5, 13.5, 17.5, 21.5]
    assert filling(image, "zero").tolist() == torch.zeros(2, 3, 1, 1).tolist()
    assert filling(image, 2).flatten().tolist() == [2.0] * 6
    assert filling(image, (1.0, 2.0, 3.0)).flatten().tolist() == [1, 2, 3, 1, 2, 3]
    with pytest.raises(ModelError, match="2 values cannot fill 3 channels"):
        filling(image, (1.0, 2.0))
