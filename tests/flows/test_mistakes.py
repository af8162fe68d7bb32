"""A mistake is one clear line on standard error and exit status 2; what is broken is set aside and the rest goes on."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.cohort import Cohort
from tests.flows.conftest import Command


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(60, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"p{index}.png")
    (tmp_path / "labels.csv").write_text("file,grade\np0.png,0\np1.png,2\np2.png,4\n")
    return folder


def one_line(done, *words: str) -> None:
    lines = [line for line in done.err.splitlines() if line.startswith("lesionflow:")]
    assert len(lines) == 1, done.err
    assert "Traceback" not in done.err
    for word in words:
        assert word in lines[0]


def test_missing_label_column_names_those_there_are(command: Command, photos: Path, tmp_path: Path):
    arguments = ["--labels", tmp_path / "labels.csv", "--label", "grade=dr_grade", "--size", "32"]
    done = command("ingest", photos, tmp_path / "c", *arguments)
    assert done.status == 2
    one_line(done, "no column 'dr_grade'", "file, grade", "--label")


def test_empty_and_missing_folders(command: Command, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        done = command("ingest", tmp_path / folder, tmp_path / "c")
        assert done.status == 2
        one_line(done, str(tmp_path / folder))
    assert not (tmp_path / "c").exists()


def test_unreadable_image_is_set_aside_and_the_rest_goes_on(command: Command, photos: Path, tmp_path: Path):
    (photos / "p1.png").write_bytes(b"\x89PNG not really")
    arguments = ["--labels", tmp_path / "labels.csv", "--label", "grade=grade", "--size", "32"]
    done = command("ingest", photos, tmp_path / "c", *arguments)
    assert done.status == 1
    one_line(done, "1 file(s) set aside", "info")
    assert len(Cohort.open(tmp_path / "c")) == 2
    assert "p1.png" in command("info", tmp_path / "c").out


def test_label_that_is_no_number_is_set_aside(command: Command, photos: Path, tmp_path: Path):
    (tmp_path / "labels.csv").write_text("file,grade\np0.png,0\np1.png,mild\np2.png,4\n")
    arguments = ["--labels", tmp_path / "labels.csv", "--label", "grade=grade", "--size", "32"]
    assert command("ingest", photos, tmp_path / "c", *arguments).status == 1
    [reason] = Cohort.open(tmp_path / "c").quarantine["reason"]
    assert "mild" in reason
    assert "grade" in reason


def test_mask_of_another_size_is_set_aside(command: Command, photos: Path, tmp_path: Path):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("1", (39, 40), 1).save(masks / "p0_EX.png")
    done = command("ingest", photos, tmp_path / "c", "--masks", masks, "--size", "32")
    assert done.status == 1
    [reason] = Cohort.open(tmp_path / "c").quarantine["reason"]
    assert "p0_EX.png" in reason
    assert "39" in reason


def test_unknown_system_model_label_map_and_method(command: Command, fundus_cohort: Path, trained_model: Path):
    mistakes = {
        ("train", "gcd", fundus_cohort): "gcd",
        ("train", "iterative-refinement", fundus_cohort, "--target", "age"): "grade",
        ("train", "iterative-refinement", fundus_cohort, "--set", "network.depth=3"): "network.depth",
        ("train", "iterative-refinement", fundus_cohort, "--set", "trainer.epochs=3"): "epochs",
        ("train", "iterative-refinement", fundus_cohort, "--preset", "huge"): "small",
        ("localize", fundus_cohort, "--model", "nothing"): "nothing",
        ("localize", fundus_cohort, "--model", trained_model, "--inpainter", "paint"): "navier_stokes",
        ("localize", fundus_cohort, "--model", trained_model, "--method", "saliency", "--saliency", "lime"): "grad_cam",
        ("localize", fundus_cohort, "--model", trained_model, "--split", "holdout"): "test",
        ("evaluate", fundus_cohort, "--maps", "nothing"): "nothing",
        ("radiomics", fundus_cohort, "-o", "x.parquet"): "--masks",
        ("info", "nowhere"): "lesionflow ingest",
        ("ingest", "sim:fundus?case=4", "nowhere"): "cases",
        ("ingest", "sim:fundus?cases=4", "nowhere", "--fractions", "1,2"): "--fractions",
    }
    for arguments, word in mistakes.items():
        done = command(*arguments)
        assert done.status == 2, (arguments, done)
        one_line(done, word)


def test_help_shows_an_example_for_every_verb(command: Command):
    for verb in ("demo", "ingest", "info", "train", "localize", "evaluate", "radiomics", "study", "systems"):
        assert "Example" in command(verb, "--help").out
