"""Volumes of any axis order, spacing and shape become the grid that was asked for."""

import pickle
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import SourceError
from storage.geometry import Crop, Geometry, Grid, Orient, Project, Resample
from storage.sources.volumes.volume import Regrid, Volume, regridded

SPACING = (3.0, 2.0, 1.5)  # z, y, x
CANONICAL = np.array([[-1.5, 0, 0, 30], [0, -2.0, 0, -10], [0, 0, 3.0, 5], [0, 0, 0, 1]])


def _image(shape=(4, 5, 6), seed=0):
    return np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)


def _in_order(image, axes, flipped):
    """The canonical `image` as a file of another axis order holds it, with the affine that says so."""
    turn = Geometry(Grid(image.shape[1:], SPACING, tuple(map(tuple, CANONICAL))), (Orient(axes, flipped),))
    return turn.apply(image), np.array(turn.grid.affine)


@pytest.mark.parametrize("axes", permutations(range(3)))
def test_a_volume_in_any_axis_order_becomes_the_same_array_and_affine(axes):
    image, mask = _image(), _image(seed=1)[0] > 0
    for flipped in product((False, True), repeat=3):
        stored, affine = _in_order(image, axes, flipped)
        masks = {"tumour": _in_order(mask[None], axes, flipped)[0][0]}
        found, shown, geometry = regridded(Volume(stored, affine, masks), Regrid())
        assert np.array_equal(found, image)
        assert np.array_equal(shown["tumour"], mask)
        assert np.allclose(geometry.grid.affine, CANONICAL)
        assert np.allclose(geometry.grid.spacing_mm, SPACING)
        assert np.array_equal(geometry.mask_to_source(mask), masks["tumour"])


def test_a_volume_that_lies_as_asked_is_stored_as_it_is():
    image = _image()
    found, masks, geometry = regridded(Volume(image, CANONICAL), Regrid(spacing_mm=SPACING, shape=(4, 5, 6)))
    assert np.array_equal(found, image)
    assert masks is None
    assert geometry.operations == ()


def test_spacing_that_a_float32_header_rounded_is_no_reason_to_interpolate():
    rounded = CANONICAL.copy()
    rounded[0, 0] = np.float32(-1.5 * (1 + 1e-6))
    assert regridded(Volume(_image(), rounded), Regrid(spacing_mm=SPACING))[2].operations == ()


def test_an_oblique_volume_keeps_its_voxels_and_its_obliqueness():
    angle = np.deg2rad(20)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    image = _image()
    found, _, geometry = regridded(Volume(image, tilt @ CANONICAL), Regrid())
    assert np.array_equal(found, image)
    assert np.allclose(geometry.grid.affine, tilt @ CANONICAL)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.tuples(*(st.floats(0.5, 7),) * 3), st.integers(0, 99))
def test_the_grid_has_the_spacing_asked_for_and_every_source_voxel_has_its_centre_in_it(spacing, seed):
    image = _image(seed=seed)
    found, _, geometry = regridded(Volume(image, CANONICAL), Regrid(spacing_mm=spacing))
    assert np.allclose(geometry.grid.spacing_mm, spacing, rtol=1e-4)
    assert found.shape[1:] == geometry.grid.shape
    assert geometry.mask_to_source(np.ones(geometry.grid.shape, bool)).all()
    assert found.min() >= image.min() - 1e-5
    assert found.max() <= image.max() + 1e-5


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.tuples(*(st.floats(0.5, 7),) * 3), st.floats(1, 3))
def test_a_coarser_grid_never_has_more_voxels(spacing, factor):
    shape = regridded(Volume(_image(), CANONICAL), Regrid(spacing_mm=spacing))[0].shape
    coarser = tuple(factor * mm for mm in spacing)
    assert np.less_equal(regridded(Volume(_image(), CANONICAL), Regrid(spacing_mm=coarser))[0].shape, shape).all()


def test_a_whole_ratio_of_spacings_adds_no_voxel():
    assert regridded(Volume(_image((6, 4, 4)), np.diag([0.1, 0.1, 0.1, 1])), Regrid((0.3, 0.2, 0.4)))[0].shape == (
        1,
        2,
        2,
        1,
    )


def test_steps_come_in_one_order_turned_resampled_cropped_projected():
    stored, affine = _in_order(_image(), (2, 1, 0), (True, False, True))
    regrid = Regrid(spacing_mm=(2.0, 2.0, 2.0), shape=(8, 3, 7), project="coronal")
    found, _, geometry = regridded(Volume(stored, affine), regrid)
    assert [type(one) for one in geometry.operations] == [Orient, Resample, Crop, Project]
    assert found.shape == (1, 8, 7)


def test_a_shape_is_cut_out_about_the_centre_or_padded_with_its_smallest_value():
    image = np.arange(1, 7, dtype=np.float32).reshape(1, 6, 1, 1)
    assert regridded(Volume(image, CANONICAL), Regrid(shape=(4, 1, 1)))[0].ravel().tolist() == [2, 3, 4, 5]
    assert regridded(Volume(image, CANONICAL), Regrid(shape=(8, 1, 1)))[0].ravel().tolist() == [1, 1, 2, 3, 4, 5, 6, 1]


@pytest.mark.parametrize(("plane", "axis"), [("axial", 0), ("coronal", 1), ("sagittal", 2)])
def test_a_projection_looks_along_its_axis(plane, axis):
    image, mask = _image(), _image(seed=1)[0] > 1
    found, masks, geometry = regridded(Volume(image, CANONICAL, {"tumour": mask}), Regrid(project=plane))
    assert np.array_equal(found, image.max(axis=axis + 1))
    assert np.array_equal(masks["tumour"], mask.any(axis=axis))
    assert geometry.grid.shape == found.shape[1:]


def test_the_grid_is_known_beforehand_where_a_shape_is_given():
    assert Regrid(spacing_mm=(4, 4, 4)).grid() is None
    assert Regrid(project="axial").grid() is None
    assert Regrid(shape=(8, 9, 10)).grid() == (8, 9, 10)
    assert [Regrid(shape=(8, 9, 10), project=plane).grid() for plane in ("axial", "coronal", "sagittal")] == [
        (9, 10), (8, 10), (8, 9),
    ]  # fmt: skip
    assert Regrid().dims() == ("z", "y", "x")
    assert Regrid(project="axial").dims() == ("y", "x")


def test_lists_are_taken_and_a_wish_can_be_sent_to_a_worker():
    wish = Regrid(spacing_mm=[4, 4, 4], shape=[8, 9, 10])
    assert wish == Regrid((4.0, 4.0, 4.0), shape=(8, 9, 10))
    assert pickle.loads(pickle.dumps(wish)) == wish


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"spacing_mm": (4, 4)}, "spacing 4 4 is not three positive numbers z y x; 4 4 4 is usual"),
        ({"spacing_mm": (4, 0, 4)}, "spacing 4 0 4 is not"),
        ({"spacing_mm": (4, float("nan"), 4)}, "spacing 4 nan 4 is not"),
        ({"spacing_mm": (4, float("inf"), 4)}, "spacing 4 inf 4 is not"),
        ({"spacing_mm": 4}, "spacing 4 is not"),
        ({"shape": (8, 8.5, 8)}, "shape 8 8.5 8 is not three positive whole numbers"),
        ({"shape": (0, 8, 8)}, "shape 0 8 8 is not"),
        ({"interpolator": "lanczos"}, "there is no interpolator 'lanczos'; there is: nearest, linear, cubic, area"),
        ({"project": "oblique"}, "there is no projection 'oblique'; there is: axial, coronal, sagittal"),
    ],
)
def test_what_no_grid_can_have_is_refused_in_one_line(wish, message):
    with pytest.raises(SourceError) as error:
        Regrid(**wish)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.diag([1, 1, 0, 1.0]), "span no volume"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "span no volume"),
        (np.diag([1, np.nan, 1, 1]), "no numbers"),
    ],
)
def test_a_volume_without_a_place_in_the_patient_is_refused(affine, message):
    with pytest.raises(SourceError, match=message):
        regridded(Volume(_image(), affine), Regrid())


def test_a_ct_is_padded_with_its_air_and_its_mask_with_nothing():
    image = np.full((2, 2, 2, 2), 40, np.int16)
    image[0, 0] = -1000
    mask = np.ones((2, 2, 2), bool)
    shown, masks, geometry = regridded(
        Volume(image, np.diag([-1.0, -1.0, 1.0, 1.0]), {"GTV": mask}), Regrid(shape=(4, 2, 2))
    )
    assert shown[0, 0, 0, 0] == -1000
    assert shown[1, 0, 0, 0] == 40
    assert masks["GTV"].sum() == 8
    assert np.array_equal(geometry.mask_to_source(masks["GTV"]), mask)
    assert np.array_equal(Geometry.from_json(geometry.to_json()).apply(image), shown)
