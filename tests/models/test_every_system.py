"""What holds for every registered system: its stages fit, what is saved predicts the same, wrong images are refused."""

from typing import Any, NamedTuple

import pytest
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from models.config import validated
from models.errors import ModelError
from models.registry import build, systems
from models.system import Prediction, System
from tasks.model_files import load_model, save_model

SIZE = 64
PHOTOGRAPHS, PET = ((SIZE, SIZE), 3), ((32, 16, 24), 1)  # grid and channels
SEEN = {PHOTOGRAPHS: {"size": SIZE, "in_channels": 3}, PET: {"in_channels": 1}}  # what a network is told of its cohort
VGG = {"backbone": "vgg19", "width": 0.1, "normalisation": "batch"}
RESNET = {"width": 0.1, "stem_stride": 2}
VIEWS = {"channels": [4] * 8, "spacing_mm": [6, 6, 6], "cell_mm": 24}
SMALL: dict[str, dict[str, Any]] = {  # a system's name, and which of its forms
    "patho-gan": {
        "network": {"generator_width": 0.1, "critic_width": 0.1},
        "classifier": {"network": RESNET},
        "vessels": {"network": {"width": 0.1}},
    },
    "iterative-refinement": {"network": {"stem_stride": 1, "width": 0.1, "normalisation": "batch", "head": [8]}},
    "classifier resnet18": {"network": {"width": 0.1}},
    "classifier vgg19": {"network": {**VGG, "head": [8]}},
    "classifier vgg19 pooled": {"network": {**VGG, "head": []}, "saliency": "cam"},
    "gdc": {"network": {"generator_width": 0.1, "classifier_width": 0.1, "critic_width": 0.1}},
    "gdc without classifier": {
        "network": {"generator_width": 0.1, "critic_width": 0.1},
        "classifier": False,
        "critic_steps": 1,
    },
    "vessel-unet": {"network": {"width": 0.1}},
    "class-response": {"network": VIEWS},
    "class-response of its positive part": {"network": VIEWS, "distance": "soft_argmax", "weights": "sharpened"},
    "class-response alone": {"network": VIEWS, "distance_weight": 0, "back_projection": {"threshold": "gradient"}},
    "projection-unet": {"network": {"width": 0.1}},
    "projection-fcn": {"network": {"width": 0.1}, "teacher": {"network": VIEWS}},
}
VOLUMES = {"class-response", "projection-unet", "projection-fcn"}  # systems of PET


class Fitted(NamedTuple):
    """A system after two steps of every stage; by stage, the names of weights that moved and of values logged."""

    system: System
    usual: tuple[tuple[int, ...], int]
    moved: dict[str, set[str]]
    logged: dict[str, set[str]]


def usual(form: str) -> tuple[tuple[int, ...], int]:
    """Grid and channels of what a system takes."""
    return PET if form.split()[0] in VOLUMES else PHOTOGRAPHS


def cases(count: int, grid: tuple[int, ...] = (SIZE, SIZE), channels: int = 3) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, *grid), dtype=torch.uint8, generator=generator)
    shown = images if len(grid) == 2 else 0.04 * images  # photographs, or volumes in SUV
    return [
        {"image": shown[i], "mask": image[:1] > 200, "label": torch.tensor(float(i % 5)), "case": i}
        for i, image in enumerate(images)
    ]


def batch_of(count: int, grid: tuple[int, ...], channels: int) -> dict[str, Any]:
    batch: dict[str, Any] = next(iter(DataLoader(cases(count, grid, channels), batch_size=count)))
    return batch


def small(form: str) -> System:
    settings = SMALL[form]
    return build(form.split()[0], {**settings, "network": {**SEEN[usual(form)], **settings["network"]}})


def predicted(system: System, batch: dict[str, Any]) -> Prediction:
    with torch.no_grad():
        return system.eval().predict_step(batch, 0)


@pytest.fixture(scope="module", params=SMALL)
def fitted(request) -> Fitted:
    torch.manual_seed(0)
    system, moved, logged = small(request.param), {}, {}
    for name, stage in system.stages().items():
        before = {key: weight.detach().clone() for key, weight in system.named_parameters()}
        trainer = Trainer(
            max_epochs=1,
            limit_train_batches=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            accelerator="cpu",
        )
        seen = usual(request.param)
        trainer.fit(stage, DataLoader(cases(8, *seen), batch_size=4), DataLoader(cases(4, *seen), batch_size=4))
        moved[name] = {key for key, weight in system.named_parameters() if not torch.equal(weight, before[key])}
        logged[name] = set(trainer.callback_metrics)
    return Fitted(system, usual(request.param), moved, logged)


def test_every_system_of_the_project_is_tried_here():
    own = {name for name, entry in systems().items() if entry.system.__module__.startswith("models.")}
    assert own == {form.split()[0] for form in SMALL}


def test_every_stage_moves_weights_and_every_layer_that_learns_is_moved(fitted: Fitted):
    assert all(fitted.moved.values())
    learning = {key: weight for key, weight in fitted.system.named_parameters() if weight.requires_grad}
    layers = {key for key, weight in learning.items() if weight.dim() > 1}
    assert layers <= set().union(*fitted.moved.values())


def test_every_stage_logs_what_tells_its_best_epoch(fitted: Fitted):
    for name, stage in fitted.system.stages().items():
        assert stage.monitor is None or stage.monitor in fitted.logged[name]


def test_a_prediction_has_a_finite_score_and_a_map_a_case(fitted: Fitted):
    answer = predicted(fitted.system, batch_of(4, *fitted.usual))
    assert answer["score"].shape == (4,)
    assert answer["saliency"].shape == (4, *fitted.usual[0])
    assert all(value.isfinite().all() for value in answer.values())
    assert answer["saliency"].min() >= 0


def test_a_prediction_does_not_depend_on_the_other_cases_of_a_batch(fitted: Fitted):
    batch = batch_of(4, *fitted.usual)
    alone = {key: value[2:3] for key, value in batch.items()}
    whole, one = ({key: value.float() for key, value in predicted(fitted.system, of).items()} for of in (batch, alone))
    for key in whole:
        assert torch.allclose(whole[key][2:3], one[key], rtol=1e-3, atol=1e-4 * float(whole[key].abs().max())), key


def test_saved_and_loaded_it_predicts_the_same(fitted: Fitted, tmp_path):
    system = fitted.system
    save_model(tmp_path, system.name, system.config.model_dump(mode="json"), system.state_dict())
    batch = batch_of(4, *fitted.usual)
    first, again = predicted(system, batch), predicted(load_model(tmp_path), batch)
    assert first.keys() == again.keys()
    for key in first:
        assert torch.equal(first[key], again[key]), key


@pytest.mark.parametrize("other", ["more channels", "fewer channels", "other axes"])
@pytest.mark.parametrize("form", SMALL)
def test_images_of_another_shape_are_refused_in_one_line(form: str, other: str):
    grid, channels = usual(form)
    others = {
        "more channels": (grid, channels + 1),
        "fewer channels": (grid, channels - 1),
        "other axes": ((8, SIZE, SIZE) if len(grid) == 2 else (SIZE, SIZE), channels),
    }
    with pytest.raises(ModelError) as error:
        predicted(small(form), batch_of(2, *others[other]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(systems()))
def test_a_setting_that_is_told_leaves_the_others_as_they_are_by_default(name: str):
    config = systems()[name].config
    usually = config().model_dump()
    for part, settings in usually.items():
        for key in settings if isinstance(settings, dict) else ():
            told = validated(config, {part: {key: settings[key]}}, where=f"{part}.{key}")
            assert told.model_dump() == usually, f"{part}.{key}"
