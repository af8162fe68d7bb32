import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from models import registry
from models.registry import build, systems
from tests.toys import MODULES


def cases(grid=(16, 16), dtype=torch.uint8, count=8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, *grid), dtype=torch.uint8, generator=generator)
    return [
        {"image": image.to(dtype), "mask": image[:1] > 128, "label": torch.tensor(float(case % 5)), "case": case}
        for case, image in enumerate(images)
    ]


def fitted(system, items, **options):
    """`system` after its stages, and what each logged last."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    loader, logged = DataLoader(items, batch_size=4), {}
    for name, stage in system.stages().items():
        trainer = lightning.Trainer(
            accelerator="cpu", enable_checkpointing=False, **quiet, **{"max_epochs": 2, **options}
        )
        trainer.fit(stage, loader, loader)
        logged[name] = {key: float(value) for key, value in trainer.callback_metrics.items()}
    return logged


def check_predictions(system, items, expected):
    """Shapes by key, and the same predictions from the same weights."""
    batch = next(iter(DataLoader(items, batch_size=4)))
    again = type(system)(system.config)
    again.load_state_dict(system.state_dict())
    with torch.no_grad():
        predicted, repeated = system.eval().predict_step(batch), again.eval().predict_step(batch)
    assert {key: tuple(value.shape) for key, value in predicted.items()} == expected
    assert all(torch.equal(predicted[key], repeated[key]) for key in expected)


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    monkeypatch.setenv(registry.OWN_SYSTEMS, MODULES)
    registry._import_families.cache_clear()
    torch.manual_seed(0)


def test_the_variable_names_the_toys():
    names = {"toy-classifier", "toy-gan", "toy-segmenter"}
    assert names <= systems().keys()
    for name in names:
        toy = build(name, {"network": {"size": 32, "in_channels": 1}})
        assert toy.name == name
        assert sum(parameter.numel() for parameter in toy.parameters()) < 5000


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_the_classifier_fits_and_predicts(dtype):
    toy = build("toy-classifier", {})
    before = copied(toy)
    logged = fitted(toy, cases(dtype=dtype))["training"]
    assert logged.keys() >= {"train/loss", "val/loss"}
    assert changed(before, toy.state_dict()) == before.keys()
    check_predictions(toy, cases(dtype=dtype), {"score": (4,), "saliency": (4, 16, 16)})


def test_the_classifier_s_loss_is_the_weighted_mean_square():
    toy = build("toy-classifier", {}).eval()
    batch = next(iter(DataLoader(cases(), batch_size=4)))
    error = (toy(toy.to_input(batch["image"]))[:, 0] - batch["label"]) ** 2
    weight = torch.tensor([0.0, 2.0, 1.5, 0.5])
    assert torch.allclose(toy._loss(batch), error.mean())
    assert torch.allclose(toy._loss({**batch, "weight": weight}), (weight * error).sum() / 4)


@pytest.mark.parametrize(
    ("config", "error", "steps"),
    [
        ({"fail_on_rank": 0, "fail_at_step": 3}, ValueError, 3),
        ({"memory_limit": 3}, torch.OutOfMemoryError, 0),
        ({"fail_on_rank": 1}, None, 4),
        ({"memory_limit": 4}, None, 4),
    ],
)
def test_the_classifier_fails_as_told(config, error, steps):
    toy = build("toy-classifier", config)
    if error is None:
        fitted(toy, cases())
    else:
        with pytest.raises(error, match="toy"):
            fitted(toy, cases())
    assert toy.global_step == steps


def test_the_gan_s_stages_share_the_generator():
    toy = build("toy-gan", {})
    before = copied(toy)
    autoencoder = toy.stages()["autoencoder"]
    assert fitted_stage(autoencoder).keys() >= {"train/loss", "val/loss"}
    assert changed(before, toy.state_dict()) == {name for name in before if name.startswith("generator.")}
    between = copied(toy)
    assert fitted_stage(toy).keys() >= {"train/critic", "train/generator", "val/distance"}
    assert changed(between, toy.state_dict()) == before.keys()
    check_predictions(toy, cases(), {"score": (4,), "saliency": (4, 16, 16), "image": (4, 3, 16, 16)})


def fitted_stage(stage):
    class Alone:
        def stages(self):
            return {"alone": stage}

    return fitted(Alone(), cases())["alone"]


def test_the_gan_trains_the_generator_with_every_nth_batch():
    toy = build("toy-gan", {"n_critic": 2})
    counted = {"train/critic": 0, "train/generator": 0}
    update = toy._update

    def counting(optimiser, loss, name, batch_size):
        counted[name] += 1
        update(optimiser, loss, name, batch_size)

    toy._update = counting
    fitted_stage(toy)
    assert counted == {"train/critic": 4, "train/generator": 2}
    rates = [optimiser.param_groups[0]["lr"] for optimiser in toy.trainer.optimizers]
    assert rates == pytest.approx([0.0, 0.0], abs=1e-9)


def test_the_gradient_penalty_of_a_linear_critic_is_known():
    from tests.toys.gan import gradient_penalty

    critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1))
    real, fake = torch.rand(2, 5, 3, 2, 2)
    expected = (critic[1].weight.norm() - 1) ** 2
    assert torch.allclose(gradient_penalty(critic, real, fake), expected)


@pytest.mark.parametrize("loss", ["dice", "bce"])
@pytest.mark.parametrize("grid", [(16, 24), (8, 12, 16)])
def test_the_segmenter_fits_and_predicts(loss, grid):
    toy = build("toy-segmenter", {"network": {"dims": len(grid)}, "loss": loss})
    assert toy.inputs == {"image", "mask"}
    items = cases(grid)
    first = toy._loss(next(iter(DataLoader(items, batch_size=8)))).item()
    logged = fitted(toy, items, max_epochs=10)["training"]
    assert logged["val/loss"] < first
    check_predictions(toy, items, {"mask": (4, 1, *grid), "saliency": (4, *grid)})
