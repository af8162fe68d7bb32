import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from models.blocks.intensities import IMAGENET_MEAN, IMAGENET_STD
from models.errors import ModelError
from models.localization.iterative_refinement import IterativeRefinementConfig, grade_loss
from models.registry import build, restore
from models.saliency import attribution_map, guided_backprop, regression_output

SMALL = {"network": {"size": 64, "stem_stride": 1, "width": 0.05, "head": [8], "normalisation": "batch"}}


def batches(cases=8, batch_size=4):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (cases, 3, 64, 64), dtype=torch.uint8, generator=generator)
    items = [{"image": one, "label": torch.tensor(float(case % 5)), "case": case} for case, one in enumerate(image)]
    return DataLoader(items, batch_size=batch_size)


def trainer(tmp_path, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(default_root_dir=tmp_path, accelerator="cpu", **quiet, **options)


@pytest.mark.parametrize(("name", "schedule"), [("sgd", "constant"), ("sgd", "cosine"), ("adamw", "one_cycle")])
def test_learns_predicts_saves_and_predicts_the_same(name, schedule, tmp_path):
    torch.manual_seed(0)
    optimiser = {"name": name, "schedule": schedule, "learning_rate": 1e-3}
    model = build("iterative-refinement", {**SMALL, "optimiser": optimiser})
    before = [parameter.clone() for parameter in model.parameters()]
    fitting = trainer(tmp_path, max_steps=2)
    fitting.fit(model, batches(), batches())
    assert "val/loss" in fitting.callback_metrics
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    predicted = fitting.predict(model, batches())
    assert predicted[0]["score"].shape == (4,)
    assert predicted[0]["saliency"].shape == (4, 64, 64)
    assert predicted[0]["saliency"].min() >= 0
    assert predicted[0]["saliency"].max() > 0
    fitting.save_checkpoint(tmp_path / "last.ckpt")
    again = restore(torch.load(tmp_path / "last.ckpt", weights_only=True))
    repeated = trainer(tmp_path).predict(again, batches())
    assert all(torch.equal(a[key], b[key]) for a, b in zip(predicted, repeated, strict=True) for key in a)


def test_training_brings_the_error_down(tmp_path):
    torch.manual_seed(0)
    optimiser = {"name": "adamw", "learning_rate": 3e-3}
    network = {**SMALL["network"], "dropout": 0.0, "head_pool": 1, "head": []}
    model = build("iterative-refinement", {"network": network, "optimiser": optimiser})
    batch = next(iter(batches(8, 8)))
    first = model._loss(batch).item()
    trainer(tmp_path, max_epochs=30, enable_checkpointing=False).fit(model, batches(8, 8))
    assert model.train()._loss(batch).item() < 0.3 * first


def test_the_optimiser_is_the_paper_s():
    chosen = build("iterative-refinement", SMALL).configure_optimizers()["optimizer"]
    assert isinstance(chosen, torch.optim.SGD)
    assert chosen.defaults["nesterov"]
    assert chosen.defaults["momentum"] == 0.9
    defaults = IterativeRefinementConfig()
    assert (defaults.network.size, defaults.network.head, defaults.network.dropout) == (512, (4096, 4096), 0.5)
    assert (defaults.refinement.saliency, defaults.refinement.map_sign) == ("guided_backprop", "negative")
    assert (defaults.refinement.inpainter, defaults.refinement.stop_score) == ("navier_stokes", 1.0)


def test_the_loss_is_the_mean_squared_error():
    assert grade_loss(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 0.0], dtype=torch.float64)).item() == 5.0


def test_intensities_are_normalised_by_type():
    model = build("iterative-refinement", SMALL)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    stored = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    expected = (stored / 255 - mean) / std
    assert torch.allclose(model.to_input(stored), expected, atol=1e-6)
    assert torch.allclose(model.to_input(stored.float()), expected, atol=1e-6)
    assert torch.allclose(model.to_input((stored.int() * 257).to(torch.uint16)), expected, atol=1e-6)
    assert model.double().to_input(stored).dtype == torch.float64
    with pytest.raises(ModelError, match="images have 1 channels, the network takes 3"):
        model.to_input(stored[:, :1])


def test_prediction_is_the_configured_saliency():
    model = build("iterative-refinement", {**SMALL, "refinement": {"sign": "absolute"}}).train()
    batch = next(iter(batches()))
    predicted = model.predict_step(batch)
    score, attribution = guided_backprop(model.network, model.to_input(batch["image"]), regression_output())
    assert torch.equal(predicted["score"], score)
    assert torch.equal(predicted["saliency"], attribution_map(attribution, "absolute"))
    assert model.training


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_any_number_of_channels_are_normalised(channels):
    network = {"size": 32, "stem_stride": 1, "block5_valid": False, "width": 0.05, "head": [4], "in_channels": channels}
    model = build("iterative-refinement", {"network": network})
    image = torch.full((2, channels, 32, 32), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    given = model.to_input(image)[0, :, 0, 0]
    assert torch.allclose(given, expected if channels == 3 else torch.full((channels,), (1 - 0.449) / 0.226))
