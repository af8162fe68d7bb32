import functools

import pytest
import torch
from torch import nn

from models.errors import ModelError
from models.saliency import (
    SALIENCY,
    class_logit,
    default_sign,
    grad_cam,
    occlusion,
    regression_output,
    saliency_method,
    settings_of,
    smoothgrad,
)

MISTAKES = {
    ("lime", ()): "no saliency method is called 'lime'; there are: gradient, guided_backprop, smoothgrad, cam",
    ("smoothgrad", (("sample", 3),)): "smoothgrad has no setting 'sample'; it has: samples, noise",
    ("smoothgrad", (("generator", 3),)): "smoothgrad has no setting 'generator'; it has: samples, noise",
    ("gradient", (("samples", 3),)): "gradient has no setting 'samples'; it has none",
    ("smoothgrad", (("samples", 0),)): "saliency_settings of smoothgrad: samples: .*greater than 0, not 0",
    ("smoothgrad", (("samples", "many"),)): "samples: .*valid integer.*, not 'many'",
    ("rise", (("visible", 1.0),)): "visible: .*less than 1, not 1.0",
    ("occlusion", (("fill", "grey"),)): "fill.*not 'grey'",
}


@pytest.mark.parametrize(("called", "line"), MISTAKES.items())
def test_a_mistake_is_one_line(called, line):
    name, settings = called
    with pytest.raises(ModelError, match=line) as raised:
        saliency_method(name, dict(settings))
    assert "\n" not in str(raised.value)


def test_settings_are_bound_as_their_types():
    bound = saliency_method("smoothgrad", {"samples": "7", "noise": 0})
    assert isinstance(bound, functools.partial)
    assert (bound.func, bound.keywords) == (smoothgrad, {"samples": 7, "noise": 0.0})
    assert saliency_method("occlusion", {"fill": [0.1, 0.2]}).keywords == {"fill": (0.1, 0.2)}
    assert saliency_method("occlusion") is occlusion


def test_a_bound_method_explains_as_the_method_does():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 2))
    image = torch.randn(2, 1, 8, 8)
    bound = saliency_method("grad_cam", {"layer": "0"})(model, image, class_logit(1))
    assert torch.equal(bound.attribution, grad_cam(model, image, class_logit(1), layer=model[0]).attribution)


def test_gradients_mark_lesions_by_their_negative_part_and_evidence_by_its_positive():
    negative = {name for name in SALIENCY if default_sign(name) == "negative"}
    assert negative == {"gradient", "guided_backprop", "smoothgrad", "guided_grad_cam"}


@pytest.mark.parametrize("name", sorted(SALIENCY))
def test_the_defaults_are_valid_settings(name):
    defaults = settings_of(SALIENCY[name])().model_dump()
    saliency_method(name, defaults)


def test_evidence_of_a_dark_lesion_is_positive_where_its_gradient_is_negative():
    """y = Σ (1 − x): a lesion is dark; hiding it with the image's mean lowers the score."""

    class Darkness(nn.Module):
        def forward(self, image):
            return (1 - image).flatten(1).sum(dim=1)

    image = torch.full((1, 1, 8, 8), 0.9)
    image[..., 2:4, 2:4] = 0.1
    assert (saliency_method("gradient")(Darkness(), image, regression_output()).attribution < 0).all()
    hidden = saliency_method("occlusion", {"patch": 2, "stride": 2})(Darkness(), image, regression_output())
    assert hidden.attribution.argmax() == 2 * 8 + 2
