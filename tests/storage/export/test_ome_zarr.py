from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaozarrs
import zarr

from storage.cohort import Cohort
from storage.export import write_ome_zarr

from .conftest import content_of


def written(cohort: Cohort, case: int, tmp_path: Path) -> Path:
    (folder,) = write_ome_zarr(cohort, case, tmp_path / "case.ome.zarr", content_of(cohort))
    return folder


@pytest.mark.parametrize("name", ["photographs", "pets", "scans"])
def test_yaozarrs_finds_every_image_of_every_case_valid(name: str, request: pytest.FixtureRequest, tmp_path: Path):
    cohort: Cohort = request.getfixturevalue(name)
    for case in range(len(cohort)):
        folder = write_ome_zarr(cohort, case, tmp_path / f"{case}.ome.zarr", content_of(cohort))[0]
        images = [folder, *(file.parent for file in folder.glob("maps/*/zarr.json"))]
        for image in images:
            yaozarrs.validate_zarr_store(str(image))
            assert isinstance(yaozarrs.open_group(str(image)).ome_metadata(version="0.5"), yaozarrs.v05.Image)


def test_level_0_is_the_image_of_the_cohort(scans: Cohort, tmp_path: Path):
    group = zarr.open_group(written(scans, 1, tmp_path), mode="r")
    np.testing.assert_array_equal(group["0"][:], scans.image(1))
    assert group["0"].metadata.dimension_names == ("c", "z", "y", "x")


def test_xarray_reads_a_level_with_named_axes(scans: Cohort, tmp_path: Path):
    folder = written(scans, 0, tmp_path)
    dataset = xr.open_zarr(folder, consolidated=False, drop_variables=["1", "2"])  # levels share names, not sizes
    assert dict(dataset["0"].sizes) == {"c": 2, "z": 5, "y": 150, "x": 140}


def test_levels_are_means_of_four_in_the_plane_only(scans: Cohort, tmp_path: Path):
    group = zarr.open_group(written(scans, 0, tmp_path), mode="r")
    assert [group[str(level)].shape for level in range(3)] == [(2, 5, 150, 140), (2, 5, 75, 70), (2, 5, 38, 35)]
    assert "3" not in group
    expected = scans.image(0).astype(float).reshape(2, 5, 75, 2, 70, 2).mean(axis=(3, 5)).round()
    np.testing.assert_array_equal(group["1"][:], expected)


def test_a_marked_voxel_lies_where_the_geometry_says_at_every_level(scans: Cohort, tmp_path: Path):
    group = zarr.open_group(written(scans, 0, tmp_path), mode="r")["labels/GTV"]
    world = (np.diag([-1, -1, 1, 1]) @ scans.geometry(0).grid.affine @ [33, 41, 2, 1])[:3]
    for level, dataset in enumerate(group.attrs["ome"]["multiscales"][0]["datasets"]):
        scale, translation = (np.array(list(one.values())[1]) for one in dataset["coordinateTransformations"])
        (index,) = np.argwhere(group[str(level)][:])
        off = (scale * index + translation)[::-1] - world
        within = np.array([1.5, 1.5, 0]) * (2**level - 1) / 2  # a pixel of level n is 2ⁿ wide
        assert (np.abs(off) <= within + 1e-4).all()


def test_a_label_image_for_each_lesion_class_says_its_class_and_colour(scans: Cohort, tmp_path: Path):
    labels = zarr.open_group(written(scans, 0, tmp_path) / "labels", mode="r")
    assert labels.attrs["ome"] == {"version": "0.5", "labels": ["GTV", "node"]}
    for place, lesion in enumerate(scans.lesions):
        said = labels[lesion].attrs["ome"]["image-label"]
        assert said["properties"] == [{"label-value": 1, "class": lesion}]
        assert said["source"] == {"image": "../../"}
        np.testing.assert_array_equal(labels[lesion]["0"][:], scans.masks(0)[place])


def test_a_case_that_nobody_annotated_has_no_labels(pets: Cohort, tmp_path: Path):
    assert "labels" not in zarr.open_group(written(pets, 1, tmp_path), mode="r")


def test_maps_are_raw_images_with_a_window_shared_by_all_cases(photographs: Cohort, tmp_path: Path):
    content = content_of(photographs)
    for case in (0, 1):
        folder = write_ome_zarr(photographs, case, tmp_path / f"{case}.ome.zarr", content)[0]
        group = zarr.open_group(folder / "maps" / "S", mode="r")
        np.testing.assert_array_equal(group["0"][0], photographs.maps("loop/1/S").saliency(case))
        window = group.attrs["ome"]["omero"]["channels"][0]["window"]
        assert (window["start"], window["end"]) == (0, content.scales["loop/1/S"])


def test_units_are_said_where_the_spacing_is_known(scans: Cohort, photographs: Cohort, tmp_path: Path):
    for cohort, unit in ((scans, "millimeter"), (photographs, None)):
        folder = write_ome_zarr(cohort, 0, tmp_path / f"{unit}.ome.zarr", content_of(cohort))[0]
        axes = zarr.open_group(folder, mode="r").attrs["ome"]["multiscales"][0]["axes"]
        assert {axis.get("unit") for axis in axes[1:]} == {unit}


def test_the_affine_that_ome_zarr_cannot_say_stands_beside(pets: Cohort, tmp_path: Path):
    attrs = zarr.open_group(written(pets, 0, tmp_path), mode="r").attrs["lesionflow"]
    np.testing.assert_array_equal(attrs["affine_ras"], pets.geometry(0).grid.affine)
