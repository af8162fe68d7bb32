"""Operations from a source's voxels to a grid, and back: identities, closed forms, and SimpleITK as an oracle."""

import pickle
from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from storage.geometry import Crop, Geometry, Grid, Orient, Project, Resample, plain
from storage.sources.photographs.field_of_view import Box
from storage.sources.photographs.regridding import regrid_image, regrid_mask

quick = settings(max_examples=60, deadline=None, derandomize=True)
INTERPOLATORS = ("nearest", "linear", "cubic", "area")


def _noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _spots(shape, seed, density=0.02):
    return np.random.default_rng(seed).random(shape) < density


def _grid(shape):
    """A grid of `shape` that lies obliquely in the patient."""
    turn, _ = np.linalg.qr(np.random.default_rng(sum(shape)).normal(size=(3, 3)))
    spacing = np.arange(1, len(shape) + 1) * 0.7
    if len(shape) == 2:
        return Grid(shape, tuple(spacing))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * spacing[::-1], (10, -20, 5)
    return Grid(shape, tuple(spacing), tuple(map(tuple, affine)))


@st.composite
def geometries(draw, dimensions=(2, 3), project=True, kinds=("orient", "crop", "resample")):
    """Up to four operations in any order, a projection among them at most once."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=(n := draw(st.sampled_from(dimensions))), max_size=n)))
    geometry = Geometry(_grid(shape))
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=4)):
        geometry = Geometry(geometry.source, (*geometry.operations, draw(_operation(kind, geometry.grid.shape))))
    if project and len(shape) == 3 and draw(st.booleans()):
        axis = draw(st.integers(0, 2))
        last = Project(axis, geometry.grid.shape[axis])
        geometry = Geometry(geometry.source, (*geometry.operations, last))
    return geometry


@st.composite
def _operation(draw, kind, shape):
    if kind == "orient":
        axes = draw(st.permutations(range(len(shape))))
        return Orient(tuple(axes), tuple(draw(st.booleans()) for _ in shape))
    if kind == "crop":
        start = tuple(draw(st.integers(-3, size + 1)) for size in shape)
        return Crop(start, tuple(draw(st.integers(1, 9)) for _ in shape))
    scale = tuple(draw(st.floats(0.3, 3)) for _ in shape)
    return Resample(tuple(draw(st.integers(1, 9)) for _ in shape), scale, draw(st.sampled_from(INTERPOLATORS)))


def _worlds(grid):
    """The place in the patient of each voxel of `grid`, (*shape, 3)."""
    index = np.stack(np.indices(grid.shape)[::-1], axis=-1)
    affine = np.array(grid.affine)
    return index @ affine[:3, :3].T + affine[:3, 3]


@quick
@given(geometries())
def test_a_geometry_is_the_same_after_json_and_pickle(geometry):
    assert Geometry.from_json(geometry.to_json()) == geometry
    assert Geometry.from_json(geometry.to_json()).to_json() == geometry.to_json()
    assert pickle.loads(pickle.dumps(geometry)) == geometry


def test_unknown_spacing_is_null_in_json_and_equal_afterwards():
    photograph = Geometry(Grid((40, 60), (np.nan, float("nan"))), (Crop((0, 10), (40, 40)),))
    assert "[null, null]" in photograph.to_json()
    assert Geometry.from_json(photograph.to_json()) == photograph
    assert photograph.grid.affine is None
    assert np.isnan(photograph.grid.spacing_mm).all()


def test_integers_of_numpy_are_written_too():
    geometry = Geometry(Grid((8, 8), (1.0, 1.0)), (Crop(tuple(np.array([1, 2])), tuple(np.array([3, 4]))),))
    assert Geometry.from_json(geometry.to_json()).operations == (Crop((1, 2), (3, 4)),)


@quick
@given(geometries(project=False), st.integers(0, 99))
def test_image_mask_and_map_have_the_shape_of_the_grids(geometry, seed):
    image, mask = _noise((2, *geometry.source.shape), seed), _spots(geometry.source.shape, seed)
    assert geometry.apply(image).shape == (2, *geometry.grid.shape)
    assert geometry.apply(image).dtype == image.dtype
    grid = geometry.apply_mask(mask)
    assert (grid.shape, grid.dtype) == (geometry.grid.shape, bool)
    assert geometry.mask_to_source(grid).shape == geometry.source.shape
    assert geometry.map_to_source(grid.astype(np.float64)).dtype == np.float32


@quick
@given(geometries(kinds=("orient",), project=False), st.integers(0, 99))
def test_turning_there_and_back_is_the_identity(geometry, seed):
    image = _noise((1, *geometry.source.shape), seed)
    assert np.array_equal(geometry.map_to_source(geometry.apply(image)[0]), image[0])
    mask = _spots(geometry.source.shape, seed, 0.5)
    assert np.array_equal(geometry.mask_to_source(geometry.apply_mask(mask)), mask)


def test_a_turned_volume_is_the_one_numpy_turns():
    image = _noise((1, 2, 3, 4))
    turned = Geometry(_grid((2, 3, 4)), (Orient((2, 0, 1), (True, False, False)),)).apply(image)
    assert np.array_equal(turned[0], image[0].transpose(2, 0, 1)[::-1])


@quick
@given(geometries(kinds=("crop",), project=False), st.integers(0, 99))
def test_a_cropped_map_lies_where_it_was_cut_out_and_is_0_elsewhere(geometry, seed):
    image = _noise((1, *geometry.source.shape), seed)
    shown = geometry.map_to_source(np.ones(geometry.grid.shape)) > 0
    assert np.array_equal(geometry.map_to_source(geometry.apply(image)[0]), np.where(shown, image[0], 0))


def test_a_crop_that_reaches_outside_shows_0_there():
    geometry = Geometry(plain((2, 2), (1, 1)).source, (Crop((-1, 1), (3, 3)),))
    assert geometry.apply(np.array([[[1, 2], [3, 4]]])).tolist() == [[[0, 0, 0], [2, 0, 0], [4, 0, 0]]]
    assert not Geometry(plain((2, 2), (1, 1)).source, (Crop((5, 5), (3, 3)),)).apply(np.ones((1, 2, 2))).any()


@quick
@given(geometries())
def test_a_voxel_is_in_the_same_place_of_the_patient_by_either_affine(geometry):
    if geometry.grid.affine is None:
        return
    whole = Geometry(geometry.source, tuple(one for one in geometry.operations if not isinstance(one, Project)))
    position = np.stack(np.indices(whole.grid.shape, dtype=float), axis=-1)
    before = [whole.source]
    for operation in whole.operations:
        before.append(operation.grid(before[-1]))
    for operation, grid in zip(reversed(whole.operations), reversed(before[:-1]), strict=True):
        position = _back(operation, grid, position)
    affine = np.array(whole.source.affine)
    assert np.allclose(position[..., ::-1] @ affine[:3, :3].T + affine[:3, 3], _worlds(whole.grid), atol=1e-9)


def _back(operation, before, position):
    """Positions on the grid after `operation` as positions before it, by its definition."""
    if isinstance(operation, Crop):
        return position + operation.start
    if isinstance(operation, Resample):
        centre = (np.array(operation.shape) - 1) / 2
        return (position - centre) * operation.scale + (np.array(before.shape) - 1) / 2
    result = np.empty_like(position)
    for new, (old, flipped) in enumerate(zip(operation.axes, operation.flipped, strict=True)):
        result[..., old] = before.shape[old] - 1 - position[..., new] if flipped else position[..., new]
    return result


@quick
@given(geometries(dimensions=(3,), project=False))
def test_a_map_goes_back_to_the_voxel_that_is_nearest_in_the_patient(geometry):
    number = np.arange(np.prod(geometry.grid.shape), dtype=np.float32).reshape(geometry.grid.shape) + 1
    found = geometry.map_to_source(number)
    offset = (
        _worlds(geometry.source)[found > 0] - _worlds(geometry.grid).reshape(-1, 3)[found[found > 0].astype(int) - 1]
    )
    steps = np.linalg.solve(np.array(geometry.grid.affine)[:3, :3], offset.T)
    assert (np.abs(steps) <= 0.5 + 1e-6).all()


@quick
@given(geometries(dimensions=(3,), project=False))
def test_spacing_is_the_length_of_the_steps_of_the_affine(geometry):
    steps = np.linalg.norm(np.array(geometry.grid.affine)[:3, :3], axis=0)[::-1]
    assert np.allclose(steps, geometry.grid.spacing_mm)


@pytest.mark.parametrize("interpolator", INTERPOLATORS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_resampling_at_scale_1_is_the_identity_bit_for_bit(interpolator, dtype):
    image = (_noise((2, 5, 6, 7)) * 50).astype(dtype)
    geometry = Geometry(_grid((5, 6, 7)), (Resample((5, 6, 7), (1.0, 1.0, 1.0), interpolator),))
    assert np.array_equal(geometry.apply(image), image)
    assert geometry.grid == geometry.source
    mask = image[0] > 0
    assert np.array_equal(geometry.apply_mask(mask), mask)
    assert np.array_equal(geometry.mask_to_source(mask), mask)


def _about(shape, scale, interpolator):
    """The smallest grid of voxels `scale` wide in which every voxel of `shape` has its centre."""
    size = tuple(int(np.ceil(length / step - 1e-3)) for length, step in zip(shape, scale, strict=True))
    return Geometry(_grid(shape), (Resample(size, scale, interpolator),))


scales = st.tuples(*(st.floats(0.3, 3),) * 3)


@quick
@given(scales, st.sampled_from(INTERPOLATORS), st.sampled_from([-300, 0, 7]))
def test_a_constant_volume_stays_constant_to_the_very_edge(scale, interpolator, value):
    geometry = _about((8, 9, 10), scale, interpolator)
    assert np.allclose(geometry.apply(np.full((1, 8, 9, 10), value, np.float32)), value, rtol=1e-6)
    assert np.all(geometry.apply(np.full((1, 8, 9, 10), value, np.int16)) == value)


@quick
@given(scales, st.sampled_from(["linear", "cubic"]))
def test_a_ramp_stays_a_ramp_away_from_the_edges(scale, interpolator):
    length = 30
    geometry = _about((length,) * 3, scale, interpolator)
    ramp = np.indices((length,) * 3, dtype=np.float64).transpose(1, 2, 3, 0) @ [1, -2, 0.5]
    grid = geometry.apply(ramp[None])[0]
    position = _back(geometry.operations[0], geometry.source, np.stack(np.indices(grid.shape, dtype=float), axis=-1))
    reach = 2 * np.maximum(1, scale)
    inside = ((position >= reach) & (position <= length - 1 - reach)).all(axis=-1)
    assert np.allclose(grid[inside], (position @ [1, -2, 0.5])[inside])


@pytest.mark.parametrize(("interpolator", "oracle"), [("nearest", "sitkNearestNeighbor"), ("linear", "sitkLinear")])
def test_a_finer_grid_is_the_one_of_simpleitk(interpolator, oracle):
    image = _noise((1, 12, 14, 16))
    geometry = _about((12, 14, 16), (0.7, 0.9, 0.53), interpolator)
    grid = geometry.apply(image)[0]
    volume = SimpleITK.GetImageFromArray(image[0])
    origin = _back(geometry.operations[0], geometry.source, np.zeros(3))
    expected = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(
            volume, grid.shape[::-1], SimpleITK.Transform(), getattr(SimpleITK, oracle), origin[::-1].tolist(),
            geometry.operations[0].scale[::-1], volume.GetDirection(),
        )
    )  # fmt: skip
    inner = (slice(2, -2),) * 3
    assert np.allclose(grid[inner], expected[inner], atol=1e-5)


def test_stripes_finer_than_the_grid_become_their_mean_and_no_coarser_stripes():
    stripes = np.tile(np.float32([0, 1]), 60)[None, None, :]
    for interpolator in ("linear", "cubic", "area"):
        grid = Geometry(plain((1, 120), (1, 1)).source, (Resample((1, 48), (1.0, 2.5), interpolator),)).apply(stripes)
        assert np.abs(grid[0, 0, 4:-4] - 0.5).max() < 0.11, interpolator
    aliased = Geometry(plain((1, 120), (1, 1)).source, (Resample((1, 60), (1.0, 2.0), "nearest"),)).apply(stripes)
    assert aliased.min() == aliased.max()


def test_integers_are_rounded_and_clipped_to_their_range():
    steps = np.array([0, 0, 0, 255, 255, 255], np.uint8)[None, None]
    grid = Geometry(plain((1, 6), (1, 1)).source, (Resample((1, 12), (1.0, 0.5), "cubic"),)).apply(steps)
    assert grid.dtype == np.uint8
    assert (grid[0, 0, :4] == 0).all()
    assert (grid[0, 0, -4:] == 255).all()


def test_a_voxel_that_is_no_number_stays_where_it_is():
    image = np.zeros((1, 9, 9, 9), np.float32)
    image[0, 4, 4, 4] = np.nan
    broken = np.isnan(_about((9, 9, 9), (0.9, 1.1, 1.0), "linear").apply(image)[0])
    assert 1 <= broken.sum() <= 27


@quick
@given(st.tuples(*(st.integers(1, 4),) * 3), st.integers(0, 99), st.sampled_from(INTERPOLATORS))
def test_a_mask_on_a_grid_that_is_a_whole_number_finer_comes_back_exactly(factors, seed, interpolator):
    mask = _spots((4, 5, 6), seed, 0.3)
    finer = Resample(
        tuple(np.multiply(factors, mask.shape).tolist()), tuple(1 / factor for factor in factors), interpolator
    )
    geometry = Geometry(_grid(mask.shape), (finer,))
    assert np.array_equal(
        geometry.apply_mask(mask), mask.repeat(factors[0], 0).repeat(factors[1], 1).repeat(factors[2], 2)
    )
    assert np.array_equal(geometry.mask_to_source(geometry.apply_mask(mask)), mask)


@quick
@given(st.tuples(*(st.integers(1, 4),) * 3), st.integers(0, 99))
def test_a_mask_on_a_grid_that_is_a_whole_number_coarser_fills_its_blocks(factors, seed):
    found = _spots((3, 4, 5), seed, 0.3)
    coarser = Resample(found.shape, tuple(map(float, factors)), "linear")
    geometry = Geometry(_grid(tuple(np.multiply(factors, found.shape).tolist())), (coarser,))
    source = geometry.mask_to_source(found)
    assert np.array_equal(source, found.repeat(factors[0], 0).repeat(factors[1], 1).repeat(factors[2], 2))
    assert np.array_equal(geometry.apply_mask(source), found)


@quick
@given(scales, st.integers(0, 999))
def test_no_component_is_lost_however_coarse_the_grid(scale, seed):
    mask = _spots((9, 10, 11), seed)
    geometry = _about(mask.shape, scale, "linear")
    found = geometry.mask_to_source(geometry.apply_mask(mask))
    components, count = ndimage.label(mask, np.ones((3, 3, 3)))
    assert all(found[components == number].any() for number in range(1, count + 1))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(geometries(), st.integers(0, 999))
def test_no_component_that_the_grid_shows_is_lost_after_any_operations(geometry, seed):
    mask = _spots(geometry.source.shape, seed, 0.1)
    shown = geometry.mask_to_source(np.ones(geometry.grid.shape, bool))
    found = geometry.mask_to_source(geometry.apply_mask(mask))
    components, _ = ndimage.label(mask, np.ones((3,) * mask.ndim))
    for number in set(components[mask & shown]):
        assert found[components == number].any()


@quick
@given(scales, st.integers(0, 99))
def test_a_voxel_that_is_covered_by_half_belongs_and_one_that_the_mask_does_not_touch_never_does(scale, seed):
    mask = _spots((9, 10, 11), seed, 0.2)
    geometry = _about(mask.shape, scale, "linear")
    grid = geometry.apply_mask(mask)
    shares = [_overlap(*sizes) for sizes in zip(grid.shape, mask.shape, geometry.operations[0].scale, strict=True)]
    share = np.einsum("ia,jb,kc,abc->ijk", *shares, mask.astype(float))
    assert grid[share >= 0.5 + 1e-4].all()
    assert not grid[share <= 1e-9].any()


def _overlap(size, length, scale):
    """The share of each voxel of a grid (what of it lies in the input) that each input voxel covers."""
    centre = (np.arange(size) - (size - 1) / 2) * scale + (length - 1) / 2
    low = np.maximum(centre[:, None] - scale / 2, np.arange(length) - 0.5)
    high = np.minimum(centre[:, None] + scale / 2, np.arange(length) + 0.5)
    shares = np.clip(high - low, 0, None)
    return shares / shares.sum(axis=1, keepdims=True)


@quick
@given(scales)
def test_a_mask_of_the_whole_volume_is_the_whole_grid(scale):
    assert _about((9, 10, 11), scale, "linear").apply_mask(np.ones((9, 10, 11), bool)).all()


def test_a_component_that_would_vanish_keeps_the_voxel_that_it_covers_best():
    mask = np.zeros((1, 1, 16), bool)
    mask[..., 5:9] = True  # 3 of 8 voxels of the first grid voxel, 1 of 8 of the second
    coarse = Geometry(plain((1, 1, 16), (1, 1, 1)).source, (Resample((1, 1, 2), (1.0, 1.0, 8.0), "linear"),))
    assert coarse.apply_mask(mask)[0, 0].tolist() == [True, False]


@quick
@given(geometries(dimensions=(3,), kinds=("orient",)), st.integers(0, 99))
def test_what_is_marked_on_a_projection_is_projected_to_itself(geometry, seed):
    marked = _spots(geometry.grid.shape, seed, 0.3)
    assert np.array_equal(geometry.apply_mask(geometry.mask_to_source(marked)), marked)


def test_a_projection_is_a_maximum_and_its_mask_goes_back_along_the_ray():
    image = _noise((2, 4, 5, 6)) - 9
    for axis in range(3):
        geometry = Geometry(_grid((4, 5, 6)), (Project(axis, (4, 5, 6)[axis]),))
        assert np.array_equal(geometry.apply(image), image.max(axis=axis + 1))
        assert geometry.grid.affine is None
        assert geometry.grid.spacing_mm == tuple(np.delete(geometry.source.spacing_mm, axis))
        marked = _spots(geometry.grid.shape, axis, 0.3)
        ray = np.broadcast_to(np.expand_dims(marked, axis), (4, 5, 6))
        assert np.array_equal(geometry.mask_to_source(marked), ray)
        assert np.array_equal(geometry.apply_mask(ray), marked)


def test_what_was_cut_away_before_a_projection_is_not_on_its_rays():
    geometry = Geometry(_grid((6, 3, 3)), (Crop((2, 0, 0), (2, 3, 3)), Project(0, 2)))
    assert np.flatnonzero(geometry.mask_to_source(np.ones((3, 3), bool)).any(axis=(1, 2))).tolist() == [2, 3]


def test_a_photograph_is_averaged_and_its_mask_kept_as_the_photographs_source_does():
    image = np.random.default_rng(0).integers(0, 256, (1, 100, 140), dtype=np.uint8)
    mask = _spots((100, 140), 3, 0.01)
    for size, box in ((32, Box(-20, 0, 140, 140)), (50, Box(0, 10, 100, 100)), (150, Box(0, 0, 100, 100))):
        shown = Crop((box.top, box.left), (box.height, box.width))
        geometry = Geometry(
            plain((100, 140), (np.nan, np.nan)).source,
            (shown, Resample((size, size), (box.height / size,) * 2, "area")),
        )
        difference = geometry.apply(image)[0].astype(int) - regrid_image(image[0], box, size)
        assert np.abs(difference).max() <= 1
        assert np.mean(geometry.apply_mask(mask) != regrid_mask(mask, box, size)) < 0.01


def test_an_array_that_is_not_on_the_grid_is_refused_by_its_shape():
    geometry = Geometry(_grid((4, 5, 6)), (Project(0, 4),))
    with pytest.raises(ValueError, match="has 4 × 5 × 5 voxels, its grid 4 × 5 × 6"):
        geometry.apply(np.zeros((1, 4, 5, 5)))
    with pytest.raises(ValueError, match="has 4 × 5 × 6 voxels, its grid 5 × 6"):
        geometry.mask_to_source(np.zeros((4, 5, 6), bool))


def test_every_one_of_48_orientations_is_undone():
    image = _noise((1, 2, 3, 4))
    for axes, flipped in product(permutations(range(3)), product((False, True), repeat=3)):
        geometry = Geometry(_grid((2, 3, 4)), (Orient(axes, flipped),))
        assert np.array_equal(geometry.map_to_source(geometry.apply(image)[0]), image[0])
