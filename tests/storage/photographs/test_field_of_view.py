import numpy as np
import pytest

from storage.sources.photographs.field_of_view import Box, field_of_view


def disc(height, width, centre, radius, surround=4, retina=150):
    rows, columns = np.ogrid[:height, :width]
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    noise = np.random.default_rng(0).integers(0, 6, (height, width, 3))
    return np.where(inside[..., None], retina - 60 * np.arange(3), surround).clip(0, 255).astype(
        np.uint8
    ) + noise.astype(np.uint8)


def test_the_box_of_a_lit_disc_is_found_to_a_thumbnail_pixel():
    box = field_of_view(disc(700, 1000, (350, 480), 300))
    assert np.allclose(box, (50, 180, 601, 601), atol=4)


def test_a_disc_clipped_by_the_frame_keeps_its_visible_part():
    box = field_of_view(disc(500, 900, (250, 450), 330))
    assert (box.top, box.height) == (0, 500)
    assert np.allclose((box.left, box.width), (120, 661), atol=4)


def test_a_black_photograph_shows_no_field_of_view_and_stays_whole():
    assert field_of_view(np.zeros((300, 400, 3), np.uint8)) == Box(0, 0, 300, 400)


def test_a_nearly_black_photograph_stays_whole():
    assert field_of_view(disc(300, 400, (150, 200), 100, surround=0, retina=5)) == Box(0, 0, 300, 400)


def test_a_photograph_that_fills_its_frame_stays_whole():
    skin = np.random.default_rng(0).integers(120, 220, (300, 400, 3), dtype=np.uint8)
    assert field_of_view(skin) == Box(0, 0, 300, 400)


def test_a_caption_beside_the_disc_is_cut_away():
    photograph = disc(700, 1000, (350, 500), 300)
    photograph[10:40, 10:150] = 255
    assert np.allclose(field_of_view(photograph), (50, 200, 601, 601), atol=4)


def test_a_lone_reflection_is_no_field_of_view():
    photograph = np.zeros((400, 400), np.uint8)
    photograph[100:160, 100:160] = 255
    assert field_of_view(photograph) == Box(0, 0, 400, 400)


@pytest.mark.parametrize("shape", [(1, 1), (2, 700, 3), (3, 3, 3)])
def test_tiny_and_narrow_photographs_have_a_box(shape):
    box = field_of_view(np.full(shape, 200, np.uint8))
    assert (box.height, box.width) == shape[:2]


def test_a_16_bit_disc_is_found_like_an_8_bit_one():
    photograph = disc(700, 1000, (350, 480), 300)[..., 0]
    assert field_of_view(photograph.astype(np.uint16) * 257) == field_of_view(photograph)
