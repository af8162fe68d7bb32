import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from models.augmentation import AugmentationConfig, augmentation, drawn_look
from models.errors import ModelError

STRONG = AugmentationConfig(rotation_degrees=40, zoom=0.3, shift=0.1, brightness=0.4, gamma=0.4)
GEOMETRY = STRONG.model_copy(update={"brightness": 0.0, "gamma": 0.0})
NOTHING = AugmentationConfig(flip=False, rotation_degrees=0, zoom=0, shift=0, brightness=0, gamma=0)
GRIDS = [(16, 16), (20, 13), (8, 12, 17)]
UINT8, UINT16, INT16, FLOAT = np.dtype("uint8"), np.dtype("uint16"), np.dtype("int16"), np.dtype("float32")
grids = st.sampled_from(GRIDS)
seeds = st.integers(0, 2**32 - 1)


def photograph(grid, channels=3, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (channels, *grid), dtype=np.uint8))


def suv(grid, seed=0):
    """(2, *grid): CT-like values from −1000 to where the scanner cuts them, and PET-like values from 0.3 on."""
    draw = np.random.default_rng(seed)
    ct, pet = draw.uniform(-1000, 3000, grid).clip(max=1500.1), 0.3 + draw.exponential(2.0, grid)
    return torch.from_numpy(np.stack([ct, pet]).astype(np.float32))


def resampled(image, look, grid):
    """The affine map of `look` by SciPy: where a pixel lies about the centre, R · T · S tells where it comes from."""
    turn, scale, shift = np.eye(len(grid)), np.diag(look.scales), np.array(look.shifts)
    cos, sin = np.cos(look.radians), np.sin(look.radians)
    turn[-2:, -2:] = [[cos, -sin], [sin, cos]]
    matrix, centre = turn @ scale, (np.array(grid) - 1) / 2
    offset = centre - matrix @ centre + turn @ shift
    flipped = np.flip(image, look.flipped)
    moved = [ndimage.affine_transform(one, matrix, offset, order=1, mode="grid-constant") for one in flipped]
    return np.stack(moved)


@given(grid=grids, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_moves_pixels_where_scipy_does(grid, seed):
    image = photograph(grid)
    seen = augmentation(GEOMETRY, grid, UINT8)({"image": image}, seed)["image"]
    expected = resampled(image.numpy().astype(float), drawn_look(GEOMETRY, grid, seed), grid)
    np.testing.assert_allclose(seen, expected, atol=0.05)


@given(grid=grids, seed=seeds)
@settings(max_examples=20, deadline=None)
def test_a_mask_follows_its_image(grid, seed):
    """Of an image that is bright in the mask alone, the pixels of the moved mask are the bright ones."""
    mask = torch.from_numpy(ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(1, *grid)), 2.5) > 0)
    item = {"image": (mask * 200).to(torch.uint8), "mask": mask}
    seen = augmentation(GEOMETRY, grid, UINT8, ("image", "mask"))(item, seed)
    assert seen["mask"].dtype == torch.bool
    assert seen["mask"].shape == (1, *grid)
    assert (seen["image"][seen["mask"]] >= 200 / 2 ** len(grid) - 0.01).all()
    assert (seen["image"][~seen["mask"]] <= 200 * (1 - 1 / 2 ** len(grid)) + 0.01).all()
    is_clear = (seen["image"] < 1) | (seen["image"] > 199)
    assert torch.equal((seen["image"] > 100)[is_clear], seen["mask"][is_clear])


@given(grid=grids, seed=seeds, dtype=st.sampled_from([UINT8, UINT16, INT16, FLOAT]))
@settings(max_examples=30, deadline=None)
def test_the_same_seed_looks_the_same(grid, seed, dtype):
    item = {"image": photograph(grid).numpy().astype(dtype), "case": 7}
    kept = item["image"].copy()
    look = augmentation(STRONG, grid, dtype)
    first = look(item, seed)
    look(item, seed ^ 1)
    assert torch.equal(first["image"], look(item, seed)["image"])
    assert first["image"].dtype == torch.float32
    assert type(first["image"]) is torch.Tensor
    assert first["case"] == 7
    np.testing.assert_array_equal(item["image"], kept)


def seen_elsewhere(pickled, item, seed):
    torch.set_num_threads(1)
    return pickle.loads(pickled)(item, seed)["image"].numpy()


def test_every_process_and_thread_looks_the_same(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # a spawned process imports this module from there
    item, look = {"image": photograph((40, 30)).numpy()}, augmentation(STRONG, (40, 30), UINT8)
    pickled = pickle.dumps(look)
    assert len(pickled) < 2000
    here = [look(item, seed)["image"].numpy() for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        by_threads = list(threads.map(lambda seed: look(item, seed)["image"].numpy(), range(8)))
    np.testing.assert_array_equal(here, by_threads)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        elsewhere = list(processes.map(seen_elsewhere, [pickled] * 8, [item] * 8, range(8)))
    np.testing.assert_array_equal(here, elsewhere)


@given(grid=grids, seed=seeds)
@settings(max_examples=20, deadline=None)
def test_a_photograph_looks_the_same_in_8_and_in_16_bits(grid, seed):
    image = photograph(grid)
    deep = (image.int() * 257).to(torch.uint16)
    first = augmentation(STRONG, grid, UINT8)({"image": image}, seed)["image"]
    assert torch.equal(first, augmentation(STRONG, grid, UINT16)({"image": deep}, seed)["image"])
    assert first.min() >= 0
    assert first.max() <= 255


@given(grid=grids, seed=seeds)
@settings(max_examples=30, deadline=None)
def test_values_with_units_are_moved_alone(grid, seed):
    image = suv(grid)
    seen = augmentation(STRONG, grid, FLOAT)({"image": image}, seed)["image"]
    for before, after in zip(image, seen, strict=True):
        assert before.min() <= after.min()
        assert after.max() <= before.max()
    lowest = image.numpy().min(axis=tuple(range(1, image.dim())), keepdims=True)
    expected = resampled(image.numpy() - lowest, drawn_look(STRONG, grid, seed), grid) + lowest
    np.testing.assert_allclose(seen, expected, atol=1.0)


def test_outside_is_each_channel_s_minimum():
    config = AugmentationConfig(flip=False, rotation_degrees=0, zoom=0.9, shift=0)
    seed = next(seed for seed in range(99) if min(drawn_look(config, (16, 16), seed).scales) > 1.5)
    image = suv((16, 16))
    corners = augmentation(config, (16, 16), FLOAT)({"image": image}, seed)["image"][:, 0, 0]
    assert torch.equal(corners, image.amin((1, 2)))
    as_hounsfield = augmentation(config, (16, 16), INT16)({"image": image.to(torch.int16)}, seed)["image"]
    assert torch.equal(as_hounsfield[:, 0, 0], image.to(torch.int16).amin((1, 2)).float())
    assert augmentation(config, (16, 16), UINT8)({"image": photograph((16, 16))}, seed)["image"][:, 0, 0].max() == 0


@pytest.mark.parametrize("grid", GRIDS)
def test_without_augmentation_values_stay(grid):
    image, mask = photograph(grid), photograph(grid, 1) > 128
    seen = augmentation(NOTHING, grid, UINT8, ("image", "mask"))({"image": image, "mask": mask}, 3)
    assert torch.equal(seen["image"], image.float())
    assert torch.equal(seen["mask"], mask)
    deep = torch.from_numpy(np.random.default_rng(0).integers(0, 65536, (1, *grid), dtype=np.uint16))
    assert torch.equal(augmentation(NOTHING, grid, UINT16)({"image": deep}, 3)["image"], deep.float() / 257)
    assert torch.equal(augmentation(NOTHING, grid, FLOAT)({"image": suv(grid)}, 3)["image"], suv(grid))


def test_flips_are_exact_and_reach_every_orientation():
    only_flips = NOTHING.model_copy(update={"flip": True})
    image, look = photograph((4, 5, 6), 1), augmentation(only_flips, (4, 5, 6), UINT8)
    found = {look({"image": image}, seed)["image"].numpy().tobytes() for seed in range(100)}
    axes = [[axis for axis in (1, 2, 3) if chosen >> axis & 1] for chosen in range(0, 16, 2)]
    assert found == {image.float().flip(one).contiguous().numpy().tobytes() for one in axes}


def test_looks_are_spread_as_the_settings_say():
    looks = [drawn_look(STRONG, (100, 50), seed) for seed in range(4000)]
    degrees = np.rad2deg([look.radians for look in looks])
    scales, shifts = np.array([look.scales for look in looks]), np.array([look.shifts for look in looks])
    for values, half_width in ((degrees, 40), (scales - 1, 0.3), (shifts / [100, 50], 0.1)):
        assert abs(values).max() <= half_width
        np.testing.assert_allclose(values.std(axis=0), half_width / np.sqrt(3), rtol=0.04)
        np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.04 * half_width)
    for values in ([look.factor for look in looks], [look.gamma for look in looks]):
        varied = np.array([value for value in values if value != 1])
        assert 0.46 < len(varied) / len(looks) < 0.54
        assert (varied.min(), varied.max()) == pytest.approx((0.6, 1.4), abs=0.005)
    flips = np.mean([[axis in look.flipped for axis in (1, 2)] for look in looks], axis=0)
    np.testing.assert_allclose(flips, 0.5, atol=0.04)


def test_one_setting_leaves_the_others_draws_alone():
    look = drawn_look(STRONG, (16, 16), 5)
    turned = drawn_look(STRONG.model_copy(update={"zoom": 0.0, "brightness": 0.0, "flip": False}), (16, 16), 5)
    assert (turned.radians, turned.shifts, turned.gamma) == (look.radians, look.shifts, look.gamma)
    assert (turned.scales, turned.factor, turned.flipped) == ((1.0, 1.0), 1.0, ())


def test_brightness_and_gamma_follow_their_formulas():
    seed = next(seed for seed in range(99) if 1 not in drawn_look(STRONG, (16, 16), seed)[4:])
    config = STRONG.model_copy(update={"flip": False, "rotation_degrees": 0.0, "zoom": 0.0, "shift": 0.0})
    look, image = drawn_look(config, (16, 16), seed), photograph((16, 16)) // 2
    brighter = image.double() * look.factor
    lowest, span = brighter.min(), brighter.max() - brighter.min()
    expected = ((brighter - lowest) / span) ** look.gamma * span + lowest
    seen = augmentation(config, (16, 16), UINT8)({"image": image}, seed)["image"]
    np.testing.assert_allclose(seen, expected, atol=1e-2)


@pytest.mark.parametrize(
    ("grid", "keys", "complaint"),
    [((16,), ("image",), "2 and 3 axes, not of 1"), ((16, 16), ("image", "boxes"), "cannot move 'boxes'")],
)
def test_what_cannot_be_moved_is_refused(grid, keys, complaint):
    with pytest.raises(ModelError, match=complaint):
        augmentation(STRONG, grid, UINT8, keys)


def test_an_item_of_another_grid_is_refused():
    with pytest.raises(ModelError, match=r"the image has a grid of \(16, 17\), not \(16, 16\)"):
        augmentation(STRONG, (16, 16), UINT8)({"image": photograph((16, 17))}, 0)
