"""The verbs that fill, show, check and hand out a cohort, as a person types them."""

import json

import nibabel
import numpy as np
import pytest
from PIL import Image

from storage import Cohort


@pytest.fixture
def volumes(tmp_path):
    """Three cases of NIfTI volumes of differing shapes, each in a folder of its own, with a mask."""
    folder = tmp_path / "volumes"
    for number in range(3):
        case = folder / f"P{number}"
        case.mkdir(parents=True)
        shape = (6 + number, 7, 5)
        affine = np.diag([-2.0, -2.0, 3.0, 1.0])
        image = np.random.default_rng(number).normal(2, 1, shape).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image, affine), case / "PET.nii.gz")
        nibabel.save(nibabel.Nifti1Image((image > 3).astype(np.uint8), affine), case / "GTV.nii.gz")
    return folder


def ingested(command, volumes, cohort):
    patterns = ("--image-pattern", "{case}/PET.nii.gz", "--mask-pattern", "{case}/{lesion}.nii.gz")
    return command("ingest", volumes, cohort, *patterns, "--lesions", "GTV")


def test_volumes_of_differing_shapes_are_ingested_checked_and_exported(command, volumes, tmp_path):
    cohort = tmp_path / "cohort"
    done = ingested(command, volumes, cohort)
    assert (done.status, done.err) == (0, done.err)
    opened = Cohort.open(cohort)
    assert [opened.shape(case) for case in range(3)] == [(5, 7, 6), (5, 7, 7), (5, 7, 8)]
    assert opened.table["has_masks"].all()
    checked = command("check", cohort, "--json", tmp_path / "check.json")
    assert checked.status == 0
    assert json.loads((tmp_path / "check.json").read_text())["damaged"] == []
    exported = command("export", cohort, tmp_path / "out", "--format", "nifti", "--grid", "source")
    assert exported.status == 0, exported.err
    masks = sorted((tmp_path / "out").rglob("*GTV*.nii.gz"))
    truth = sorted(volumes.rglob("GTV.nii.gz"))
    assert all(
        np.array_equal(nibabel.load(a).dataobj, nibabel.load(b).dataobj) for a, b in zip(masks, truth, strict=True)
    )


def test_a_resampled_projection_is_a_cohort_of_pictures(command, volumes, tmp_path):
    grid = ("--spacing", "3,4,4", "--shape", "5,8,8", "--project", "coronal")
    done = command("ingest", volumes, tmp_path / "cohort", "--image-pattern", "{case}/PET.nii.gz", *grid)
    assert done.status == 0, done.err
    cohort = Cohort.open(tmp_path / "cohort")
    assert (cohort.grid, cohort.dims) == ((5, 8), ("y", "x"))
    back = cohort.geometry(0).mask_to_source(np.ones((5, 8), bool))
    assert back.shape == (5, 7, 6)


def test_a_flipped_bit_is_named_and_repaired(command, tmp_path):
    photographs, cohort = tmp_path / "photographs", tmp_path / "cohort"
    photographs.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(photographs / f"p{number}.png")
    assert command("ingest", photographs, cohort, "--size", "32", "--no-crop").status == 0
    chunk = max((cohort / "chunks").iterdir(), key=lambda file: file.stat().st_size)
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    chunk.write_bytes(damaged)
    found = command("check", cohort)
    assert found.status == 1
    assert "image of p" in found.out
    assert command("check", cohort, "--repair").status == 0
    assert command("check", cohort).status == 0
    opened = Cohort.open(cohort)
    assert all(np.array_equal(opened.image(case), pixels[case].transpose(2, 0, 1)) for case in range(4))


def test_info_tells_what_changed_between_two_snapshots(command, volumes, tmp_path):
    cohort = tmp_path / "cohort"
    ingested(command, volumes, cohort)
    before = Cohort.open(cohort).snapshot
    (volumes / "P9").mkdir()
    for name in ("PET", "GTV"):
        volume = nibabel.load(volumes / "P0" / f"{name}.nii.gz")
        turned = np.asarray(volume.dataobj)[::-1]
        nibabel.save(nibabel.Nifti1Image(turned, volume.affine), volumes / "P9" / f"{name}.nii.gz")
    ingested(command, volumes, cohort)
    told = command("info", cohort, "--diff", before, Cohort.open(cohort).snapshot, "--json", tmp_path / "diff.json")
    assert told.status == 0
    answer = json.loads((tmp_path / "diff.json").read_text())
    assert (answer["added"], answer["gone"], answer["pixels"]) == (["P9"], [], [])


def test_old_snapshots_are_forgotten_on_request_only(command, volumes, tmp_path):
    cohort = tmp_path / "cohort"
    ingested(command, volumes, cohort)
    Cohort.open(cohort).write_maps(
        "m", [0], [np.zeros((5, 7, 6), np.float32)], Cohort.open(cohort).table.iloc[:1][["file"]]
    )
    assert len(Cohort.open(cohort).history()) == 3
    assert command("check", cohort).status == 0
    assert len(Cohort.open(cohort).history()) == 3
    assert command("check", cohort, "--expire", "0").status == 0
    assert len(Cohort.open(cohort).history()) == 1
    assert np.isfinite(Cohort.open(cohort).image(2)).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ingest", "{volumes}", "c", "--size", "64"], "takes no 'size'"),
        (["ingest", "{volumes}", "c", "--source", "cloud"], "there is no source 'cloud'"),
        (["ingest", "{volumes}", "c", "--spacing", "4,4"], "is not three numbers"),
        (["ingest", "nowhere", "c"], "there is nothing at nowhere"),
        (["check", "nowhere"], "there is no cohort at nowhere"),
        (["export", "nowhere", "out", "--format", "nifti"], "there is no cohort at nowhere"),
    ],
)
def test_a_mistake_is_one_line(command, volumes, arguments, said):
    done = command(*(part.format(volumes=volumes) for part in arguments))
    assert done.status == 2
    assert said in done.err.strip().splitlines()[-1]
