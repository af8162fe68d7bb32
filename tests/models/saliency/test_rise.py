import pytest
import torch
from torch import nn

from models.saliency import regression_output, rise
from models.saliency.rise import random_mask


def masks(spatial, count, cells=3, visible=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([random_mask(torch.Size(spatial), cells, visible, generator) for _ in range(count)])


@pytest.mark.parametrize("spatial", [(9, 11), (5, 6, 7)])
def test_is_the_mean_score_of_the_masked_images_weighted_by_the_masks(spatial):
    torch.manual_seed(2)
    image = torch.rand(3, 2, *spatial)
    model = nn.Sequential(nn.Flatten(), nn.Linear(image[0].numel(), 5), nn.ReLU(), nn.Linear(5, 1))
    given = rise(model, image, regression_output(), masks=40, cells=3)
    drawn = masks(spatial, 40)
    with torch.no_grad():
        scores = torch.stack([model(image * mask)[:, 0] for mask in drawn])
    expected = torch.einsum("nb,n...->b...", scores, drawn) / drawn.sum(dim=0)
    assert torch.allclose(given.attribution[:, 0], expected, atol=1e-5)
    assert torch.allclose(given.score, model(image)[:, 0])


def test_a_mask_is_smooth_between_0_and_1_and_as_visible_as_asked():
    drawn = masks((32, 48), 300, cells=4, visible=0.3)
    assert 0 <= drawn.min() < drawn.max() <= 1
    assert drawn.mean() == pytest.approx(0.3, abs=0.03)
    assert drawn.diff(dim=1).abs().max() <= 1 / 8 + 1e-6
    assert drawn.diff(dim=2).abs().max() <= 1 / 12 + 1e-6


def test_a_constant_score_gives_a_flat_map():
    attribution = rise(
        lambda_model(lambda image: torch.full((len(image),), 2.0)), torch.rand(2, 1, 8, 8), regression_output(), masks=5
    ).attribution
    assert torch.allclose(attribution, torch.full((2, 1, 8, 8), 2.0))


def test_the_pixel_that_makes_the_score_is_the_highest():
    image = torch.rand(1, 1, 16, 16) + 0.5
    model = lambda_model(lambda pixels: pixels[:, 0, 4, 11])
    attribution = rise(model, image, regression_output(), masks=2000, cells=4).attribution[0, 0]
    y, x = divmod(int(attribution.argmax()), 16)
    assert abs(y - 4) <= 1
    assert abs(x - 11) <= 1
    # E[M(u) M(v)] / E[M(v)] is p far from the pixel
    assert attribution[12:, :4].mean() == pytest.approx(0.5 * image[0, 0, 4, 11].item(), rel=0.1)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    image, model = torch.rand(1, 1, 8, 8), nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    before = torch.get_rng_state()
    first, other = (rise(model, image, regression_output(), masks=4, seed=seed).attribution for seed in (1, 2))
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def lambda_model(function):
    model = nn.Module()
    model.forward = function
    return model
