from typing import Any

import pytest
import torch

from models.errors import ModelError
from models.localization.class_response import (
    ClassResponse,
    centre_points,
    distances,
    normalised,
    place_weights,
    places,
    soft_argmax,
)
from models.projection import projections
from models.registry import build

GRID = (32, 16, 24)
SMALL = {"channels": [4] * 8, "spacing_mm": [6, 6, 6], "cell_mm": 48}
SQUARE = (8.0, 8.0)


def small(**settings: Any) -> ClassResponse:
    torch.manual_seed(0)
    built = build("class-response", {"network": SMALL, **settings})
    assert isinstance(built, ClassResponse)
    return built.eval()


def batch(count: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(count, 1, *GRID, dtype=torch.bool)
    mask[:, :, 4:9, 2:5, 10:15] = True
    return {
        "image": 5 * torch.rand(count, 1, *GRID, generator=generator),
        "label": torch.arange(count) % 2,
        "mask": mask,
        "spacing": torch.full((count, 3), 6.0),
    }


def delta(row: int, column: int) -> torch.Tensor:
    weights = torch.zeros(1, 5, 3)
    weights[0, row, column] = 1
    return weights


def test_a_map_is_divided_by_its_maximum():
    response = torch.tensor([[[1.0, 4.0], [-2.0, 2.0]]])
    assert normalised(response).tolist() == [[[0.25, 1.0], [0.0, 0.5]]]


def test_a_map_that_is_nowhere_positive_is_empty():
    assert not normalised(-torch.rand(2, 3, 3)).any()


@pytest.mark.parametrize("how", ["softmax", "sharpened"])
def test_weights_of_a_map_add_up_to_one(how):
    weights = place_weights(torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)), how)
    assert weights.sum(dim=(1, 2)) == pytest.approx(1)


def test_softmax_teaches_a_map_that_is_nowhere_positive_and_weights_of_its_positive_part_do_not():
    where, point = places((5, 3), SQUARE), torch.tensor([[0.1, 0.1]])
    for how, learns in (("softmax", True), ("sharpened", False)):
        response = (-1 - torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(0))).requires_grad_()
        distances(place_weights(response, how), where, point, "mean_distance").sum().backward()
        assert bool(response.grad.any()) == learns, how


def test_the_soft_argmax_of_a_delta_is_its_place():
    where = places((5, 3), SQUARE)
    assert torch.equal(soft_argmax(delta(3, 1), where)[0], where[3, 1])


def test_places_are_the_centres_of_cells_in_units_of_the_longer_side():
    where = places((5, 3), SQUARE)
    assert where[0, 0].tolist() == pytest.approx([0.1, 0.1])
    assert where[4, 2].tolist() == pytest.approx([0.9, 0.5])


@pytest.mark.parametrize("form", ["mean_distance", "soft_argmax"])
def test_the_distance_of_a_delta_is_that_of_its_place(form):
    where = places((5, 3), SQUARE)
    assert distances(delta(3, 1), where, where[3, 1][None], form) == pytest.approx(0)
    assert distances(delta(3, 1), where, where[0, 1][None], form) == pytest.approx(0.6)


def test_two_equal_peaks_about_the_point_have_a_mean_distance_but_no_distance_of_the_soft_argmax():
    where, both = places((5, 3), SQUARE), (delta(0, 1) + delta(4, 1)) / 2
    assert distances(both, where, where[2, 1][None], "soft_argmax") == pytest.approx(0, abs=1e-6)
    assert distances(both, where, where[2, 1][None], "mean_distance") == pytest.approx(0.4)


def test_the_distance_of_a_delta_at_the_point_has_a_finite_gradient():
    response = (100 * delta(3, 1)).requires_grad_()
    where = places((5, 3), SQUARE)
    distances(place_weights(response, "softmax"), where, where[3, 1][None], "soft_argmax").sum().backward()
    assert response.grad.isfinite().all()


def test_the_point_is_the_centre_of_gravity_of_the_mask_or_what_the_batch_gives():
    one = batch()
    assert centre_points(one).tolist() == [[6, 3, 12]] * 2
    one["points"] = torch.tensor([[[1.0, 2.0, 3.0]]] * 2)
    assert centre_points(one).tolist() == [[1, 2, 3]] * 2


def test_a_response_at_the_tumour_in_both_views_has_no_distance():
    system = small(distance="mean_distance")
    mask = torch.zeros(1, 1, *GRID)
    mask[0, 0, 8:16, 0:8, 16:24] = 1  # cell 1 along z, 0 along y, 2 along x
    response = torch.zeros(2, 4, 3)
    response[0, 1, 2] = response[1, 1, 0] = 100
    assert system.distance_loss(response, centre_points({"mask": mask})) == pytest.approx(0, abs=1e-6)
    assert system.distance_loss(response.flip(0), centre_points({"mask": mask})) > 0.1


@torch.no_grad()
def test_a_case_without_a_lesion_has_no_distance_loss():
    system, one = small(), batch()
    _, with_both, responses = system.losses(one)
    one["mask"][0] = False
    _, without, _ = system.losses(one)
    chosen = torch.stack([responses[1, 1], responses[3, 1]])
    assert without == pytest.approx(float(system.distance_loss(chosen, centre_points(batch())[:1])))
    one["mask"][1] = False
    assert system.losses(one)[1] == 0
    assert with_both > 0


@torch.no_grad()
def test_without_weight_the_distance_teaches_nothing():
    torch.manual_seed(0)
    losses = [small(distance_weight=weight).train().training_step(batch(), 0) for weight in (0.0, 1.0)]
    expected = small().train().losses(batch())
    assert losses[0] == pytest.approx(float(expected[0]))
    assert losses[1] == pytest.approx(float(expected[0] + expected[1]))


@torch.no_grad()
def test_the_classifier_tells_by_the_mean_over_places():
    system = small()
    responses = system.responses(system.to_input(batch()["image"]))
    assert responses.shape == (4, 2, 4, 3)
    logits = system.logits(responses)
    difference = (logits[:, 1] - logits[:, 0]).unflatten(0, (2, 2)).mean(dim=0)
    assert system.score(batch()["image"]) == pytest.approx(difference)


@pytest.mark.parametrize(
    ("spacing", "cell", "stride"),
    [([2, 2, 2], 32, (16, 16)), ([6, 6, 6], 48, (8, 8)), ([2.0, 4.06, 4.06], 32, (16, 8)), ([6, 6, 6], 2, (1, 1))],
)
def test_strides_come_as_near_to_the_cell_as_doubling_can(spacing, cell, stride):
    network = small(network={**SMALL, "spacing_mm": spacing, "cell_mm": cell}).config.network
    assert network.stride == stride
    assert tuple(torch.tensor(network.layer_strides).prod(dim=0).tolist()) == stride


def test_suv_is_clipped_and_scaled():
    volume = torch.tensor([-1.0, 0.0, 15.0, 30.0, 60.0]).reshape(1, 1, 5, 1, 1)
    assert small().to_input(volume).flatten().tolist() == [0, 0, 0.5, 1, 1]


def test_a_tumour_is_found_where_both_views_respond():
    system, one = small(), batch()
    prediction = system.predict_step(one)
    saliency, mask = prediction["saliency"], prediction["mask"]
    assert mask.shape == (2, 1, *GRID)
    assert torch.equal(saliency >= system.config.lesion_from, mask[:, 0])
    assert mask.any()


def test_the_local_threshold_can_be_changed_in_use():
    system = small()
    hull = system.with_map_settings({"threshold": "none"})
    assert hull.predict_step(batch())["mask"].sum() > system.predict_step(batch())["mask"].sum()
    assert system.config.back_projection.threshold == "suv_share"
    assert hull.features is system.features


def test_a_wrong_setting_in_use_is_named():
    with pytest.raises(ModelError, match=r"back_projection\.treshold is not a setting"):
        small().with_map_settings({"treshold": "none"})


def test_the_whole_volume_can_be_searched_without_a_response():
    found = small(back_projection={"search": "volume", "pieces": "all"}).predict_step(batch())
    image = batch()["image"]
    assert torch.equal(found["mask"], image >= 0.41 * image.amax(dim=(1, 2, 3, 4), keepdim=True))
    assert torch.equal(found["saliency"], found["mask"][:, 0].float())


def test_voxels_of_another_size_are_refused_with_the_setting_that_is_right():
    one = batch()
    one["spacing"] = torch.full((2, 3), 4.0)
    with pytest.raises(ModelError, match=r"network\.spacing_mm=\[4.0, 4.0, 4.0\]"):
        small().training_step(one, 0)


def test_several_channels_are_refused():
    with pytest.raises(ModelError, match="one channel"):
        small(network={**SMALL, "in_channels": 3})


def test_the_point_moves_with_the_views():
    system, one = small(mirrored=True, shift_mm=18).train(), batch(8)
    one["mask"] = one["mask"].roll(4, 3)  # in the middle, so that none of it is moved out
    one["image"] = one["mask"] * 9.0
    views = projections(system.to_input(one["image"])[:, 0])
    torch.manual_seed(0)
    seen, centres = system.varied(views, centre_points(one))
    assert not torch.equal(seen.coronal, views.coronal)
    for case in range(8):
        z, x = torch.nonzero(seen.coronal[case]).float().mean(dim=0)
        _, y = torch.nonzero(seen.sagittal[case]).float().mean(dim=0)
        assert centres[case].tolist() == [z, y, x]


def test_views_are_varied_in_training_alone():
    system, one = small(mirrored=True, shift_mm=18), batch()
    assert torch.equal(system.losses(one)[2], system.losses(one)[2])
    assert torch.equal(system.losses(one)[2], system.responses(system.to_input(one["image"])))


def test_a_few_steps_move_the_response_to_the_tumour():
    system, one = small(optimiser={"learning_rate": 0.01}).train(), batch(4)
    one["image"][one["mask"]] += 10
    optimiser = torch.optim.Adam(system.parameters(), lr=0.01)
    before = system.losses(one)[1].item()
    for _ in range(40):
        loss1, loss2, _ = system.losses(one)
        optimiser.zero_grad()
        (loss1 + loss2).backward()
        optimiser.step()
    assert system.losses(one)[1].item() < 0.6 * before
