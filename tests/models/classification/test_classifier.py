import lightning
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from models.blocks.intensities import IMAGENET_MEAN, IMAGENET_STD
from models.blocks.resnet import ResNet18
from models.blocks.vgg import VGGRegressor
from models.classification.classifier import Classifier, ClassifierConfig, centre, class_loss
from models.classification.network import last_layer
from models.config import validated
from models.errors import ModelError
from models.saliency import cam, class_logit, grad_cam

RESNET = {"width": 0.1, "stem_stride": 1, "size": 32}
VGG = {"backbone": "vgg19", "width": 0.1, "size": 32, "normalisation": "batch", "head": []}
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


def classifier(**settings):
    torch.manual_seed(0)
    return Classifier(validated(ClassifierConfig, settings, where="classifier"))


def spots(count=32, grid=(32, 32)):
    """Images of noise; every other one has a bright square in a random place."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 80, (count, 3, *grid), dtype=torch.uint8, generator=generator)
    for image in images[1::2]:
        places = [slice(start, start + 8) for start in torch.randint(0, 24, (len(grid),), generator=generator).tolist()]
        image[(slice(None), *places)] = 220
    return [{"image": image, "label": torch.tensor(float(i % 2)), "case": i} for i, image in enumerate(images)]


def fitted(model, cases, **options):
    trainer = lightning.Trainer(accelerator="cpu", **QUIET, **options)
    trainer.fit(model, DataLoader(cases, batch_size=8), DataLoader(cases, batch_size=8))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("network", [RESNET, VGG], ids=["resnet18", "vgg19"])
def test_it_learns_to_tell_images_with_a_spot(network):
    model = classifier(network=network, optimiser={"learning_rate": 1e-3})
    logged = fitted(model, spots(), max_epochs=8)
    assert logged["val/accuracy"] == 1.0
    assert logged["val/loss"] < 0.5 * 0.693


def test_volumes_are_learnt_from_and_explained_too():
    model = classifier(network={"width": 0.1, "stem_stride": 1, "spatial_dims": 3})
    cases = spots(8, (32, 32, 16))
    logged = fitted(model, cases, max_steps=2)
    assert logged.keys() >= {"train/loss", "val/loss", "val/accuracy"}
    predicted = model.predict_step(next(iter(DataLoader(cases, batch_size=4))))
    assert predicted["saliency"].shape == (4, 32, 32, 16)


def test_the_loss_is_the_cross_entropy_weighted_by_case():
    logits, abnormal, weight = torch.randn(4, 2), torch.tensor([0, 1, 1, 0]), torch.tensor([0.0, 2.0, 1.5, 0.5])
    surprise = -logits.log_softmax(dim=1)[range(4), abnormal]
    assert torch.allclose(class_loss(logits, abnormal), surprise.mean())
    assert torch.allclose(class_loss(logits, abnormal, weight.double()), (weight * surprise).sum() / 4)


def test_weights_count_in_training_alone(monkeypatch):
    model, logged = classifier(network=RESNET).eval(), {}
    monkeypatch.setattr(model, "log", lambda name, value, **_: logged.update({name: value.item()}))
    batch = next(iter(DataLoader(spots(4), batch_size=4)))
    weight = torch.tensor([0.0, 2.0, 1.5, 0.5])
    with torch.no_grad():
        model.training_step({**batch, "weight": weight}, 0)
        model.validation_step({**batch, "weight": weight}, 0)
        surprise = F.cross_entropy(model(model.to_input(batch["image"])), batch["label"].long(), reduction="none")
    assert logged["train/loss"] == pytest.approx((weight * surprise).sum().item() / 4, rel=1e-5)
    assert logged["val/loss"] == pytest.approx(surprise.mean().item(), rel=1e-5)


@pytest.mark.parametrize(("abnormal_from", "expected"), [(1.0, [0, 1, 1, 1]), (2.0, [0, 0, 1, 1]), (2.5, [0, 0, 0, 1])])
def test_abnormal_begins_where_it_is_told(abnormal_from, expected):
    model = classifier(network=RESNET, abnormal_from=abnormal_from)
    assert model._abnormal({"label": torch.tensor([0.0, 1.0, 2.0, 3.0])}).tolist() == expected


@pytest.mark.parametrize("network", [RESNET, VGG, {**VGG, "head": [16]}], ids=["resnet18", "vgg19", "vgg19 hidden"])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_score_is_half_the_log_odds_before_and_after_training(network, name):
    optimiser = {"name": name, "learning_rate": 1e-2, "weight_decay": 0.01}
    model = classifier(network=network, optimiser=optimiser)
    cases = spots(16)
    for steps in (0, 4):
        if steps:
            fitted(model.train(), cases, max_steps=steps)
        batch = next(iter(DataLoader(cases, batch_size=16)))
        with torch.no_grad():
            logits = model.eval()(model.to_input(batch["image"]))
        assert torch.allclose(logits[:, 1] - logits[:, 0], 2 * model.score(batch["image"]), rtol=1e-4, atol=1e-4)
        assert logits[:, 1].abs().max() > 0


def test_centring_a_layer_leaves_its_softmax_as_it_was():
    layer, inputs = torch.nn.Linear(5, 3), torch.randn(4, 5)
    before = layer(inputs)
    centre(layer)
    assert torch.allclose(layer(inputs).sum(dim=1), torch.zeros(4), atol=1e-6)
    assert torch.allclose(layer(inputs).softmax(dim=1), before.softmax(dim=1), atol=1e-6)


@pytest.mark.parametrize(
    ("network", "name", "method"), [(RESNET, "cam", cam), (VGG, "grad_cam", grad_cam)], ids=["resnet18", "vgg19"]
)
def test_it_predicts_its_backbone_s_saliency_of_the_abnormal_logit(network, name, method):
    model = classifier(network=network).eval()
    batch = next(iter(DataLoader(spots(4), batch_size=4)))
    score, attribution = method(model.network, model.to_input(batch["image"]), class_logit(1))
    predicted = model.predict_step(batch)
    assert model.config.saliency == name
    assert torch.equal(predicted["score"], score)
    assert torch.allclose(predicted["score"], model.score(batch["image"]), atol=1e-6)
    assert torch.equal(predicted["saliency"], attribution.relu().amax(dim=1))


def test_another_saliency_method_with_settings_and_sign_is_explained_as_told():
    settings = {"layer": "network.layer2.1.last_act"}
    model = classifier(network=RESNET, saliency="grad_cam", saliency_settings=settings).eval()
    image = spots(2)[1]["image"][None]
    _, expected = grad_cam(model, model.to_input(image), class_logit(1), layer=model.network.layer2[1].last_act)
    assert torch.equal(model.explain(image).attribution, expected)
    signed = classifier(network=RESNET, saliency="gradient", sign="absolute").eval()
    assert torch.equal(signed.predict_step({"image": image})["saliency"], signed.explain(image)[1].abs().amax(dim=1))


def test_vgg_19_has_the_paper_s_head_and_one_that_class_activation_mapping_explains():
    paper = classifier(network={"backbone": "vgg19", "size": 32, "width": 0.1})
    assert [m.out_features for m in paper.network.classifier if isinstance(m, torch.nn.Linear)] == [4096, 4096, 2]
    pooled = classifier(network={**VGG, "size": 64}, saliency="cam").eval()
    assert [m.out_features for m in pooled.network.classifier if isinstance(m, torch.nn.Linear)] == [2]
    assert pooled.predict_step({"image": spots(2, (64, 64))[1]["image"][None]})["saliency"].shape == (1, 64, 64)


def test_a_backbone_is_its_paper_s_unless_told():
    with torch.device("meta"):
        residual = Classifier(ClassifierConfig())
        vgg = Classifier(validated(ClassifierConfig, {"network": {"backbone": "vgg16"}}, where=""))
    assert isinstance(residual.network, ResNet18)
    assert (residual.network.conv1.stride, residual.network.fc.in_features) == ((2, 2), 512)
    assert isinstance(vgg.network, VGGRegressor)
    assert (vgg.network.config.size, vgg.network.config.dropout, vgg.network.features[0].stride) == (224, 0.5, (1, 1))
    chosen = residual.configure_optimizers()["optimizer"]
    assert type(chosen) is torch.optim.Adam
    assert chosen.defaults["lr"] == 2e-4


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_photographs_of_any_type_and_number_of_channels_are_scaled_and_standardised(channels):
    model = classifier(network={**RESNET, "in_channels": channels})
    white = torch.full((2, channels, 32, 32), 255, dtype=torch.uint8)
    mean, std = (torch.tensor(values) for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (1 - mean) / std if channels == 3 else ((1 - mean.mean()) / std.mean()).expand(channels)
    for image in (white, white.float(), (white.to(torch.int32) * 257).to(torch.uint16)):
        assert torch.allclose(model.to_input(image)[0, :, 0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_values_in_units_are_standardised_as_they_are(dtype):
    settings = {"intensities": "units", "mean": [40.0, 5.0], "std": [400.0, 2.0]}
    model = classifier(network={**RESNET, "in_channels": 2}, **settings)
    stored = torch.tensor([-1000, 7], dtype=dtype).reshape(1, 2, 1, 1).expand(1, 2, 32, 32)
    assert torch.allclose(model.to_input(stored)[0, :, 0, 0], torch.tensor([-2.6, 1.0]))


@pytest.mark.parametrize(
    ("image", "complaint"),
    [
        (torch.zeros(2, 4, 32, 32, dtype=torch.uint8), "the images have 4 channels, the network takes 3"),
        (
            torch.zeros(2, 3, 8, 32, 32, dtype=torch.uint8),
            r"images of 2 axes, not a batch of the shape \(2, 3, 8, 32, 32\)",
        ),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), r"images of 2 axes, not a batch of the shape \(3, 32, 32\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.int16), "stored as int16 are no photographs: set intensities=units"),
    ],
)
def test_images_that_do_not_fit_are_told_in_one_line(image, complaint):
    model = classifier(network=RESNET)
    for step in (model.training_step, model.predict_step):
        with pytest.raises(ModelError, match=complaint) as error:
            step({"image": image, "label": torch.zeros(len(image))}, 0)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"network": {"backbone": "resnet20"}}, "network.backbone: .*not 'resnet20'"),
        ({"network": {"head": [8]}}, r"network: resnet18 ends in one linear layer: its head is \[\], not \[8\]"),
        ({"network": {"normalisation": "group"}}, "resnet18 has batch normalisation, not 'group'"),
        ({"network": {"backbone": "vgg16", "spatial_dims": 3}}, "vgg16 takes images of 2 axes: for volumes take"),
        ({"network": {"backbone": "vgg19", "size": 31}}, "size 31 is too small .* the smallest size is 32"),
        ({"mean": [0.5, 0.5]}, "mean has 2 values for 3 channels"),
        ({"intensities": "units"}, "intensities in units need mean and std"),
        ({"saliency": "lime"}, "no saliency method is called 'lime'"),
        ({"saliency_settings": {"patch": 3}}, "cam has no setting 'patch'"),
    ],
)
def test_settings_that_do_not_fit_are_told_in_one_line(settings, complaint):
    with pytest.raises(ModelError, match=complaint) as error:
        classifier(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("network", [{}, {"backbone": "vgg19", "size": 224}], ids=["resnet18", "vgg19"])
def test_public_weights_leave_the_last_layer_as_it_starts(network):
    model = classifier(network=network)
    own, last = model.network.state_dict(), last_layer(model.network)
    head = "fc." if not network else "classifier.6."
    state = {name: torch.full_like(tensor, 3) for name, tensor in own.items() if not name.startswith(head)}
    before = last.weight.clone()
    model.load_pretrained({**state, f"{head}weight": torch.zeros(1000, 8), f"{head}bias": torch.zeros(1000)})
    assert torch.equal(last.weight, before)
    assert all((tensor == 3).all() for name, tensor in model.network.state_dict().items() if name in state)
