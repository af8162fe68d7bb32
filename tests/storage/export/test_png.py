from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from storage.cohort import Cohort
from storage.export import display, heat_scale, png, write_png
from storage.export.display import LESION_COLOURS, View

from .conftest import content_of


def drawn(cohort: Cohort, case: int, tmp_path: Path, **changes: object) -> np.ndarray:
    (file,) = write_png(cohort, case, tmp_path / "case.png", content_of(cohort, **changes))
    with Image.open(file) as opened:
        assert opened.format == "PNG"
        return np.asarray(opened)


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == np.uint8(colour)).all(axis=-1).any())


@pytest.mark.parametrize("name", ["photographs", "pets", "scans"])
def test_every_case_becomes_a_colour_png(name: str, request: pytest.FixtureRequest, tmp_path: Path):
    cohort: Cohort = request.getfixturevalue(name)
    for case in range(len(cohort)):
        assert drawn(cohort, case, tmp_path).shape[2] == 3


def test_lesion_classes_are_outlined_in_colours_of_their_own(photographs: Cohort, tmp_path: Path):
    panel = drawn(photographs, 0, tmp_path, maps={})[:700]
    assert has_colour(panel, LESION_COLOURS[1])  # MA, the second class; the first one has no pixel
    assert not has_colour(panel, LESION_COLOURS[0])


def test_a_photograph_is_shown_as_it_is(photographs: Cohort, tmp_path: Path):
    panel = drawn(photographs, 2, tmp_path)[:800, : round(800 * 20 / 24)]
    means = panel.reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(means, photographs.image(2).mean(axis=(1, 2)), atol=4)


def test_a_lesion_of_one_pixel_is_still_marked_on_a_picture_a_tenth_the_size():
    plane = np.zeros((1000, 1000), bool)
    plane[503, 721] = True
    assert np.argwhere(display.shown_mask(plane, (100, 100))).tolist() == [[50, 72]]


def test_an_outline_leaves_the_lesion_itself_visible():
    picture, mask = np.full((9, 9, 3), 7, np.uint8), np.zeros((9, 9), bool)
    mask[3:6, 3:6] = True
    shown = display.outlined(picture, mask, (1, 2, 3))
    assert (shown[mask] == 7).all()
    assert (shown == (1, 2, 3)).all(axis=-1).sum() == 16


def test_heat_is_clear_at_zero_and_below_and_full_at_the_scale():
    picture = np.full((1, 3, 3), 60, np.uint8)
    shown = display.heated(picture, np.array([[-5.0, 0.0, 2.0]]), 2.0)
    assert shown[0, 0].tolist() == shown[0, 1].tolist() == [60, 60, 60]
    assert shown[0, 2].tolist() == [round(0.2 * 60 + 0.8 * 255)] * 3


def test_one_heat_scale_serves_healthy_and_diseased_cases_alike(photographs: Cohort):
    weak, strong = (np.full((24, 20), value, np.float32) for value in (0.01, 1.0))
    photographs.write_maps("two", [0, 1], [weak, strong], pd.DataFrame({"score": [0.0, 1.0]}))
    assert heat_scale(photographs, "two") == 1.0
    assert display.heated(np.zeros((24, 20, 3), np.uint8), weak, 1.0).max() < 4


def test_a_map_of_nothing_has_a_scale_that_can_be_divided_by(photographs: Cohort):
    photographs.write_maps("zero", [0], [np.zeros((24, 20), np.float32)], pd.DataFrame({"score": [0.0]}))
    assert heat_scale(photographs, "zero") == 1.0


def test_grey_values_are_windowed_by_what_the_channel_is():
    volume = np.linspace(-1000, 1000, 1001, dtype=np.float32)
    assert display.window("CT", volume) == (-160.0, 240.0)
    assert display.window("PET", volume / 100) == (0.0, 10.0)
    assert display.window("PET", volume * 1000) == pytest.approx((-990_000, 990_000))  # Bq/mL
    assert display.window("red", np.zeros(3, np.uint8)) == (0.0, 255.0)
    np.testing.assert_allclose(display.window("MR", volume), (-990, 990), atol=1e-3)


def test_the_head_is_up_on_coronal_and_sagittal_views():
    volume = np.zeros((4, 3, 2))
    volume[3] = 1  # the uppermost slice
    for axis in (1, 2):
        assert View("", axis).of(volume)[0].all()
    assert View("", 0).of(volume).all()


def test_a_volume_is_shown_in_the_slice_with_most_lesion(scans: Cohort):
    evidence = scans.mask(0)
    assert [view.place for view in display.views("CT", scans.dims, evidence)] == [2]
    assert [view.axis for view in display.views("PET", scans.dims, evidence)] == [0, 1, 2]


def test_pixels_are_drawn_square_in_mm(pets: Cohort):
    layers = png.Layers(pets.image(0), {}, {}, (4.0, 1.0, 2.0))
    depth, height, width = pets.shape(0)
    down, across = png._size(layers, View("coronal", 1))
    assert down / across == pytest.approx(4 * depth / (2 * width), rel=0.02)
    down, across = png._size(layers, View("axial", 0))
    assert down / across == pytest.approx(height / (2 * width), rel=0.02)


def test_a_case_id_with_control_characters_is_drawn_readably():
    assert png._readable("a\x1b[31m\nb") == "a?[31m?b"
