"""The loop, on models whose saliency is known by hand."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from models.blocks.vgg import VGGConfig, VGGRegressor
from models.config import validated
from models.errors import ModelError
from models.inpainting import INPAINTERS, inpaint_case
from models.localization.refinement import Refinement, RefinementConfig, binarised, dilated, refine
from models.saliency import SALIENCY, regression_output
from tests.models.cheap import CHEAP


class Brightness(nn.Module):
    """y = Σ relu(x − 100) / 1000: how much brighter than 100 the lesions are, in all; saliency 1/1000 on them."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()
        self.seen = Counter()

    def forward(self, image):
        self.seen[len(image)] += 1
        return self.act(image - 100).flatten(1).sum(1, keepdim=True) / 1000


class Energy(nn.Module):
    """y = Σ x² / 2 / 10⁶, whose gradient is the image itself / 10⁶."""

    def forward(self, image):
        return (image**2).flatten(1).sum(1, keepdim=True) / 2e6


def photograph(lesions, seed=0, size=32):
    """A dark background with `lesions` bright squares of 9 pixels, each brighter than the one before."""
    rng = np.random.default_rng(seed)
    image = rng.integers(40, 60, (3, size, size)).astype(np.uint8)
    places = rng.permutation([(y, x) for y in range(3, size - 5, 7) for x in range(3, size - 5, 7)])[:lesions]
    for number, (y, x) in enumerate(places):
        image[:, y : y + 3, x : x + 3] = 140 + 10 * number
    return image


def run(model, images, config, *, batch_size=4, threads=2, dtype=torch.float64, target=None) -> list[Refinement]:
    results = refine(
        model,
        lambda stored: stored.to(dtype),
        enumerate(images),
        config,
        target=target or regression_output(),
        batch_size=batch_size,
        device="cpu",
        threads=threads,
    )
    return sorted(results, key=lambda result: result.case)


POSITIVE = RefinementConfig(sign="positive")


def test_scores_fall_until_the_stop_score():
    images = [photograph(lesions, seed=lesions) for lesions in range(9)]
    config = POSITIVE.model_copy(update={"threshold_value": 98.0, "dilation": 0})
    for image, result in zip(images, run(Brightness(), images, config), strict=True):
        assert result.scores[0] == pytest.approx(np.maximum(image.astype(float) - 100, 0).sum() / 1000)
        assert np.all(np.diff(result.scores) < 0)
        assert result.stop_reason == "score"
        assert result.scores[-1] <= 1 or result.iterations == 0
        assert np.all(result.scores[:-1] > 1)
        assert result.iterations == len(result.scores) - 1


def test_images_that_look_healthy_get_no_iteration_and_stay_as_they_are():
    images = [photograph(lesions, seed=lesions) for lesions in (0, 0, 4, 0)]
    results = run(Brightness(), images, POSITIVE)
    for case in (0, 1, 3):
        assert results[case].iterations == 0
        assert results[case].stop_reason == "score"
        assert results[case].scores.tolist() == [0.0]
        assert np.array_equal(results[case].inpainted, images[case])
        assert np.array_equal(results[case].saliency, results[case].initial_saliency)
    assert results[2].iterations > 0
    assert not np.array_equal(results[2].inpainted, images[2])


def test_the_sum_decays_exponentially():
    """A linear model has the same map s each time, so S = s Σ_{i=0..n} exp(−λ i) at the cap of n iterations."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 1)).double()
    nn.init.constant_(linear[1].bias, 1e6)
    config = RefinementConfig(decay=0.7, max_iterations=4)
    image = photograph(2, size=16)
    (result,) = run(linear, [image], config)
    s = -linear[1].weight.detach().reshape(3, 16, 16).amin(0).clamp_max(0).float().numpy()
    assert result.stop_reason == "cap"
    assert result.iterations == 4
    assert np.allclose(result.initial_saliency, s, rtol=1e-6)
    assert np.allclose(result.saliency, s * np.exp(-0.7 * np.arange(5)).sum(), rtol=1e-5)


@pytest.mark.parametrize("inpainter", sorted(INPAINTERS))
def test_equals_the_paper_s_steps_one_by_one(inpainter):
    """With y = Σ x²/2, s_i is the image itself, so the loop can be followed by hand."""
    config = RefinementConfig(
        saliency="gradient",
        sign="positive",
        threshold_value=98.5,
        dilation=0,
        inpainter=inpainter,
        radius=2.0,
        decay=0.5,
        stop_score=4.0,
    )
    image = photograph(6)
    scores, total, current = [], np.zeros((32, 32)), image
    for iteration in range(config.max_iterations + 1):
        s = (current.max(axis=0) / 1e6).astype(np.float32)
        scores.append((current.astype(float) ** 2).sum() / 2e6)
        if scores[-1] <= config.stop_score:
            break
        total += np.exp(-0.5 * iteration) * s
        mask = s >= np.percentile(s, 98.5)
        current = inpaint_case(INPAINTERS[inpainter](2.0), current, mask)
    (result,) = run(Energy(), [image], config)
    assert 1 < result.iterations < config.max_iterations
    assert result.stop_reason == "score"
    assert np.allclose(result.scores, scores, rtol=1e-6)
    assert np.allclose(result.saliency, total, rtol=1e-5)
    assert np.array_equal(result.inpainted, current)


def test_a_zero_map_stops_with_an_empty_mask_and_an_untouched_image():
    """All lesions are bright, so there is no negative gradient to mask."""
    images = [photograph(5, seed=1), photograph(5, seed=2)]
    for image, result in zip(images, run(Brightness(), images, RefinementConfig(sign="negative")), strict=True):
        assert (result.stop_reason, result.iterations) == ("empty_mask", 0)
        assert np.array_equal(result.inpainted, image)
        assert not result.saliency.any()


@pytest.mark.parametrize("cap", [0, 1])
def test_the_cap_is_kept(cap):
    (result,) = run(
        Brightness(), [photograph(9)], POSITIVE.model_copy(update={"max_iterations": cap, "stop_score": -1.0})
    )
    assert (result.stop_reason, result.iterations, len(result.scores)) == ("cap", cap, cap + 1)


@pytest.fixture(scope="module")
def random_vgg():
    torch.manual_seed(3)
    config = VGGConfig(size=64, stem_stride=1, width=0.1, normalisation="batch", head=(16,))
    network = VGGRegressor(config).double()
    with torch.no_grad():
        network(torch.rand(8, 3, 64, 64, dtype=torch.float64) * 255)
    return network


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_neither_batch_nor_order_nor_threads_change_a_result(batch_size, random_vgg):
    images = [photograph(number % 7, seed=number, size=64) for number in range(11)]
    scores = [result.scores[0] for result in run(random_vgg, images, RefinementConfig(max_iterations=0), batch_size=1)]
    config = RefinementConfig(stop_score=float(np.quantile(scores, 0.3)), max_iterations=3)
    alone = run(random_vgg, images, config, batch_size=1, threads=1)
    assert len({result.stop_reason for result in alone}) > 1
    together = run(random_vgg, images, config, batch_size=batch_size, threads=3)
    reverse = run(random_vgg, images[::-1], config, batch_size=batch_size, threads=2)[::-1]
    for one, other, last in zip(alone, together, reverse, strict=True):
        for result in (other, last):
            assert (result.stop_reason, result.iterations) == (one.stop_reason, one.iterations)
            assert np.allclose(result.scores, one.scores, rtol=1e-6)
            assert np.allclose(result.saliency, one.saliency, rtol=1e-4, atol=1e-6 * one.saliency.max())
            assert np.array_equal(result.inpainted, one.inpainted)


def test_each_look_is_one_forward_pass_and_stopped_images_are_replaced():
    images = [photograph(lesions, seed=seed) for seed, lesions in enumerate([9, 0, 3, 8, 1, 6, 0, 9, 2, 7, 5, 4] * 2)]
    model = Brightness()
    results = run(model, images, POSITIVE.model_copy(update={"threshold_value": 98.0, "dilation": 0}), batch_size=3)
    looks = sum(result.iterations + 1 for result in results)
    assert sum(size * times for size, times in model.seen.items()) == looks
    assert max(model.seen) == 3
    assert model.seen[3] * 3 > 0.8 * looks


def test_images_are_read_as_room_for_them_appears_and_results_come_as_they_are_ready():
    read = []

    def images():
        for case in range(50):
            read.append(case)
            yield case, photograph(case % 5, seed=case)

    config = POSITIVE.model_copy(update={"max_iterations": 1})
    settings = {"target": regression_output(), "batch_size": 4, "device": "cpu", "threads": 1}
    results = refine(Brightness(), lambda stored: stored.float(), images(), config, **settings)
    next(results)
    assert len(read) <= 8
    results.close()
    assert list(refine(Brightness(), lambda stored: stored.float(), [], config, **settings)) == []


@pytest.fixture(scope="module")
def pooled_vgg():
    """With the global average and the one linear layer that CAM needs."""
    torch.manual_seed(3)
    config = VGGConfig(
        size=64, stem_stride=1, block5_valid=False, width=0.1, normalisation="batch", head=(), head_pool=1
    )
    network = VGGRegressor(config).double()
    with torch.no_grad():
        network(torch.rand(8, 3, 64, 64, dtype=torch.float64) * 255)
    return network


@pytest.mark.parametrize("method", sorted(SALIENCY))
def test_any_saliency_method_drives_the_loop(method, pooled_vgg):
    images = [photograph(5, seed=seed, size=64) for seed in range(2)]
    before = copy.deepcopy(pooled_vgg.state_dict())
    few = CHEAP.get(method, {})
    config = RefinementConfig(saliency=method, saliency_settings=few, max_iterations=2, stop_score=-1e9)
    for result in run(pooled_vgg, images, config):
        assert result.saliency.shape == (64, 64)
        assert result.saliency.dtype == result.scores.dtype == np.float32
        assert result.saliency.min() >= 0
        assert result.iterations == 2 or result.stop_reason == "empty_mask"
    assert pooled_vgg.training
    assert all(torch.equal(before[name], tensor) for name, tensor in pooled_vgg.state_dict().items())


def test_settings_of_the_saliency_method_reach_it():
    images = [photograph(5, seed=seed) for seed in range(2)]
    maps = []
    for patch in (4, 8):
        settings = {"patch": patch, "stride": patch, "fill": "zero"}
        config = RefinementConfig(saliency="occlusion", saliency_settings=settings, max_iterations=0)
        maps.append(run(Brightness(), images, config)[0].saliency)
        blocks = (
            np.maximum(images[0].astype(float) - 100, 0).sum(axis=0).reshape(32 // patch, patch, 32 // patch, patch)
        )
        assert np.allclose(maps[-1][::patch, ::patch], blocks.sum(axis=(1, 3)) / 1000, rtol=1e-6)
    assert not np.array_equal(*maps)


def test_a_misspelt_setting_of_the_saliency_method_is_one_line():
    with pytest.raises(ModelError, match=r"^--set: smoothgrad has no setting 'sample'; it has: samples, noise$"):
        validated(RefinementConfig, {"saliency": "smoothgrad", "saliency_settings": {"sample": 3}}, where="--set")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 4])
def test_other_stored_types_keep_their_type(dtype, channels):
    image = np.repeat(photograph(5)[:1], channels, axis=0).astype(dtype)
    config = POSITIVE.model_copy(update={"stop_score": 0.1})
    (result,) = run(Brightness(), [image], config)
    assert result.inpainted.dtype == dtype
    assert result.inpainted.shape == image.shape
    assert result.iterations > 0


def test_a_score_that_is_not_a_number_is_an_error():
    with pytest.raises(ModelError, match="case 0 gets the score nan"):
        run(Brightness(), [photograph(3)], POSITIVE, target=lambda output: output[:, 0] * float("nan"))


def test_thresholds():
    values = np.arange(100, dtype=np.float32).reshape(10, 10)
    assert binarised(values, RefinementConfig(threshold_value=95.0)).sum() == 5
    assert binarised(values, RefinementConfig(threshold="fraction", threshold_value=0.5)).sum() == 50
    two = np.where(values > 80, 5.0, 1.0).astype(np.float32)
    assert np.array_equal(binarised(two, RefinementConfig(threshold="otsu")), values > 80)
    assert binarised(two, RefinementConfig(threshold_value=99.0)).sum() == 19
    assert not binarised(np.full((10, 10), 2.0, np.float32), RefinementConfig(threshold_value=99.0)).any()
    sparse = np.zeros((10, 10), np.float32)
    sparse[2, 2] = 1.0
    for threshold, value in (("percentile", 50.0), ("otsu", 0.0), ("fraction", 0.5)):
        config = RefinementConfig(threshold=threshold, threshold_value=value)
        assert np.argwhere(binarised(sparse, config)).tolist() == [[2, 2]]
        assert not binarised(np.zeros((10, 10), np.float32), config).any()


def test_dilation_is_in_pixels():
    point = np.zeros((9, 9), bool)
    point[4, 4] = True
    assert np.array_equal(dilated(point, 0), point)
    y, x = np.mgrid[-4:5, -4:5]
    assert np.array_equal(dilated(point, 1), x**2 + y**2 <= 1)
    assert dilated(point, 3).any(axis=0).sum() == 7
