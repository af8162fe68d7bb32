"""What holds for every saliency method: batches, repetition, nothing left behind, two and three dimensions."""

import copy

import pytest
import torch
from torch import nn

from models.errors import ModelError
from models.saliency import attribution_map, class_logit, gradient, negated, regression_output
from models.saliency.streaming import saliency_maps
from tests.models.cheap import METHODS

POOLED_ONLY = ("cam",)  # needs a network that ends in global average pooling, as the ResNet does
SCORES_ONLY = ("occlusion", "rise")  # need no gradient
ON_VGG = [name for name in METHODS if name not in POOLED_ONLY]
ON_BOTH = [(name, "resnet") for name in METHODS] + [(name, "vgg") for name in ON_VGG]


def state_of(model):
    return {
        "weights": copy.deepcopy(model.state_dict()),
        "training": [module.training for module in model.modules()],
        "trainable": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._backward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
    }


def assert_same_state(before, after):
    assert before["training"] == after["training"]
    assert before["trainable"] == after["trainable"]
    assert before["hooks"] == after["hooks"]
    assert all(torch.equal(before["weights"][name], after["weights"][name]) for name in before["weights"])
    for old, new in zip(before["gradients"], after["gradients"], strict=True):
        assert (old is None and new is None) or torch.equal(old, new)


@pytest.mark.parametrize(("method", "network"), ON_BOTH)
def test_a_batch_of_four_equals_four_singles(method, network, request):
    """In double precision: in single, another order of summation can turn a ReLU that is nearly at zero."""
    model = copy.deepcopy(request.getfixturevalue(network)).double()
    image = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    target = regression_output() if network == "vgg" else class_logit(2)
    together = METHODS[method](model, image, target)
    singles = [METHODS[method](model, one[None], target) for one in image]
    assert torch.allclose(together.score, torch.cat([single.score for single in singles]), rtol=1e-9)
    attribution = torch.cat([single.attribution for single in singles])
    assert torch.allclose(together.attribution, attribution, atol=float(1e-9 * attribution.abs().max()))


@pytest.mark.parametrize("method", METHODS)
def test_the_second_call_gives_the_same_and_nothing_is_left_behind(method, resnet):
    for parameter in list(resnet.parameters())[::2]:
        parameter.grad = torch.ones_like(parameter)
    next(resnet.parameters()).requires_grad_(False)
    resnet.layer1.eval()
    image = torch.randn(2, 3, 64, 64)
    untouched, before = image.clone(), state_of(resnet)
    first = METHODS[method](resnet, image, class_logit(0))
    second = METHODS[method](resnet, image, class_logit(0))
    assert torch.equal(first.attribution, second.attribution)
    assert torch.equal(first.score, second.score)
    assert torch.equal(image, untouched)
    assert not image.requires_grad
    assert not first.attribution.requires_grad
    assert not first.score.requires_grad
    assert_same_state(before, state_of(resnet))


@pytest.mark.parametrize("method", METHODS)
def test_an_exception_leaves_nothing_behind(method, resnet):
    def broken(output):
        raise RuntimeError("no target")

    before = state_of(resnet)
    with pytest.raises(RuntimeError, match="no target"):
        METHODS[method](resnet, torch.randn(1, 3, 64, 64), broken)
    assert_same_state(before, state_of(resnet))


@pytest.mark.parametrize("method", ON_VGG)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_the_trainer_switched_gradients_off(method, mode, vgg):
    image = torch.randn(1, 3, 64, 64)
    expected = METHODS[method](vgg, image, regression_output())
    with mode():
        given = METHODS[method](vgg, image.clone(), regression_output())
        assert not torch.is_grad_enabled()
    assert torch.equal(expected.attribution, given.attribution)


@pytest.mark.parametrize("method", METHODS)
def test_volumes_are_explained_on_their_own_grid(method, volume_model):
    volume = torch.randn(2, 2, 8, 10, 12)
    score, attribution = METHODS[method](volume_model, volume, class_logit(1))
    assert score.shape == (2,)
    assert attribution.shape in ((2, 2, 8, 10, 12), (2, 1, 8, 10, 12))
    assert attribution_map(attribution, "absolute").shape == (2, 8, 10, 12)
    assert torch.allclose(score, volume_model(volume)[:, 1])


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_writes_into_its_input_can_t_reach_the_caller_s_image(method):
    model = nn.Sequential(
        nn.ReLU(inplace=True), nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1)
    )
    image = torch.randn(1, 1, 8, 8)
    untouched = image.clone()
    METHODS[method](model, image, regression_output())
    assert torch.equal(image, untouched)


@pytest.mark.parametrize("method", METHODS)
def test_whole_numbers_and_scores_of_another_shape_are_refused(method, volume_model):
    with pytest.raises(ModelError, match="float image"):
        METHODS[method](volume_model, torch.zeros(1, 2, 8, 8, 8, dtype=torch.uint8), class_logit(0))
    with pytest.raises(ModelError, match="not one a case"):
        METHODS[method](volume_model, torch.zeros(1, 2, 8, 8, 8), lambda output: output)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in SCORES_ONLY])
def test_detached_scores_are_refused(method, volume_model):
    with pytest.raises(ModelError, match="does not depend on the image"):
        METHODS[method](volume_model, torch.zeros(1, 2, 8, 8, 8), lambda output: output[:, 0].detach())


def test_targets_say_what_they_need():
    output = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert class_logit(1)(output).tolist() == [2.0, 4.0]
    assert negated(class_logit(1))(output).tolist() == [-2.0, -4.0]
    assert regression_output()(output[:, :1]).tolist() == [1.0, 3.0]
    assert regression_output()(output[:, 0]).tolist() == [1.0, 3.0]
    with pytest.raises(ModelError, match="no class 2"):
        class_logit(2)(output)
    with pytest.raises(ModelError, match="not one"):
        regression_output()(output)


def test_the_map_is_the_largest_channel_of_the_chosen_sign():
    attribution = torch.tensor([[-3.0, 1.0], [2.0, -1.0], [-0.5, 4.0]]).reshape(1, 3, 1, 2)
    assert attribution_map(attribution, "negative").tolist() == [[[3.0, 1.0]]]
    assert attribution_map(attribution, "positive").tolist() == [[[2.0, 4.0]]]
    assert attribution_map(attribution, "absolute").tolist() == [[[3.0, 4.0]]]


def test_streaming_keeps_order_and_reads_no_more_than_a_batch_ahead(vgg):
    stored = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8).numpy()
    read = []

    def images():
        for case, image in enumerate(stored):
            read.append(case)
            yield 10 + case, image

    def as_input(image):
        return image.float() / 255

    settings = {"target": regression_output(), "sign": "negative", "batch_size": 2, "device": "cpu"}
    stream = saliency_maps(vgg, as_input, images(), gradient, **settings)
    first = next(stream)
    assert read == [0, 1]
    results = [first, *stream]
    assert [case for case, _, _ in results] == [10, 11, 12, 13, 14]
    score, attribution = gradient(vgg, as_input(torch.from_numpy(stored[4:])), regression_output())
    assert results[4][1] == pytest.approx(score.item(), rel=1e-4)
    assert torch.allclose(
        torch.from_numpy(results[4][2]), attribution_map(attribution, "negative")[0], rtol=1e-3, atol=1e-6
    )
