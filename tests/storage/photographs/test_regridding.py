import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from storage.sources.photographs.field_of_view import Box
from storage.sources.photographs.regridding import cut, regrid_image, regrid_mask, square_around


def test_a_grid_of_the_same_size_returns_image_and_mask_bit_for_bit():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    assert np.array_equal(regrid_image(image, Box(0, 0, 40, 40), 40), image)
    assert np.array_equal(regrid_mask(image[..., 0] > 99, Box(0, 0, 40, 40), 40), image[..., 0] > 99)


def test_an_image_is_averaged_by_area():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 200
    assert np.all(regrid_image(stripes, Box(0, 0, 64, 64), 8) == 100)


def test_a_wide_photograph_is_padded_to_a_square_and_keeps_its_aspect_ratio():
    square = square_around(Box(0, 0, 40, 80))
    assert square == Box(-20, 0, 80, 80)
    grid = regrid_image(np.full((40, 80), 100, np.uint8), square, 16)
    assert np.array_equal(grid[:, 0] > 0, [False] * 4 + [True] * 8 + [False] * 4)


def test_a_box_outside_the_image_cuts_out_nothing_but_padding():
    assert not cut(np.ones((4, 4)), Box(-9, 20, 3, 3)).any()


def test_a_line_of_one_pixel_survives_an_eightfold_reduction():
    mask = np.zeros((256, 256), bool)
    mask[101, 40:200] = True
    grid = regrid_mask(mask, Box(0, 0, 256, 256), 32)
    assert np.array_equal(np.flatnonzero(grid.any(axis=1)), [101 // 8])
    assert np.array_equal(np.flatnonzero(grid.any(axis=0)), np.arange(40 // 8, 200 // 8))


def test_half_coverage_is_lesion_and_less_is_not():
    mask = np.zeros((32, 32), bool)
    mask[0:8, 0:12] = True  # the second grid pixel is covered by half
    mask[16:24, 0:11] = True  # the second grid pixel is covered by 3/8
    grid = regrid_mask(mask, Box(0, 0, 32, 32), 4)
    assert grid[0].tolist() == [True, True, False, False]
    assert grid[2].tolist() == [True, False, False, False]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0005, 0.05), st.sampled_from([(7, 64), (16, 100), (32, 97), (50, 60)]))
def test_every_lesion_of_the_source_is_on_the_grid_near_its_place(seed, density, sizes):
    size, side = sizes
    mask = np.random.default_rng(seed).random((side, side)) < density
    grid = regrid_mask(mask, Box(0, 0, side, side), size)
    components, count = ndimage.label(mask, np.ones((3, 3)))
    for component in range(1, count + 1):
        rows, columns = np.nonzero(components == component)
        low, high = np.array([rows.min(), columns.min()]), np.array([rows.max(), columns.max()]) + 1
        first, end = np.floor(low * size / side).astype(int), np.ceil(high * size / side).astype(int)
        assert grid[first[0] : end[0], first[1] : end[1]].any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_lesion_appears_where_the_source_has_none(seed):
    generator = np.random.default_rng(seed)
    mask = generator.random((90, 90)) < 0.01
    grid = regrid_mask(mask, Box(0, 0, 90, 90), 20)
    reach = ndimage.zoom(ndimage.binary_dilation(mask, iterations=1), 1, order=0)
    for row, column in zip(*np.nonzero(grid), strict=True):
        top, left = int(row * 4.5), int(column * 4.5)
        assert reach[top : top + 6, left : left + 6].any()


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(60, 220),
    width=st.integers(60, 220),
    size=st.integers(16, 96),
    place=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)),
    box=st.tuples(st.integers(-30, 10), st.integers(-30, 10)),
)
def test_a_mark_and_its_mask_land_on_the_same_place(height, width, size, place, box):
    row, column = int(place[0] * height), int(place[1] * width)
    mask = np.zeros((height, width), bool)
    mask[row - 5 : row + 6, column - 5 : column + 6] = True
    square = square_around(Box(box[0], box[1], height - box[0], width - box[1]))
    image = regrid_image(np.where(mask, 255, 0).astype(np.uint8), square, size)
    grid = regrid_mask(mask, square, size)
    assert np.allclose(ndimage.center_of_mass(image), ndimage.center_of_mass(grid), atol=0.75)
