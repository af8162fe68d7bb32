from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from models.errors import ModelError
from models.inpainting import INPAINTERS, harmonic, inpaint_batch, inpaint_case

NAMES = sorted(INPAINTERS)


def photograph(channels=3, dtype=np.uint8, size=40):
    top = 255 if dtype == np.uint8 else 60_000
    return np.random.default_rng(0).uniform(0, top, (channels, size, size)).astype(dtype)


def blobs(size=40):
    mask = np.zeros((size, size), bool)
    mask[5:9, 6:12] = mask[20:30, 22:25] = mask[0:3, 35:40] = True
    return mask


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_only_masked_pixels_change(name, dtype, channels):
    image, mask = photograph(channels, dtype), blobs()
    untouched = image.copy()
    filled = inpaint_case(INPAINTERS[name](3.0), image, mask)
    assert filled.dtype == image.dtype
    assert filled.shape == image.shape
    assert np.array_equal(filled[:, ~mask], image[:, ~mask])
    assert (filled[:, mask] != image[:, mask]).mean() > 0.9
    assert np.array_equal(image, untouched)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("everything", [False, True])
def test_nothing_to_inpaint_or_nothing_to_inpaint_from_gives_the_same_image(name, everything):
    image, mask = photograph(), np.full((40, 40), everything)
    filled = inpaint_case(INPAINTERS[name](3.0), image, mask)
    assert np.array_equal(filled, image)
    assert not np.shares_memory(filled, image)
    assert np.array_equal(INPAINTERS[name](3.0)(image.transpose(1, 2, 0).copy(), mask), image.transpose(1, 2, 0))


@pytest.mark.parametrize("name", NAMES)
def test_a_pool_gives_what_single_calls_give(name):
    images = np.stack([photograph(), photograph()[:, ::-1], photograph()[:, :, ::-1]])
    masks = np.stack([blobs(), np.zeros((40, 40), bool), blobs().T])
    inpainter = INPAINTERS[name](3.0)
    with ThreadPoolExecutor(2) as pool:
        filled = inpaint_batch(inpainter, images, masks, pool)
    assert np.array_equal(
        filled, np.stack([inpaint_case(inpainter, *pair) for pair in zip(images, masks, strict=True)])
    )


@pytest.mark.parametrize(("name", "flag"), [("navier_stokes", cv2.INPAINT_NS), ("telea", cv2.INPAINT_TELEA)])
def test_is_opencv_s(name, flag):
    image, mask = photograph().transpose(1, 2, 0).copy(), blobs()
    assert np.array_equal(INPAINTERS[name](5.0)(image, mask), cv2.inpaint(image, mask.astype(np.uint8), 5.0, flag))


@pytest.mark.parametrize("name", ["navier_stokes", "telea"])
def test_other_types_are_refused(name):
    with pytest.raises(ModelError, match="uint8, uint16 and float32 images, not float64"):
        INPAINTERS[name](3.0)(np.zeros((8, 8, 1)), np.eye(8, dtype=bool))


def ramp(dtype):
    y, x = np.mgrid[0:32, 0:32]
    return np.stack([2 * y + 3 * x, 160 - y - 4 * x], axis=2).astype(dtype)


def test_harmonic_restores_a_linear_ramp():
    mask = np.zeros((32, 32), bool)
    mask[4:20, 7:25] = mask[25:28, 3:30] = True
    holed = np.where(mask[..., None], 77, ramp(np.float64))
    assert np.allclose(harmonic(holed, mask), ramp(np.float64), atol=1e-9)
    assert np.array_equal(
        harmonic(np.where(mask[..., None], 77, ramp(np.uint8)).astype(np.uint8), mask), ramp(np.uint8)
    )


def test_harmonic_lets_nothing_flow_over_the_border():
    """A hole in a corner takes the value around it; a band from border to border continues a ramp across it."""
    image = np.full((8, 8, 1), 9, np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[:3, :3] = True
    assert np.array_equal(harmonic(np.where(mask[..., None], 200, image).astype(np.uint8), mask), image)
    across = np.tile(np.arange(8.0)[None, :, None], (8, 1, 1))
    band = np.zeros((8, 8), bool)
    band[:, 2:5] = True
    assert np.allclose(harmonic(np.where(band[..., None], 0, across), band), across)


def test_harmonic_obeys_the_maximum_principle():
    image, mask = photograph(1, np.float32)[0][..., None], blobs()
    filled = harmonic(image, mask)[mask]
    assert filled.min() >= image[~mask].min()
    assert filled.max() <= image[~mask].max()
