from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from storage.cohort import Cohort
from storage.errors import CohortError
from storage.export import export_zarr, plain_zarr

from .conftest import content_of


def test_xarray_reads_a_stacked_cohort_without_lesionflow(photographs: Cohort, tmp_path: Path):
    export_zarr(photographs, tmp_path / "out")
    dataset = xr.open_zarr(tmp_path / "out")
    assert dataset["image"].dims == ("case", "channel", "y", "x")
    assert dataset["mask"].dims == ("case", "lesion", "y", "x")
    assert dataset["channel"].values.tolist() == ["red", "green", "blue"]
    assert dataset["case_id"].values.tolist() == ["c0", "c1", "c2"]
    assert "case_id" in dataset.coords
    assert dataset["grade"].values.tolist() == [0.0, 1.0, 2.0]
    assert "grade" in dataset.data_vars
    for case in range(3):
        np.testing.assert_array_equal(dataset["image"][case], photographs.image(case))
        np.testing.assert_array_equal(dataset["mask"][case], photographs.masks(case))


def test_metadata_is_consolidated(photographs: Cohort, tmp_path: Path):
    export_zarr(photographs, tmp_path / "out")
    assert xr.open_zarr(tmp_path / "out", consolidated=True)["image"].shape == (3, 3, 24, 20)


def test_a_datatree_has_the_maps_of_a_stacked_cohort_with_nan_where_there_is_none(photographs: Cohort, tmp_path: Path):
    export_zarr(photographs, tmp_path / "out")
    tree = xr.open_datatree(tmp_path / "out", engine="zarr")
    saliency = tree["maps/loop/1/S/saliency"]
    assert saliency.dims == ("case", "y", "x")
    np.testing.assert_array_equal(saliency[1], photographs.maps("loop/1/S").saliency(1))
    assert np.isnan(saliency[2]).all()


def test_a_datatree_has_a_group_for_each_ragged_case(pets: Cohort, tmp_path: Path):
    export_zarr(pets, tmp_path / "out")
    tree = xr.open_datatree(tmp_path / "out", engine="zarr")
    assert tree["zarr_group"].values.tolist() == ["cases/c0", "cases/c1"]
    for case in range(2):
        dataset = tree[f"cases/c{case}"]
        assert dataset["image"].dims == ("channel", "z", "y", "x")
        np.testing.assert_array_equal(dataset["image"], pets.image(case))
        assert dataset.attrs["case_id"] == f"c{case}"
        np.testing.assert_array_equal(dataset.attrs["affine_ras"], pets.geometry(case).grid.affine)
    np.testing.assert_array_equal(tree["cases/c0/mask"], pets.masks(0))
    assert "mask" not in tree["cases/c1"]
    np.testing.assert_array_equal(tree["cases/c0/maps/cam/1/saliency"], pets.maps("cam/1").saliency(0))


def test_one_ragged_case_opens_alone(pets: Cohort, tmp_path: Path):
    export_zarr(pets, tmp_path / "out")
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "out", group="cases/c1")["image"], pets.image(1))


def test_chosen_cases_and_lesions_are_all_that_is_written(scans: Cohort, tmp_path: Path):
    export_zarr(scans, tmp_path / "out", [1], content_of(scans, lesions={"node": "node"}, maps={}))
    dataset = xr.open_zarr(tmp_path / "out")
    assert dataset["case_id"].values.tolist() == ["c1"]
    assert dataset["lesion"].values.tolist() == ["node"]
    np.testing.assert_array_equal(dataset["mask"][0, 0], scans.masks(1)[1])


def test_the_same_export_again_writes_nothing_and_another_replaces_it(scans: Cohort, tmp_path: Path):
    assert export_zarr(scans, tmp_path / "out", key="one")
    assert not export_zarr(scans, tmp_path / "out", key="one")
    assert export_zarr(scans, tmp_path / "out", [0], key="two")
    assert xr.open_zarr(tmp_path / "out").sizes["case"] == 1
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]


def test_a_copy_cut_short_leaves_the_store_that_was_there(
    scans: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    export_zarr(scans, tmp_path / "out", key="one")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plain_zarr, "_write_stacked", full)
    with pytest.raises(CohortError, match="No space left"):
        export_zarr(scans, tmp_path / "out", key="two")
    assert xr.open_zarr(tmp_path / "out").sizes["case"] == 2
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]


def test_a_folder_that_is_no_export_is_left_alone(scans: Cohort, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").write_text("years of work")
    with pytest.raises(CohortError, match="no export"):
        export_zarr(scans, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.docx").read_text() == "years of work"
