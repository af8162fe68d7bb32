import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from models.errors import ModelError
from models.localization.gdc import GDCConfig, difference_loss, difference_map, label_loss
from models.registry import build, restore

NETWORK = {"size": 32, "generator_width": 0.05, "classifier_width": 0.1, "critic_width": 0.1}
SMALL = {"network": NETWORK, "critic_steps": 2}
SHAPES = {"score": (4,), "saliency": (4, 32, 32), "image": (4, 3, 32, 32)}


def cases(labels, *, grid=(32, 32), channels=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (len(labels), channels, *grid), dtype=torch.uint8, generator=generator)
    return [{"image": image, "label": torch.tensor(float(y))} for image, y in zip(images, labels, strict=True)]


def batches(labels=(0, 1) * 4, **options):
    return DataLoader(cases(labels, **options), batch_size=4)


def fitted(stage, loader, **options):
    """What the stage logged last, after two epochs unless told otherwise."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", enable_checkpointing=False, **quiet, **{"max_epochs": 2, **options})
    trainer.fit(stage, loader, loader)
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def networks_changed(before, model):
    """The networks of which any parameter or buffer is another than `before`."""
    return {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def nothing(*_):
    return None


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_the_defaults_are_the_paper_s():
    defaults = GDCConfig()
    assert (defaults.cross_entropy_weight, defaults.difference_weight, defaults.penalty) == (0.4, 10.0, 10.0)
    assert (defaults.optimiser.learning_rate, defaults.network.size) == (2e-4, 128)
    assert defaults.network.critic.layers == 7
    optimisers, schedules = build("gdc", SMALL).configure_optimizers()
    assert schedules == []
    assert [type(one) for one in optimisers] == [torch.optim.Adam] * 3


def test_the_losses_are_the_mean_size_and_the_cross_entropy():
    assert difference_loss(torch.tensor([[-1.0, 3.0]])).item() == 2
    logits = torch.tensor([[0.0, 0.0], [0.0, 100.0]])
    is_abnormal = torch.tensor([True, True])
    assert label_loss(logits, is_abnormal).item() == pytest.approx(torch.log(torch.tensor(2.0)).item() / 2)
    assert label_loss(logits, is_abnormal, torch.tensor([0.0, 2.0])).item() == 0


def test_the_difference_of_a_generator_that_copies_is_zero_everywhere():
    model = build("gdc", SMALL).eval()
    model.generator = nn.Identity()
    batch = next(iter(batches()))
    predicted = model.predict_step(batch)
    assert (predicted["saliency"] == 0).all()
    assert torch.allclose(predicted["image"], batch["image"].float(), atol=1e-3)
    assert len(predicted["score"].unique()) == 1


def test_the_map_is_the_mean_over_channels_in_units_of_the_range():
    difference = torch.tensor([-2.0, 0.0, 2.0]).reshape(1, 3, 1, 1)
    assert difference_map(difference).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_intensities_come_in_and_go_out_as_stored(dtype):
    model = build("gdc", SMALL).eval()
    model.generator = nn.Identity()
    white = 65535 if dtype == torch.uint16 else 255
    stored = torch.tensor([0, white, 51 * white // 255]).to(dtype).reshape(1, 3, 1, 1).expand(1, 3, 32, 32)
    given = model.to_input(stored)
    assert torch.allclose(given[0, :, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))
    assert torch.allclose(model.predict_step({"image": stored})["image"], stored.float(), rtol=1e-5, atol=1e-2)
    assert model.double().to_input(stored).dtype == torch.float64


@pytest.mark.parametrize(
    ("left", "changed"),
    [
        ("_classifier_step", {"generator", "classifier"}),
        ("_critic_steps", {"critic"}),
        ("_generator_step", {"generator"}),
    ],
)
def test_a_step_moves_its_own_networks_alone(left, changed, monkeypatch):
    """Equation (2) leaves D as it is; equation (3) leaves C as it is, and D where G descends."""
    model = build("gdc", SMALL)
    for step in {"_classifier_step", "_critic_steps", "_generator_step"} - {left}:
        monkeypatch.setattr(model, step, nothing)
    before = copied(model)
    fitted(model, batches())
    assert networks_changed(before, model) == changed
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("ablation", "stages", "networks", "logged"),
    [
        (
            {},
            ["autoencoder", "critic", "adversarial"],
            {"generator", "classifier", "critic"},
            {"val/accuracy", "val/distance"},
        ),
        ({"classifier": False}, ["autoencoder", "critic", "adversarial"], {"generator", "critic"}, {"val/distance"}),
        ({"critic": False}, ["autoencoder", "adversarial"], {"generator", "classifier"}, {"val/accuracy"}),
        ({"classifier": False, "critic": False}, ["autoencoder"], {"generator"}, set()),
    ],
    ids=["G-D-C", "G-D", "G-C", "G"],
)
def test_every_ablation_trains_all_its_networks_and_predicts(ablation, stages, networks, logged):
    model = build("gdc", {**SMALL, **ablation})
    before = copied(model)
    assert {name.split(".")[0] for name in before} == networks
    assert list(model.stages()) == stages
    told = [fitted(stage, batches()) for stage in model.stages().values()][-1]
    assert networks_changed(before, model) == networks
    assert told.keys() >= logged
    assert all(torch.isfinite(torch.tensor(value)) for value in told.values())
    batch = next(iter(batches()))
    with torch.no_grad():
        predicted = model.eval().predict_step(batch)
        assert torch.allclose(model.score(batch["image"]), predicted["score"])
    assert {key: tuple(value.shape) for key, value in predicted.items()} == SHAPES
    checkpoint = {"hyper_parameters": dict(model.hparams), "state_dict": model.state_dict()}
    with torch.no_grad():
        repeated = restore(checkpoint).eval().predict_step(batch)
    assert all(torch.equal(predicted[key], repeated[key]) for key in predicted)


def test_the_autoencoder_moves_the_generator_alone():
    model = build("gdc", SMALL)
    before = copied(model)
    fitted(model.stages()["autoencoder"], batches())
    assert networks_changed(before, model) == {"generator"}


def test_the_first_critic_moves_the_critic_alone():
    model = build("gdc", SMALL)
    before = copied(model)
    fitted(model.stages()["critic"], batches())
    assert networks_changed(before, model) == {"critic"}


def test_the_autoencoder_stays_a_copy():
    model = build("gdc", SMALL)
    assert fitted(model.stages()["autoencoder"], batches())["train/loss"] < 0.02


@pytest.mark.parametrize("labels", [(1,) * 8, (0,) * 8], ids=["no normal image", "no abnormal image"])
def test_batches_of_one_kind_of_image_break_nothing(labels):
    model = build("gdc", SMALL)
    logged = fitted(model, batches(labels))
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert torch.isfinite(torch.tensor([logged["train/distance"], logged["val/difference"]])).all()


def test_a_label_from_abnormal_from_on_is_abnormal():
    model = build("gdc", {**SMALL, "abnormal_from": 2.0})
    assert model.is_abnormal({"label": torch.tensor([0.0, 1.0, 2.0, 4.0])}).tolist() == [False, False, True, True]


def test_the_critic_compares_normal_images_with_what_becomes_of_abnormal_ones():
    model, seen = build("gdc", {**SMALL, "critic_steps": 1}), []

    def watched(optimiser, critic, normal, generated):
        seen.append((len(normal), len(generated)))

    model._critic_steps = watched
    fitted(model, DataLoader(cases((0, 0, 0, 1)), batch_size=4))
    assert seen == [(3, 1), (3, 1)]


@pytest.mark.parametrize("ablation", [{}, {"critic": False}])
def test_a_cosine_brings_every_learning_rate_to_zero(ablation):
    model = build("gdc", {**SMALL, **ablation, "optimiser": {"schedule": "cosine"}})
    fitted(model, batches())
    rates = [group["lr"] for one in model.trainer.optimizers for group in one.param_groups]
    assert rates == pytest.approx([0.0] * len(rates), abs=1e-9)


def test_the_critic_steps_as_often_as_told():
    model, counted = build("gdc", {**SMALL, "critic_steps": 3}), []
    descend = model._descend
    model._descend = lambda optimiser, loss: (counted.append(optimiser), descend(optimiser, loss))
    fitted(model, DataLoader(cases((0, 1)), batch_size=2))
    first_epoch = counted[:5]
    assert len(counted) == 10
    assert first_epoch[1] is first_epoch[2] is first_epoch[3]
    assert len({id(one) for one in first_epoch}) == 3


def test_an_image_of_another_shape_is_refused_in_one_line():
    model = build("gdc", SMALL).eval()
    with pytest.raises(ModelError, match="images have 1 channels, the networks take 3"):
        model.to_input(torch.zeros(2, 1, 32, 32, dtype=torch.uint8))
    with pytest.raises(ModelError, match=r"takes images of \(3, 32, 32\) .* not \(3, 48, 48\)"):
        model.predict_step({"image": torch.zeros(2, 3, 48, 48, dtype=torch.uint8)})


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"size": 100}, "size 100 cannot be halved four times: take a multiple of 16, such as 96"),
        ({"size": 16}, "size 16 is too small for a critic that halves it 4 times: the smallest is 32"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_in_one_line(network, message):
    with pytest.raises(ModelError, match=message):
        build("gdc", {"network": {**NETWORK, **network}})


def test_volumes_of_one_channel_are_learnt_alike():
    network = {**NETWORK, "in_channels": 1, "spatial_dims": 3, "critic_strided": 3, "size": 16}
    model = build("gdc", {**SMALL, "network": network})
    loader = batches(grid=(16, 16, 16), channels=1)
    before = copied(model)
    fitted(model, loader)
    assert networks_changed(before, model) == {"generator", "classifier", "critic"}
    assert model.eval().predict_step(next(iter(loader)))["saliency"].shape == (4, 16, 16, 16)
