import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss

from models.errors import ModelError
from models.registry import build
from models.segmentation.vessel_unet import VesselUNet, overlap, padded, vessel_loss


def unet(**network: object) -> VesselUNet:
    torch.manual_seed(0)
    built = build("vessel-unet", {"network": {"width": 0.05, **network}})
    assert isinstance(built, VesselUNet)
    return built.eval()


def photograph(side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A round red field of view (1, 3, side, side) uint8 with a darker vessel across, and the vessel (1, 1, …)."""
    row, column = np.mgrid[:side, :side]
    view = (row - side / 2) ** 2 + (column - side / 2) ** 2 < (0.45 * side) ** 2
    vessel = view & (np.abs(row - side / 2 - 5 * np.sin(column / 8)) < 2)
    image = np.stack([200 * view, 90 * view - 50 * vessel, 40 * view])
    image = image + np.random.default_rng(0).normal(0, 4, image.shape) * view
    return torch.tensor(image.clip(0, 255).astype(np.uint8))[None], torch.tensor(vessel)[None, None]


def any_tensors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 1, 8, 8, generator=generator)
    return logits, torch.rand(2, 1, 8, 8, generator=generator) > 0.7, torch.rand(2, 1, 8, 8, generator=generator) > 0.4


def test_where_all_is_in_view_the_loss_is_monais():
    logits, vessels, _ = any_tensors()
    monai = DiceCELoss(sigmoid=True, batch=True, smooth_nr=1, smooth_dr=1)
    everywhere = torch.ones_like(vessels)
    assert vessel_loss(logits, vessels, everywhere) == pytest.approx(float(monai(logits, vessels.float())))


def test_the_loss_is_that_of_the_pixels_in_view():
    logits, vessels, view = any_tensors()
    chosen = [part[view].reshape(1, 1, 1, -1) for part in (logits, vessels)]
    expected = vessel_loss(*chosen, torch.ones(1, 1, 1, int(view.sum()), dtype=torch.bool))
    assert vessel_loss(logits, vessels, view) == pytest.approx(float(expected))


def test_a_black_patch_has_a_loss_of_nothing_and_no_gradient():
    logits, vessels, view = any_tensors()
    logits.requires_grad_()
    loss = vessel_loss(logits, vessels, torch.zeros_like(view))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_overlap_is_dice_within_the_view_and_one_of_nothing():
    found, vessels, view = any_tensors()
    found = found > 0
    seen_found, seen_vessels = found[view], vessels[view]
    expected = 2 * (seen_found & seen_vessels).sum() / (seen_found.sum() + seen_vessels.sum())
    assert overlap(found, vessels, view) == pytest.approx(float(expected))
    assert overlap(found, vessels, torch.zeros_like(view)) == 1


@pytest.mark.parametrize("grid", [(64, 64), (50, 97), (16, 31), (5, 7)])
def test_photographs_of_any_size_have_a_map_of_theirs(grid):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, *grid), dtype=torch.uint8, generator=generator)
    answer = unet().predict_step({"image": image})
    assert answer["saliency"].shape == (2, *grid)
    assert answer["mask"].shape == (2, 1, *grid)
    assert answer["score"].shape == (2,)
    assert all(side % 16 == 0 for side in padded(image.float()).shape[2:])


def test_outside_of_the_field_of_view_there_is_nothing_and_inside_a_probability():
    image, _ = photograph()
    answer = unet().predict_step({"image": image})
    view = (image.amax(dim=1) > 20)[0]
    saliency = answer["saliency"][0]
    assert not saliency[~view].any()
    assert ((saliency[view] > 0) & (saliency[view] < 1)).all()
    assert answer["score"][0] == pytest.approx(float(saliency[view].mean()))
    assert torch.equal(answer["mask"][0, 0], saliency >= 0.5)


def test_a_photograph_is_the_same_stored_in_one_byte_or_two():
    image, _ = photograph()
    system = unet()
    once, again = (system.predict_step({"image": one}) for one in (image, image.to(torch.uint16) * 257))
    assert torch.allclose(once["saliency"], again["saliency"], atol=1e-5)


def test_a_black_photograph_has_no_vessel():
    answer = unet().predict_step({"image": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)})
    assert not answer["saliency"].any()
    assert answer["score"] == 0


def test_it_learns_a_drawn_vessel():
    image, vessel = photograph()
    system = unet(width=0.1).train()
    descent = torch.optim.Adam(system.parameters(), lr=0.003)
    for _ in range(30):
        descent.zero_grad()
        system._loss({"image": image, "mask": vessel}).backward()
        descent.step()
    found = system.eval().predict_step({"image": image})["mask"]
    assert overlap(found, vessel, torch.ones_like(vessel)) > 0.9


def test_a_setting_that_is_none_is_named():
    with pytest.raises(ModelError, match="lesions"):
        build("vessel-unet", {"lesions": []})
