"""The model-randomisation test and its two measures of likeness, against scipy and scikit-image."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity as skimage_ssim
from torch import Tensor, nn

from models.errors import ModelError
from models.metrics.randomisation import cascade, layers_from_output, randomise, rank_correlation, structural_similarity
from models.saliency import class_logit, gradient

IMAGE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Bias(nn.Module):
    """A module of a user's own, with parameters and without a rule for drawing them."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.linspace(0, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2), Bias()
    ).eval()


def maps(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_layers_are_named_in_the_order_from_the_output():
    model = network()
    assert layers_from_output(model, lambda: model(IMAGE)) == ["5", "4", "1", "0"]


def test_layers_that_do_not_run_are_left_out():
    model = nn.ModuleDict({"used": nn.Conv2d(1, 1, 1), "critic": nn.Conv2d(1, 1, 1)})
    assert layers_from_output(model, lambda: model["used"](IMAGE)) == ["used"]
    with pytest.raises(ModelError, match="nothing to randomise"):
        layers_from_output(model, lambda: None)


def test_the_cascade_draws_more_layers_each_time_and_leaves_the_model_as_it_was():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed = []
    for share, so_far in cascade(model, ["5", "4", "1", "0"], seed=0):
        differs = [name for name, value in so_far.named_parameters() if not torch.equal(value, before[name])]
        changed.append((share, {name.split(".")[0] for name in differs} - {"1"}))
    assert changed == [(0.25, {"5"}), (0.5, {"5", "4"}), (0.75, {"5", "4"}), (1.0, {"5", "4", "0"})]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_equal_seeds_draw_equal_weights_and_leave_the_global_generator_alone():
    state = torch.random.get_rng_state()
    one, two = network(), network()
    torch.random.set_rng_state(state)
    for model in (one, two):
        randomise(model.get_submodule("4"), seed=3)
        randomise(model.get_submodule("5"), seed=4)
    assert torch.equal(one[4].weight, two[4].weight)
    assert torch.equal(one[5].bias, two[5].bias)
    assert not torch.equal(one[5].bias, network()[5].bias)
    torch.random.set_rng_state(state)
    randomise(one.get_submodule("4"), seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_gradients_of_a_randomised_model_are_unlike_those_of_the_model():
    model = network()
    trained = gradient(model, IMAGE, class_logit(1)).attribution[:, 0]
    last = [gradient(so_far, IMAGE, class_logit(1)).attribution[:, 0] for _, so_far in cascade(model, ["4", "0"], 0)]
    assert (rank_correlation(trained, trained) > 0.999).all()
    assert (rank_correlation(trained, last[-1]).abs() < 0.6).all()


@pytest.mark.parametrize("shape", [(3, 16, 12), (2, 6, 8, 10)])
def test_rank_correlation_is_scipys_with_ties(shape):
    one = maps(*shape, seed=0)
    other = (one + maps(*shape, seed=1)).mul(4).round()
    expected = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(one, other, strict=True)]
    assert np.allclose(rank_correlation(one, other), expected, atol=1e-5)


def test_a_constant_map_correlates_with_nothing():
    assert rank_correlation(torch.zeros(1, 8, 8), maps(1, 8, 8, seed=0)).tolist() == [0.0]


@pytest.mark.parametrize("shape", [(3, 16, 12), (2, 8, 9, 10)])
def test_structural_similarity_is_scikit_images(shape):
    one, other = maps(*shape, seed=0), maps(*shape, seed=1)
    scaled = [[(a - a.min()) / (a.max() - a.min()) for a in of] for of in (one, other)]
    expected = [skimage_ssim(a.numpy(), b.numpy(), data_range=1.0) for a, b in zip(*scaled, strict=True)]
    assert np.allclose(structural_similarity(one, other), expected, atol=1e-5)


def test_a_map_is_alike_to_itself_at_any_scale():
    one = maps(2, 5, 9, seed=0)
    assert torch.allclose(structural_similarity(one, 1000 * one + 3), torch.ones(2), atol=1e-5)
