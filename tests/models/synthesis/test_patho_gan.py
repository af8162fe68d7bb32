"""Patho-GAN: its losses, who moves in which step, what it starts from, and what it answers."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from models.errors import ModelError
from models.registry import build
from models.saliency.pathology_aware import PathologyMaps
from models.synthesis.patho_gan import (
    PathoGAN,
    PathoGANConfig,
    adversarial_loss,
    critic_loss,
    deviation,
    energy,
    pathology_loss,
    photograph,
)

SMALL = {
    "network": {"size": 32, "generator_width": 0.05, "critic_width": 0.05, "critic_strided": 3},
    "classifier": {"network": {"width": 0.05, "stem_stride": 1}},
    "vessels": {"network": {"width": 0.05}},
    "optimiser": {"learning_rate": 0.01},
}
STEPS = {"_generator_step": "generator", "_critic_step": "critic"}


def patho_gan(**changed) -> PathoGAN:
    return build("patho-gan", {**SMALL, **changed})


def cases(labels):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (len(labels), 3, 32, 32), dtype=torch.uint8, generator=generator)
    return [
        {"image": image, "label": torch.tensor(float(label)), "case": place, "masks": image[:2] > 200}
        for place, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def batch_of(labels):
    return next(iter(DataLoader(cases(labels), batch_size=len(labels))))


def fitted(stage, labels=(0, 1, 1, 1)):
    """What the stage logged, after two epochs of one batch."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", enable_checkpointing=False, max_epochs=2, **quiet)
    loader = DataLoader(cases(labels), batch_size=len(labels))
    trainer.fit(stage, loader, loader)
    return trainer.callback_metrics


def networks_changed(before, model):
    """The networks of which any parameter or buffer is another than `before`."""
    return {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def maps(low, high):
    """Maps of one image of four pixels."""
    as_map = [torch.tensor(values, dtype=torch.float64).reshape(1, 1, 2, 2) for values in (low, high)]
    return PathologyMaps(torch.zeros(1), *as_map, torch.tensor([not any(low)]), torch.tensor([not any(high)]))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_the_defaults_are_the_paper_s():
    defaults = PathoGANConfig()
    assert (defaults.network.size, defaults.noise, defaults.generator_steps) == (512, 0.01, 2)
    assert (defaults.evidence.active, defaults.evidence.low, defaults.evidence.high) == (0.1, 0.1, 0.9)
    assert (defaults.evidence.weights, defaults.evidence.signed, defaults.network.conditional) == (
        "pooled",
        True,
        False,
    )
    assert (defaults.optimiser.name, defaults.optimiser.learning_rate, defaults.optimiser.momentum) == ("sgd", 2e-4, 0)


def test_the_pathological_loss_is_the_deviation_over_the_evidence_of_both_maps():
    real, made = maps([1, 3, 0, 0], [0, 0, 0, 2]), maps([1, 1, 1, 0], [0, 0, 0, 5])
    assert pathology_loss(made, real).item() == pytest.approx(3 / 4 + 3 / 2)
    assert pathology_loss(real, real).item() == 0


def test_evidence_against_the_score_counts_as_much_as_that_for_it():
    real, made = maps([-1, 3, 0, 0], [0, -2, 0, 0]), maps([1, 3, 0, 0], [0, 0, 0, 0])
    assert pathology_loss(made, real).item() == pytest.approx(2 / 4 + 2 / 2)


def test_without_evidence_in_the_reference_there_is_nothing_to_lose():
    made = torch.rand(2, 1, 3, 3, requires_grad=True)
    lost = deviation(made, torch.zeros(2, 1, 3, 3))
    assert lost.tolist() == [0, 0]
    lost.sum().backward()
    assert (made.grad == 0).all()


def test_a_discriminator_that_cannot_tell_loses_log_4():
    undecided = torch.zeros(5, 1)
    assert critic_loss(undecided, undecided).item() == pytest.approx(torch.tensor(4.0).log().item())
    assert adversarial_loss(undecided).item() == pytest.approx(torch.tensor(2.0).log().item())
    assert critic_loss(undecided + 50, undecided - 50).item() == pytest.approx(0)


def test_energy_is_of_what_speaks_for_the_score_alone():
    found = torch.tensor([1.0, 3.0, -4.0])[None, None, None]
    mask = torch.tensor([True, False, True])[None, None, None]
    assert energy(found, mask).item() == 0.25


def test_energy_is_a_map_s_share_in_each_mask():
    found = torch.tensor([[1.0, 3.0], [0.0, 0.0]])[:, None, None]
    masks = torch.tensor([[[[True, False]], [[False, False]]]]).expand(2, 2, 1, 2)
    assert energy(found, masks).nan_to_num(-1).tolist() == [[0.25, -1], [0, -1]]


def test_the_gradient_reaches_the_generator_through_the_maps():
    model, image = patho_gan(), batch_of([1, 1])["image"]
    made = model.generator(*model._with_noise(model.vessel_map(image)))
    pathology_loss(model.evidence(photograph(made), differentiable=True), model.evidence(image)).mean().backward()
    assert all(weight.grad.isfinite().all() for weight in model.generator.parameters())
    assert any((weight.grad != 0).any() for weight in model.generator.parameters())
    assert all(weight.grad is None for weight in model.classifier.parameters())


def test_a_conditional_critic_judges_an_image_with_its_vessels_place_by_place():
    model, image = patho_gan(network={**SMALL["network"], "conditional": True}), torch.rand(2, 3, 32, 32)
    none, all_over = torch.zeros(2, 1, 32, 32), torch.ones(2, 1, 32, 32)
    assert model.judged(image, none).shape == (2, 16)  # three halvings
    assert not torch.equal(model.judged(image, none), model.judged(image, all_over))
    assert patho_gan().judged(image, none).shape == (2, 1)
    assert {"val/critic_accuracy", "train/critic"} <= set(fitted(model))


def test_what_is_shown_is_located_by_a_reading_of_its_own():
    model, batch = patho_gan(located_by={"layers": ["network.layer1"]}), batch_of([1])
    shown, compared = model.located(batch["image"]), model.evidence(batch["image"])
    assert (shown.low >= 0).all()
    assert (compared.low < 0).any()
    assert (model.predict_step(batch)["saliency"] >= 0).all()


@pytest.mark.parametrize("left", STEPS)
def test_a_step_moves_its_own_network_alone(left, monkeypatch):
    model = patho_gan()
    for step in set(STEPS) - {left}:
        monkeypatch.setattr(model, step, lambda *_: None)
    before = copied(model)
    fitted(model)
    assert networks_changed(before, model) == {STEPS[left]}


def test_segmenter_and_classifier_stay_as_they_are_while_the_others_play():
    model = patho_gan()
    before = copied(model)
    logged = fitted(model)
    assert networks_changed(before, model) == {"generator", "critic"}
    assert {"val/pathology_loss", "val/critic_accuracy", "train/pathology_loss"} <= set(logged)


def test_the_classifier_learns_alone_in_the_first_stage():
    model = patho_gan()
    before = copied(model)
    assert list(model.stages()) == ["classifier", "adversarial"]
    fitted(model.stages()["classifier"])
    assert networks_changed(before, model) == {"classifier"}


def test_without_weight_the_pathological_loss_is_left_out(monkeypatch):
    model = patho_gan(pathology_weight=0)
    monkeypatch.setattr(model, "validation_step", lambda *_: None)
    monkeypatch.setattr(model, "evidence", None)
    assert "train/pathology_loss" not in fitted(model)


def test_a_batch_without_an_abnormal_image_moves_nothing():
    model = patho_gan()
    before = copied(model)
    fitted(model, labels=(0, 0))
    assert networks_changed(before, model) == set()


def test_generator_and_discriminator_see_abnormal_images_alone(monkeypatch):
    model, seen = patho_gan(), []
    monkeypatch.setattr(model, "_play", lambda image, weight: seen.append((len(image), weight)))
    fitted(model, labels=(0, 1, 0, 1, 1))
    assert seen == [(3, 1.0)] * 2


def test_it_starts_from_a_vessel_unet_of_any_width():
    vessels, model = build("vessel-unet", {"network": {"width": 0.1}, "threshold": 0.3}), patho_gan()
    model.start_from(vessels)
    again = build("patho-gan", model.config.model_dump(mode="json"))
    again.load_state_dict(model.state_dict())
    assert model.config.vessels == vessels.config
    assert model.hparams["config"] == model.config.model_dump(mode="json")
    image = batch_of([1])["image"]
    assert torch.equal(again.vessel_map(image)[0], vessels.eval().predict_step({"image": image})["mask"][0])


@pytest.mark.parametrize(
    ("other", "settings", "reason"),
    [
        ("classifier", {"network": {"width": 0.1}}, "cannot start from a model of classifier"),
        ("vessel-unet", {"network": {"width": 0.1, "in_channels": 1}}, "images of 1 channels, these have 3"),
    ],
)
def test_it_refuses_what_has_no_vessels_to_give(other, settings, reason):
    with pytest.raises(ModelError, match=reason):
        patho_gan().start_from(build(other, settings))


def test_vessels_are_never_in_training_mode():
    model = patho_gan().train()
    assert not any(module.training for module in model.vessels.modules())
    assert model.generator.training


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_an_image_depends_on_its_seed_and_comes_as_stored(dtype):
    model, image = patho_gan(noise=1.0).eval(), batch_of([1])["image"]
    stored = image if dtype == torch.uint8 else (image.to(torch.int32) * 257).to(dtype)
    one, same, other = (model.synthesize(stored, [seed]) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert 0 <= one.min() <= one.max() <= (255 if dtype == torch.uint8 else 65535)
    assert model.predict_step({"image": stored})["score"].isfinite().all()


def test_the_score_is_the_classifier_s_of_the_image_that_is_made():
    model, batch = patho_gan().eval(), batch_of([1, 0])
    predicted = model.predict_step(batch)
    assert torch.allclose(predicted["score"], model.score(predicted["image"]), atol=1e-5)


def test_what_it_measures_is_of_abnormal_cases_alone():
    measured = patho_gan().eval().measure(batch_of([1, 0, 1]))
    assert measured["low_energy"].shape == (3, 2)
    assert measured["real_features"].shape == measured["synthetic_features"].shape
    for values in measured.values():
        assert values[1].isnan().all()
        assert values[0].isfinite().all()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"network": {"size": 40}}, "multiple of 16"),
        ({"classifier": {"intensities": "units", "mean": [0], "std": [1]}}, "synthesises photographs"),
        ({"evidence": {"low": 0.9, "high": 0.1}}, "below"),
        ({"network": {"size": 32, "critic_strided": 6}}, "too small for a critic"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, reason):
    with pytest.raises(ModelError, match=reason):
        build("patho-gan", settings)
