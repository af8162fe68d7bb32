"""Cohorts of volumes, each of its own shape or all of one."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest

from storage import Case, Cohort, CohortError
from storage.geometry import Crop, Geometry, Grid, Resample
from storage.layout import Corrections
from storage.rows import BLOCK_BYTES

AFFINE = ((-2.0, 0.0, 0.0, 5.0), (0.0, -1.5, 0.0, 6.0), (0.0, 0.0, 3.0, -7.0), (0.0, 0.0, 0.0, 1.0))


def grid_of(number: int) -> tuple[int, int, int]:
    return 3 + number % 3, 5, 4 + number % 2


def volume(number: int, grid: tuple[int, ...] | None = None, **changes: object) -> Case:
    """CT and PET of noise with a lesion in its first plane."""
    grid = grid or grid_of(number)
    lesion = np.zeros(grid, bool)
    lesion[0, 1:3] = True
    given = {
        "case_id": f"v{number}",
        "patient_id": f"patient {number}",
        "file": f"v{number}.nii",
        "sha256": f"{number:064x}",
        "image": np.random.default_rng(number).integers(-1000, 1000, (2, *grid)).astype(np.int16),
        "labels": {"stage": float(number)},
        "masks": {"tumour": lesion},
        "geometry": Geometry(
            Grid((9, 9, 9), (3.0, 1.5, 2.0), AFFINE), (Crop((1, 0, 2), (6, 5, 4)), Resample(grid, (1.0,) * 3, "linear"))
        ),
    }
    return Case(**{**given, **changes})


def created(path, grid=None) -> Cohort:
    return Cohort.create(
        path,
        grid=grid,
        dims=("z", "y", "x"),
        channels=("CT", "PET"),
        dtype="int16",
        lesions=("node", "tumour"),
        labels=("stage",),
    )


@pytest.fixture
def ragged(tmp_path) -> Cohort:
    """Six volumes of differing shapes."""
    cohort = created(tmp_path / "ragged")
    cohort.append([volume(number) for number in range(4)])
    cohort.append([volume(number) for number in range(4, 6)])
    return cohort


def of_maps(cases, seed=0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=grid_of(case)).astype(np.float32) for case in cases]


def notes(cases) -> pd.DataFrame:
    return pd.DataFrame({"score": [float(case) for case in cases]})


def test_volumes_of_differing_shapes_are_read_back(ragged):
    reopened = Cohort.open(ragged.path)
    assert (reopened.grid, reopened.dims, reopened.channels, len(reopened)) == (None, ("z", "y", "x"), ("CT", "PET"), 6)
    for number in range(6):
        assert reopened.shape(number) == grid_of(number)
        assert reopened.image(number).dtype == np.int16
        assert np.array_equal(reopened.image(number), volume(number).image)
        assert np.array_equal(reopened.masks(number), [np.zeros(grid_of(number)), volume(number).masks["tumour"]])
        assert np.array_equal(reopened.mask(number), volume(number).masks["tumour"])


def test_the_table_says_shape_spacing_and_place_of_each_volume(ragged):
    row = ragged.table.loc[5]
    assert (row.size_z, row.size_y, row.size_x) == grid_of(5)
    assert ragged.geometry(5) == volume(5).geometry
    assert ragged.spacing(5) == volume(5).geometry.grid.spacing_mm
    assert (row.spacing_z_mm, row.spacing_y_mm, row.spacing_x_mm) == ragged.spacing(5)


def test_a_patch_is_that_part_of_the_volume(ragged):
    start, shape = (1, 2, 1), (2, 3, 2)
    box = (slice(1, 3), slice(2, 5), slice(1, 3))
    assert np.array_equal(ragged.patch(2, start, shape), volume(2).image[(slice(None), *box)])
    assert np.array_equal(ragged.mask_patch(2, (0, 0, 0), (2, 3, 2)), volume(2).masks["tumour"][:2, :3, :2])
    assert not ragged.mask_patch(2, (0, 0, 0), (2, 3, 2), ["node"]).any()


def test_a_large_volume_lies_in_blocks_of_about_a_megabyte_and_its_patches_are_exact(tmp_path):
    cohort, grid = created(tmp_path / "c"), (40, 130, 150)
    cohort.append([volume(0, grid)])
    image = volume(0, grid).image
    blocks = [file.stat().st_size for file in (tmp_path / "c" / "chunks").iterdir() if file.stat().st_size > 1e5]
    assert len(blocks) >= 2 * image[0].nbytes // BLOCK_BYTES
    assert max(blocks) <= 1.01 * BLOCK_BYTES
    generator = np.random.default_rng(1)
    for _ in range(20):
        start = [int(generator.integers(0, length - 8)) for length in grid]
        box = (slice(None), *(slice(first, first + 8) for first in start))
        assert np.array_equal(cohort.patch(0, start, (8, 8, 8)), image[box])


def test_nobody_annotated_is_told_from_no_lesion_found(ragged):
    ragged.append([volume(6, masks=None), volume(7, masks={})])
    assert ragged.table["has_masks"].tolist()[-2:] == [False, True]
    assert (ragged.table["mask_digest"] == "").tolist()[-2:] == [True, False]
    for number in (6, 7):
        assert ragged.masks(number).shape == (2, *grid_of(number))
        assert not ragged.masks(number).any()
        assert not ragged.mask_patch(number, (0, 1, 1), (2, 2, 2)).any()


def test_masks_that_come_later_are_taken_in(ragged):
    ragged.append([volume(6, masks=None)])
    before = ragged.content_digest()
    ragged.record([], corrections=Corrections(masks={6: volume(6).masks}))
    reopened = Cohort.open(ragged.path)
    assert np.array_equal(reopened.mask(6), volume(6).masks["tumour"])
    assert (bool(reopened.table["has_masks"].iat[6]), reopened.content_digest() != before) == (True, True)


def test_a_volume_without_patients_coordinates_and_spacing_is_kept(ragged):
    plain = Geometry(Grid(grid_of(6), (math.nan,) * 3))
    ragged.append([volume(6, geometry=plain)])
    assert all(math.isnan(mm) for mm in ragged.spacing(6))
    assert ragged.geometry(6).to_json() == plain.to_json()


def test_pictures_of_differing_shapes_are_a_cohort_too(tmp_path):
    cohort = Cohort.create(tmp_path / "c", grid=None, dims=("y", "x"), channels=("grey",), dtype="uint8")
    images = [np.full((1, 3 + number, 5), number + 1, np.uint8) for number in range(3)]
    cohort.append(
        [
            volume(n, image=image, labels={}, masks=None, geometry=Geometry(Grid(image.shape[1:], (1.0, 1.0))))
            for n, image in enumerate(images)
        ]
    )
    assert [cohort.shape(number) for number in range(3)] == [(3, 5), (4, 5), (5, 5)]
    assert all(np.array_equal(cohort.image(number), image) for number, image in enumerate(images))


def test_volumes_of_one_shape_lie_in_one_array(tmp_path):
    grid = (4, 6, 5)
    cohort = created(tmp_path / "stacked", grid)
    cohort.append([volume(number, grid) for number in range(3)])
    cohort.append([volume(3, grid, masks=None)])
    assert cohort.images([3, 1]).shape == (2, 2, *grid)
    assert np.array_equal(cohort.images([3, 1])[1], volume(1, grid).image)
    assert np.array_equal(cohort.patch(2, (1, 2, 0), (2, 2, 5)), volume(2, grid).image[:, 1:3, 2:4])
    assert not cohort.masks(3).any()
    assert dict(cohort.to_xarray()["image"].sizes) == {"case": 4, "channel": 2, "z": 4, "y": 6, "x": 5}


def test_volumes_of_differing_shapes_are_not_stacked(ragged):
    with pytest.raises(CohortError, match="cannot be stacked"):
        ragged.images([0, 1])
    assert ragged.to_xarray()["case_id"].values.tolist() == [f"v{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("grid", "changes", "says"),
    [
        (None, {"image": np.zeros((2, 3, 4), np.int16)}, "holds int16 .2, z, y, x"),
        (None, {"image": np.zeros((1, 3, 5, 4), np.int16)}, "case 'v9' is int16 .1, 3, 5, 4"),
        (None, {"image": np.zeros((2, 3, 5, 4), np.float32)}, "case 'v9' is float32"),
        (None, {"image": np.zeros((2, 3, 5, 7), np.int16)}, "has a geometry of"),
        ((4, 6, 5), {}, "holds int16 .2, 4, 6, 5"),
    ],
)
def test_a_volume_that_does_not_fit_is_named_and_nothing_written(tmp_path, grid, changes, says):
    cohort = created(tmp_path / "c", grid)
    with pytest.raises(CohortError, match=says):
        cohort.append([volume(9, **changes)])
    assert len(Cohort.open(cohort.path)) == 0


def test_the_digest_depends_on_the_volumes_and_not_on_their_order(tmp_path, ragged):
    other = created(tmp_path / "other")
    for number in (5, 0, 3, 1, 4, 2):
        other.append([volume(number)])
    assert other.content_digest() == ragged.content_digest()
    other.record([], corrections=Corrections(images={2: volume(3).image + np.int16(1)}))
    assert other.content_digest() != ragged.content_digest()


def test_a_pickled_cohort_of_volumes_stays_at_its_snapshot(ragged):
    copy = pickle.loads(pickle.dumps(ragged))
    ragged.append([volume(6)])
    assert (len(copy), len(ragged)) == (6, 7)
    assert np.array_equal(copy.image(5), volume(5).image)


def test_an_older_snapshot_shows_the_volumes_as_they_were(ragged):
    before = ragged.snapshot
    ragged.record([volume(6)], corrections=Corrections(images={1: volume(1).image + np.int16(1)}))
    old = Cohort.open(ragged.path, before)
    assert np.array_equal(old.image(1), volume(1).image)
    assert np.array_equal(ragged.image(1), volume(1).image + 1)
    with pytest.raises(IndexError):
        old.image(6)


def test_maps_lie_on_the_grid_of_their_volume(ragged):
    cases = [4, 0, 5]
    arrays = {"trajectory": np.arange(6, dtype=np.float32).reshape(3, 2)}
    ragged.write_maps("m/v1", cases, of_maps(cases), notes(cases), arrays, {"decay": 0.3})
    maps = Cohort.open(ragged.path).maps("m/v1")
    for place, case in enumerate(cases):
        assert maps.saliency(case).dtype == np.float32
        assert np.array_equal(maps.saliency(case), of_maps(cases)[place])
        assert np.array_equal(maps.array("trajectory", case), arrays["trajectory"][place])
    assert maps.table["score"].to_dict() == {4: 4.0, 0: 0.0, 5: 5.0}
    assert ragged.map_names() == ["m/v1"]


def test_a_rewritten_map_of_a_volume_replaces_the_old_one_and_only_that(ragged):
    ragged.write_maps("m", [1, 2], of_maps([1, 2]), notes([1, 2]))
    ragged.write_maps("m", [3, 2], of_maps([3, 2], seed=9), notes([3, 2]))
    maps = ragged.maps("m")
    assert maps.indices.tolist() == [1, 2, 3]
    assert np.array_equal(maps.saliency(1), of_maps([1, 2])[0])
    assert np.array_equal(maps.saliency(2), of_maps([3, 2], seed=9)[1])
    assert np.array_equal(maps.saliency(3), of_maps([3, 2], seed=9)[0])


def test_dropped_maps_of_volumes_are_gone_and_can_be_written_anew(ragged):
    for name in ("m", "m/below"):
        ragged.write_maps(name, [1], of_maps([1]), notes([1]))
    kept = ragged.snapshot
    ragged.drop_maps("m")
    assert ragged.map_names() == ["m/below"]
    ragged.write_maps("m", [2], of_maps([2], seed=3), pd.DataFrame({"other": ["text"]}))
    assert np.array_equal(ragged.maps("m").saliency(2), of_maps([2], seed=3)[0])
    assert np.array_equal(ragged.maps("m/below").saliency(1), of_maps([1])[0])
    assert Cohort.open(ragged.path, kept).maps("m").indices.tolist() == [1]


def test_a_map_of_another_shape_than_its_volume_is_refused(ragged):
    with pytest.raises(CohortError, match="a map of shape"):
        ragged.write_maps("m", [0, 1], of_maps([0, 0]), notes([0, 1]))
    assert ragged.map_names() == []
