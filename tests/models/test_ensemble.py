import numpy as np
import pytest
import torch
from torch import nn

from models import registry
from models.config import Config
from models.ensemble import Ensemble
from models.errors import ModelError
from models.localization.refinement import RefinementConfig, refine
from models.registry import build
from models.saliency import attribution_map, default_sign, saliency_method
from models.saliency.streaming import saliency_maps
from models.system import System
from tests.models.cheap import METHODS
from tests.toys import MODULES

SMALL = {"network": {"size": 64, "stem_stride": 1, "width": 0.05, "head": [8], "normalisation": "batch"}}
POOLED = {"network": SMALL["network"] | {"block5_valid": False, "head": [], "head_pool": 1}}


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    monkeypatch.setenv(registry.OWN_SYSTEMS, MODULES)
    registry._import_families.cache_clear()


def refiners(count=3, config=SMALL):
    """Untrained ones of clearly different weights and batch statistics."""
    torch.manual_seed(0)
    members = [build("iterative-refinement", config) for _ in range(count)]
    for member in members:
        member.train()(member.to_input(stored(8)) + torch.randn(1))
    return [member.eval() for member in members]


def stored(count=4, size=64):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def assert_explains_as_the_mean(explained, each):
    score, attribution = (torch.stack(parts).mean(dim=0) for parts in zip(*each, strict=True))
    torch.testing.assert_close(explained.score, score)
    torch.testing.assert_close(
        explained.attribution, attribution, rtol=1e-4, atol=1e-5 * attribution.abs().max().item()
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_explains_the_mean_by_the_mean_of_the_members(name):
    members = refiners(config=POOLED)
    ensemble, method = Ensemble(members), METHODS[name]
    image = ensemble.to_input(stored())
    each = [method(member, image, member.target) for member in members]
    assert not torch.allclose(each[0].attribution, each[1].attribution)
    assert_explains_as_the_mean(method(ensemble, image, ensemble.target), each)


def test_a_layer_is_named_as_in_one_member():
    members = refiners(2)
    ensemble, settings = Ensemble(members), {"layer": "network.features.10"}
    method = saliency_method("grad_cam", settings)
    image = ensemble.to_input(stored())
    each = [method(member, image, member.target) for member in members]
    assert_explains_as_the_mean(method(ensemble, image, ensemble.target), each)


def test_the_output_is_the_mean_output():
    members = refiners()
    ensemble = Ensemble(members)
    image = ensemble.to_input(stored())
    torch.testing.assert_close(ensemble(image), sum(member(image) for member in members) / 3)


class InPlace(System):
    config: Config

    def forward(self, image):
        return image.mul_(2).flatten(1).sum(dim=1, keepdim=True)


def test_a_member_that_works_in_place_leaves_the_image_to_the_next():
    assert Ensemble([InPlace(Config()), InPlace(Config())])(torch.ones(1, 1, 2, 2)).item() == 8


def test_explains_stored_images_as_its_members_do():
    members = refiners()
    assert_explains_as_the_mean(Ensemble(members).explain(stored()), [member.explain(stored()) for member in members])


@pytest.mark.parametrize("name", ["guided_backprop", "grad_cam"])
def test_localises_like_one_model(name):
    ensemble = Ensemble(refiners(2))
    config = RefinementConfig(saliency=name, max_iterations=1, stop_score=-1e9)
    assert type(ensemble.config.refinement) is RefinementConfig
    images = list(enumerate(stored().numpy()))
    options = {"target": ensemble.target, "batch_size": 2, "device": "cpu"}
    refined = {one.case: one for one in refine(ensemble, ensemble.to_input, images, config, threads=1, **options)}
    streamed = saliency_maps(
        ensemble, ensemble.to_input, images, saliency_method(name), sign=config.map_sign, **options
    )
    each = [METHODS[name](member, member.to_input(stored()), member.target) for member in ensemble.members]
    attribution = torch.stack([one.attribution for one in each]).mean(dim=0)
    expected = attribution_map(attribution, default_sign(name)).numpy()
    for case, score, found in streamed:
        np.testing.assert_allclose(found, expected[case], atol=1e-4 * expected.max())
        np.testing.assert_allclose(refined[case].initial_saliency, found, atol=1e-4 * expected.max())
        assert refined[case].scores[0] == pytest.approx(score, rel=1e-4)
        assert refined[case].iterations == 1


@pytest.mark.parametrize("toy", ["toy-classifier", "toy-gan", "toy-segmenter"])
def test_predicts_the_mean_of_its_members_key_by_key(toy):
    torch.manual_seed(0)
    members = [build(toy, {}).eval() for _ in range(3)]
    batch = {"image": stored(size=16)}
    with torch.no_grad():
        predicted = Ensemble(members).predict_step(batch)
        each = [member.predict_step(batch) for member in members]
    assert predicted.keys() == each[0].keys()
    for key, value in predicted.items():
        parts = torch.stack([one[key] for one in each])
        votes = parts.sum(dim=0) >= 2 if parts.dtype == torch.bool else parts.mean(dim=0)
        assert torch.equal(value, votes), key


def test_of_two_members_one_is_enough_for_a_mask():
    torch.manual_seed(0)
    members = [build("toy-segmenter", {}).eval() for _ in range(2)]
    for member, logit in zip(members, (50.0, -50.0), strict=True):
        nn.init.constant_(member.network[-1].bias, logit)
    with torch.no_grad():
        assert Ensemble(members).predict_step({"image": stored(size=16)})["mask"].all()


def test_the_weights_are_those_of_the_members():
    members, others = refiners(2), [build("iterative-refinement", SMALL) for _ in range(2)]
    weights = Ensemble(members).state_dict()
    assert weights.keys() == {f"members.{i}.{key}" for i in range(2) for key in members[0].state_dict()}
    ensemble = Ensemble(others).eval()
    ensemble.load_state_dict(weights)
    assert torch.equal(ensemble.explain(stored()).attribution, Ensemble(members).explain(stored()).attribution)
    assert ensemble.config == members[0].config


def test_members_are_left_as_they_were():
    members = [member.train() for member in refiners(2, POOLED)]
    before = [value.clone() for member in members for value in member.state_dict().values()]
    for method in METHODS.values():
        method(Ensemble(members), members[0].to_input(stored()), members[0].target)
    assert all(torch.equal(a, b) for a, b in zip(before, Ensemble(members).state_dict().values(), strict=True))
    assert all(member.training for member in members)
    assert all(parameter.requires_grad and parameter.grad is None for one in members for parameter in one.parameters())


class Detector(System):
    config: Config

    def predict_step(self, batch, batch_idx=0):
        return {"boxes": torch.zeros(1, 2, 4)}


def test_what_is_no_ensemble_gets_one_line():
    with pytest.raises(ModelError, match="needs one model or more"):
        Ensemble([])
    with pytest.raises(ModelError, match="of one system: model 1 is toy-segmenter, model 0 toy-classifier"):
        Ensemble([build("toy-classifier", {}), build("toy-segmenter", {})])
    with pytest.raises(ModelError, match="that of model 1 differs from model 0's"):
        Ensemble([build("toy-classifier", {"learning_rate": rate}) for rate in (0.1, 0.2)])
    with pytest.raises(ModelError, match="cannot average 'boxes'"):
        Ensemble([Detector(Config()), Detector(Config())]).predict_step({})
