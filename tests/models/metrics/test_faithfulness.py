"""Deletion, insertion and ROAD: closed forms of linear scores, and quantus where it computes the same thing."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.errors import ModelError
from models.metrics.faithfulness import (
    area,
    blurred,
    deletion_curve,
    importance_rank,
    imputed,
    insertion_curve,
    replacement_curve,
    road,
    road_curves,
)

SHAPES = [(2, 3, 8, 8), (2, 1, 4, 6, 8)]
QUANTUS = {"reason": "quantus does not import here (it wants torchvision)", "exc_type": ImportError}


def drawn(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def total(image: Tensor) -> Tensor:
    return image.flatten(1).sum(dim=1)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_flat_scores_curve_is_the_running_sum_of_what_was_replaced(shape):
    image = drawn(shape)
    saliency = image.sum(dim=1)
    pixels = saliency[0].numel()
    curve = replacement_curve(total, image, torch.zeros_like(image), saliency, steps=pixels)
    taken = saliency.flatten(1).sort(dim=1, descending=True).values.cumsum(dim=1)
    assert torch.allclose(curve, total(image)[:, None] - torch.nn.functional.pad(taken, (1, 0)), atol=1e-4)


def test_a_linear_scores_own_map_has_the_least_deletion_and_the_largest_insertion_area():
    weights, image = drawn((1, 1, 8, 8)), drawn((5, 1, 8, 8), seed=1)

    def score(x: Tensor) -> Tensor:
        return (weights * x).flatten(1).sum(dim=1)

    faithful = (weights * (image - image.flatten(2).mean(dim=2)[:, :, None, None])).sum(dim=1)
    others = [drawn((5, 8, 8), seed=seed) for seed in range(2, 12)]
    assert all(
        (area(deletion_curve(score, image, faithful)) < area(deletion_curve(score, image, other))).all()
        for other in others
    )
    gained = (weights * (image - blurred(image, 0.5))).sum(dim=1)
    assert all(
        (area(insertion_curve(score, image, gained)) > area(insertion_curve(score, image, other))).all()
        for other in others
    )


def test_the_ends_of_the_curves_are_the_image_its_mean_and_its_blur():
    image, saliency = drawn((2, 3, 16, 16)), drawn((2, 16, 16), seed=1)

    def score(x: Tensor) -> Tensor:
        return x.square().flatten(1).sum(dim=1)

    deleted, inserted = deletion_curve(score, image, saliency), insertion_curve(score, image, saliency)
    mean = image.mean(dim=(2, 3), keepdim=True).expand_as(image)
    assert torch.allclose(deleted[:, 0], score(image))
    assert torch.allclose(deleted[:, -1], score(mean))
    assert torch.allclose(inserted[:, 0], score(blurred(image, 1.0)))
    assert torch.allclose(inserted[:, -1], score(image))


def test_the_area_under_a_line_is_its_mean():
    assert area(torch.linspace(1, 0, 33)[None]).item() == pytest.approx(0.5)


def test_equal_pixels_are_taken_in_the_order_of_memory():
    assert importance_rank(torch.zeros(1, 2, 3)).flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_deletion_is_quantus_pixel_flipping():
    pytest.importorskip("quantus", **QUANTUS)
    from quantus.metrics.faithfulness.pixel_flipping import PixelFlipping

    layers = torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)
    network = torch.nn.Sequential(*layers).eval()
    image, saliency = drawn((4, 1, 8, 8)), drawn((4, 8, 8), seed=1)
    flipping = PixelFlipping(
        features_in_step=4,
        abs=False,
        normalise=False,
        perturb_baseline=0.0,
        disable_warnings=True,
        display_progressbar=False,
    )
    expected = flipping(
        model=network, x_batch=image.numpy(), y_batch=np.ones(4, int), a_batch=saliency[:, None].numpy(), softmax=False
    )
    with torch.no_grad():
        curve = replacement_curve(lambda x: network(x)[:, 1], image, torch.zeros_like(image), saliency, steps=16)
    assert np.allclose(curve[:, 1:].numpy(), np.array(expected), atol=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_imputation_is_quantus_noisy_linear_imputation(share):
    pytest.importorskip("quantus", **QUANTUS)
    from quantus.functions.perturb_func import noisy_linear_imputation

    image = drawn((3, 3, 12, 12))
    removed = drawn((3, 12, 12), seed=1) > np.quantile(drawn((3, 12, 12), seed=1), 1 - share)
    found = imputed(image, removed, seeded(), noise=0.0)
    for case in range(3):
        places = np.flatnonzero(removed[case])
        expected = noisy_linear_imputation(image[case].numpy().astype(np.float64), places, noise=0.0)
        assert np.allclose(found[case], expected, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_imputation_leaves_other_pixels_and_fills_a_flat_image_flat(shape):
    image, removed = drawn(shape), drawn((shape[0], *shape[2:]), seed=1) > 0
    found = imputed(image, removed, seeded())
    kept = ~removed[:, None].expand_as(image)
    assert torch.equal(found[kept], image[kept])
    assert torch.allclose(imputed(torch.full(shape, 3.0), removed, seeded(), noise=0.0), torch.full(shape, 3.0))


def test_a_hole_in_a_ramp_is_filled_with_the_ramp():
    ramp = torch.arange(9.0).expand(1, 1, 9, 9)
    removed = torch.zeros(1, 9, 9, dtype=torch.bool)
    removed[:, 3:6, 3:6] = True
    assert torch.allclose(imputed(ramp, removed, seeded(), noise=0.0), ramp, atol=1e-4)


def test_imputed_pixels_carry_noise_of_the_stated_strength():
    image = torch.zeros(1, 1, 64, 64)
    removed = drawn((1, 64, 64), seed=1) > 0
    assert imputed(image, removed, seeded(), noise=0.2)[:, 0][removed].std().item() == pytest.approx(0.2, rel=0.05)


def test_road_is_large_for_a_faithful_map_small_turned_round_and_zero_for_a_constant_score():
    image = torch.zeros(2, 1, 16, 16)
    image[:, :, 4:8, 4:8] = 1.0
    faithful = image[:, 0]
    found = {
        name: road(*road_curves(total, image, saliency, seeded(), noise=0.0))
        for name, saliency in (("faithful", faithful), ("turned", -faithful))
    }
    assert (found["faithful"] > 8).all()
    assert (found["turned"] < -8).all()
    flat = road(*road_curves(lambda x: torch.ones(len(x)), image, faithful, seeded()))
    assert (flat == 0).all()


def test_a_case_does_not_depend_on_its_batch():
    image, saliency = drawn((3, 2, 8, 8)), drawn((3, 8, 8), seed=1)
    together = deletion_curve(total, image, saliency)
    alone = torch.cat([deletion_curve(total, image[one : one + 1], saliency[one : one + 1]) for one in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ModelError, match="does not fit an image"):
        deletion_curve(total, torch.zeros(1, 1, 8, 8), torch.zeros(1, 7, 8))
    with pytest.raises(ModelError, match="lie between 0 and 1, not at 1"):
        road_curves(total, torch.zeros(1, 1, 8, 8), torch.zeros(1, 8, 8), seeded(), shares=(1,))
    with pytest.raises(ModelError, match="no pixel left"):
        imputed(torch.zeros(1, 1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool), seeded())
