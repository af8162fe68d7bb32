import pytest
import torch
from captum.attr import Occlusion
from torch import nn

from models.saliency import class_logit, occlusion, regression_output
from models.saliency.occlusion import patches


class Sum(nn.Module):
    """y = Σ x, whose fall is what was hidden."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append(len(image))
        return image.flatten(1).sum(dim=1)


@pytest.mark.parametrize(("shape", "patch", "stride"), [((3, 12, 12), 4, 2), ((2, 8, 8, 8), 4, 4)])
def test_equals_captum(shape, patch, stride):
    channels, *spatial = shape
    body = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), 6), nn.ReLU(), nn.Linear(6, 2)).double()
    image = torch.randn(3, *shape, dtype=torch.float64)
    given = occlusion(body, image, class_logit(1), patch=patch, stride=stride, fill=0.3).attribution
    windows = {
        "sliding_window_shapes": (channels, *[patch] * len(spatial)),
        "strides": (channels, *[stride] * len(spatial)),
    }
    expected = Occlusion(body).attribute(image, **windows, baselines=0.3, target=1)  # float32
    assert torch.allclose(given.float(), expected[:, :1], rtol=1e-5, atol=1e-7)


def test_closed_form_of_a_sum():
    """Without overlap each pixel gets what its patch held; the last patches are flush with the edge."""
    image = torch.rand(2, 1, 4, 6, dtype=torch.float64)
    attribution = occlusion(Sum(), image, regression_output(), patch=2, stride=2, fill="zero").attribution
    blocks = image.reshape(2, 1, 2, 2, 3, 2).sum(dim=(3, 5))
    assert torch.allclose(attribution, blocks.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_falls_are_averaged_where_patches_overlap():
    image = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 1, 1, 3)
    attribution = occlusion(Sum(), image, regression_output(), patch=2, stride=1, fill="zero").attribution
    assert attribution.flatten().tolist() == [3.0, 4.5, 6.0]


@pytest.mark.parametrize(("patch", "stride"), [(3, 2), (5, 4), (16, 8), (4, 9)])
def test_patches_cover_every_pixel_and_stay_inside(patch, stride):
    covered = torch.zeros(7, 10)
    for place in patches(torch.Size([7, 10]), patch, min(stride, patch)):
        assert covered[place].numel() == min(patch, 7) * min(patch, 10)
        covered[place] += 1
    assert covered.min() > 0


def test_positions_and_cases_share_batches():
    model, image = Sum(), torch.rand(4, 1, 16, 16)
    occlusion(model, image, regression_output(), patch=4, stride=4)
    assert model.seen == [4, 32, 32]


def test_an_even_image_filled_with_its_mean_loses_nothing():
    image = torch.full((1, 2, 8, 8), 0.5)
    assert not occlusion(Sum(), image, regression_output(), patch=4, stride=2).attribution.any()
