"""The whole export of a cohort, as the command runs it; without Prefect's server."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from storage.cohort import Cohort
from storage.errors import CohortError
from tasks import export as tasks_export
from tasks.export import export_cohort
from tasks.workspace import Workspace

from .conftest import case_of

PROJECT = Path(__file__).parents[3]
Export = Callable[..., dict[str, Any]]


@pytest.fixture
def export(workspace: Workspace) -> Export:
    def run(cohort: str, out: Path, format: str, **more: Any) -> dict[str, Any]:
        given = {"maps": [], "lesions": [], "splits": [], "grid": "cohort", "dicom": None, **more}
        return export_cohort.fn(cohort, str(out), format, **given)

    return run


def left_over(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def test_each_format_has_what_the_manifest_says(photographs: Cohort, tmp_path: Path, export: Export):
    for format, end in (("nifti", ""), ("ome-zarr", ".ome.zarr"), ("png", ".png")):
        out = tmp_path / format
        answer = export(photographs.path, out, format, maps=["S"])
        assert (answer["written"], answer["skipped"], answer["failed"]) == (3, 0, [])
        manifest = pd.read_csv(out / "manifest.csv")
        assert manifest["case_id"].tolist() == ["c0", "c1", "c2"]
        files = [file for row in manifest["files"] for file in row.split(";")]
        assert len(files) == answer["files"]
        assert all((out / file).exists() for file in files)
        assert left_over(out) == [".export.jsonl", ".export.lock", *(f"c{i}{end}" for i in range(3)), "manifest.csv"]


def test_the_same_export_again_writes_nothing(photographs: Cohort, tmp_path: Path, export: Export):
    first = export(photographs.path, tmp_path / "out", "nifti")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.nii.gz")}
    again = export(photographs.path, tmp_path / "out", "nifti")
    assert (again["written"], again["unchanged"], again["files"]) == (0, 3, first["files"])
    assert {file: file.stat().st_mtime_ns for file in times} == times


def test_a_changed_cohort_or_request_is_written_anew(photographs: Cohort, tmp_path: Path, export: Export):
    export(photographs.path, tmp_path / "out", "nifti")
    assert export(photographs.path, tmp_path / "out", "nifti", lesions=["MA"])["written"] == 3
    assert not list((tmp_path / "out").rglob("mask_HE.nii.gz"))
    photographs.write_maps("new", [0], [np.zeros((24, 20), np.float32)], pd.DataFrame({"score": [0.0]}))
    assert export(photographs.path, tmp_path / "out", "nifti", lesions=["MA"])["written"] == 3


def test_splits_one_after_the_other_share_a_manifest(photographs: Cohort, tmp_path: Path, export: Export):
    assert export(photographs.path, tmp_path / "out", "png", splits=["test"])["written"] == 1
    assert export(photographs.path, tmp_path / "out", "png", splits=["train"])["written"] == 2
    assert pd.read_csv(tmp_path / "out" / "manifest.csv")["case_id"].tolist() == ["c0", "c1", "c2"]


def test_case_ids_that_climb_out_of_the_folder_do_not(photographs: Cohort, tmp_path: Path, export: Export):
    geometry = photographs.geometry(0)
    evil = [f"../../{tmp_path.name}-x", "/tmp/x", "..", "a/../../b"]
    cases = [
        case_of(9 + n, np.full((3, 24, 20), n, np.uint8), None, geometry, case_id=name) for n, name in enumerate(evil)
    ]
    photographs.append(cases)
    before = {path for path in tmp_path.parent.rglob("*") if not path.is_relative_to(tmp_path)}
    for format in ("nifti", "ome-zarr", "png"):
        export(photographs.path, tmp_path / "out" / format, format)
        assert len(pd.read_csv(tmp_path / "out" / format / "manifest.csv")) == 7
    export(photographs.path, tmp_path / "out" / "zarr", "zarr")
    assert {path for path in tmp_path.parent.rglob("*") if not path.is_relative_to(tmp_path)} == before
    assert {path.name for path in tmp_path.iterdir()} == {"photographs", "out", "workspace"}


def test_a_case_that_cannot_be_exported_is_told_of_and_the_others_go_on(
    photographs: Cohort, tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch
):
    def write(cohort: Cohort, case: int, target: Path, content: object) -> list[Path]:
        target.write_text("half")
        if case == 1:
            raise CohortError("case 'c1' is damaged")
        return [target]

    monkeypatch.setitem(tasks_export.WRITERS, "png", (write, ".png"))
    answer = export(photographs.path, tmp_path / "out", "png")
    assert (answer["written"], answer["failed"]) == (2, ["case 'c1' is damaged"])
    assert not (tmp_path / "out" / "c1.png").exists()
    assert export(photographs.path, tmp_path / "out", "png")["unchanged"] == 2


def test_a_full_disk_is_one_line_and_leaves_whole_files(
    photographs: Cohort, tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch
):
    def write(cohort: Cohort, case: int, target: Path, content: object) -> list[Path]:
        target.write_text("half")
        if case == 1:
            raise OSError(28, "No space left on device")
        return [target]

    monkeypatch.setitem(tasks_export.WRITERS, "png", (write, ".png"))
    with pytest.raises(CohortError, match="No space left on device"):
        export(photographs.path, tmp_path / "out", "png")
    assert left_over(tmp_path / "out") == [".export.jsonl", ".export.lock", "c0.png"]


@pytest.mark.parametrize(
    ("format", "more", "said"),
    [
        ("jpeg", {}, "there is no format 'jpeg'"),
        ("png", {"grid": "source"}, "--grid source is for nifti"),
        ("dicom-seg", {}, "needs --dicom"),
        ("nifti", {"dicom": "x"}, "needs --dicom"),
        ("dicom-seg", {"dicom": "x", "maps": ["S"]}, "no probabilities"),
        ("nifti", {"lesions": ["XX"]}, "no lesion class 'XX'"),
        ("nifti", {"maps": ["XX"]}, "no maps named 'XX'"),
        ("nifti", {"splits": ["validation"]}, "no case in split validation"),
    ],
)
def test_what_cannot_be_met_is_said_in_one_line(
    format: str, more: dict[str, Any], said: str, photographs: Cohort, tmp_path: Path, export: Export
):
    with pytest.raises(CohortError, match=said):
        export(photographs.path, tmp_path / "out", format, **more)
    assert not (tmp_path / "out").exists()


def test_plain_zarr_takes_the_named_split_and_maps(photographs: Cohort, tmp_path: Path, export: Export):
    answer = export(photographs.path, tmp_path / "out", "zarr", splits=["train"], maps=["S"])
    assert answer["written"] == 2
    tree = xr.open_datatree(tmp_path / "out", engine="zarr")
    assert tree["case_id"].values.tolist() == ["c1", "c2"]
    assert tree["maps/loop/1/S/saliency"].sizes["case"] == 2
    assert export(photographs.path, tmp_path / "out", "zarr", splits=["train"], maps=["S"])["unchanged"] == 2


@pytest.mark.slow
def test_many_cases_are_exported_by_several_processes_and_all_are_there(
    photographs: Cohort, tmp_path: Path, export: Export
):
    rng, geometry = np.random.default_rng(3), photographs.geometry(0)
    more = [case_of(n, rng.integers(0, 256, (3, 24, 20), np.uint8), None, geometry) for n in range(3, 20)]
    photographs.append(more)
    assert export(photographs.path, tmp_path / "out", "png")["written"] == 20
    assert len(list((tmp_path / "out").glob("*.png"))) == 20
    assert export(photographs.path, tmp_path / "out", "png")["unchanged"] == 20


SLOWLY = """
import sys, time
from tasks import export
from pathlib import Path
real = export.WRITERS["nifti"][0]
def slow(cohort, case, target, content):
    paths = real(cohort, case, target, content)
    print("half", flush=True)
    time.sleep(60 if case else 0)
    return paths
export.WRITERS["nifti"] = (slow, "")
export.export_cohort.fn(sys.argv[1], sys.argv[2], "nifti", [], [], [], "cohort", None)
"""


def test_a_killed_export_leaves_no_half_case_and_goes_on(photographs: Cohort, tmp_path: Path, export: Export):
    out = tmp_path / "out"
    command = [sys.executable, "-c", SLOWLY, photographs.path, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT) as running:
        for _ in range(2):
            assert running.stdout is not None
            running.stdout.readline()
        time.sleep(0.1)
        os.kill(running.pid, signal.SIGKILL)
    assert left_over(out) == [".export.jsonl", ".export.lock", ".partial", "c0"]
    assert len(list((out / "c0").iterdir())) == 5
    answer = export(photographs.path, out, "nifti")
    assert answer["written"] + answer["unchanged"] == 3
    assert left_over(out) == [".export.jsonl", ".export.lock", "c0", "c1", "c2", "manifest.csv"]


EXPORT = """
import sys
from tasks.export import export_cohort
export_cohort.fn(sys.argv[1], sys.argv[2], "nifti", ["S"], [], [], "cohort", None)
"""


@pytest.mark.slow
def test_kills_at_random_moments_leave_whole_cases_only(photographs: Cohort, tmp_path: Path, export: Export):
    rng, geometry, out = np.random.default_rng(3), photographs.geometry(0), tmp_path / "out"
    photographs.append([case_of(n, rng.integers(0, 256, (3, 24, 20), np.uint8), None, geometry) for n in range(3, 8)])
    for _ in range(20):
        with subprocess.Popen([sys.executable, "-c", EXPORT, photographs.path, str(out)], cwd=PROJECT) as running:
            while not (out / ".partial").exists() and running.poll() is None:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.15))
            os.kill(running.pid, signal.SIGKILL)
        for folder in out.glob("c*"):
            files = sorted(folder.iterdir())
            assert len(files) == (6 if folder.name in ("c0", "c1") else 3)
            assert all(nibabel.load(file).get_fdata().shape == (20, 24, 1) for file in files)
        if rng.random() < 0.5:
            shutil.rmtree(out, ignore_errors=True)
    answer = export(photographs.path, out, "nifti", maps=["S"])
    assert answer["written"] + answer["unchanged"] == 8
