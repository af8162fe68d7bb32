import math

import pytest
import torch

from models.errors import ModelError
from models.localization.class_response import ClassResponse
from models.localization.projection_unet import TUMOUR_WEIGHT, ProjectionFCN, ProjectionUNet, seen
from models.projection import projections
from models.registry import build

GRID = (32, 16, 24)
VIEWS = {"channels": [4] * 8, "spacing_mm": [6, 6, 6], "cell_mm": 24}
WIDTH = {"width": 0.05}


def volumes() -> torch.Tensor:
    return 5 * torch.rand(2, 1, *GRID, generator=torch.Generator().manual_seed(0))


def unet() -> ProjectionUNet:
    torch.manual_seed(0)
    built = build("projection-unet", {"network": WIDTH})
    assert isinstance(built, ProjectionUNet)
    return built.eval()


def trained_response() -> ClassResponse:
    torch.manual_seed(1)
    built = build("class-response", {"network": VIEWS, "back_projection": {"threshold": "none"}})
    assert isinstance(built, ClassResponse)
    built.classifier.weight.data.abs_()
    return built.eval()


def fcn() -> ProjectionFCN:
    torch.manual_seed(0)
    built = build("projection-fcn", {"network": WIDTH})
    assert isinstance(built, ProjectionFCN)
    built.start_from(trained_response())
    return built


def test_the_unet_learns_the_projections_of_the_mask():
    mask = torch.rand(2, 1, *GRID, generator=torch.Generator().manual_seed(0)) > 0.99
    target = unet().targets({"image": volumes(), "mask": mask})
    assert target.shape == (4, 1, 32, 32)
    coronal, sagittal = projections(mask[:, 0].float())
    assert torch.equal(target[:2, 0, :, :24], coronal)
    assert torch.equal(target[2:, 0, :, :16], sagittal)


def test_a_pixel_of_tumour_counts_as_equation_1_says(monkeypatch: pytest.MonkeyPatch):
    """p = ½ everywhere: CE_w = ln 2 · (w n + N − n) / N, Dice = 1 − (n + 1) / (N / 2 + n + 1), n of N pixels tumour."""
    system, mask = unet(), torch.zeros(2, 1, *GRID, dtype=torch.bool)
    mask[:, :, 3:6, 4:9, 10:17] = True
    target = system.targets({"image": volumes(), "mask": mask})
    monkeypatch.setattr(system, "logits", lambda image: torch.zeros_like(target))
    tumour, pixels = target.sum().item(), target.numel()
    entropy = math.log(2) * (TUMOUR_WEIGHT * tumour + pixels - tumour) / pixels
    dice = 1 - (tumour + 1) / (pixels / 2 + tumour + 1)
    assert system._loss({"image": volumes(), "mask": mask}).item() == pytest.approx(entropy + dice)


def test_the_fcn_learns_the_tumour_that_class_response_finds_for_the_cases_own_type():
    teacher, image = trained_response(), volumes()
    target = fcn().targets({"image": image, "label": torch.tensor([0.0, 1.0])})
    _, found = teacher.found(image, torch.tensor([False, True]))
    assert torch.equal(target, seen(found, like=image))
    assert target.any()


def test_the_fcn_tells_the_type_as_its_class_response_does():
    image = volumes()
    with torch.no_grad():
        assert torch.equal(fcn().eval().predict_step({"image": image})["score"], trained_response().score(image))


def test_training_the_fcn_leaves_its_class_response_as_it_is():
    system, image = fcn().train(), volumes()
    before = {key: value.clone() for key, value in system.teacher.state_dict().items()}
    system.training_step({"image": image, "label": torch.tensor([0.0, 1.0])}, 0).backward()
    assert all(torch.equal(value, before[key]) for key, value in system.teacher.state_dict().items())
    assert not any(weight.requires_grad for weight in system.teacher.parameters())


def test_the_fcn_starts_from_nothing_but_a_class_response():
    with pytest.raises(ModelError, match="cannot start from a model of projection-unet"):
        fcn().start_from(unet())


def test_where_no_pixel_is_likely_nothing_is_found():
    system = unet()
    system.network.final_conv.weight.data.zero_()
    system.network.final_conv.bias.data.fill_(-3)
    found = system.predict_step({"image": volumes()})
    assert not found["mask"].any()
    assert not found["saliency"].any()
