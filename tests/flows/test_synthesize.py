"""`lesionflow synthesize`, as a person types it, on a small cohort of simulated glaucoma."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.registry import build
from storage.cohort import Cohort
from tasks.model_files import describe_model, save_model
from tests.flows.conftest import Command

NETWORKS = {
    "network": {"size": 32, "generator_width": 0.05, "critic_width": 0.05, "critic_strided": 3},
    "classifier": {"network": {"width": 0.05, "stem_stride": 1}},
    "vessels": {"network": {"width": 0.05}},
    "noise": 1.0,
}


@pytest.fixture(scope="module")
def glaucoma(command: Command, tmp_path_factory) -> Path:
    cohort = tmp_path_factory.mktemp("cohorts") / "glaucoma"
    done = command("ingest", "sim:glaucoma?cases=12&size=32&seed=0", cohort, "--fractions", "0.5,0.2,0.3")
    assert done.status == 0, done.err
    return cohort


def saved(folder: Path, system: str, settings: dict) -> Path:
    torch.manual_seed(0)
    made = build(system, settings)
    save_model(folder, system, made.config.model_dump(mode="json"), made.state_dict(), target="glaucoma")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("models"), "patho-gan", NETWORKS)


@pytest.fixture(scope="module")
def synthetic(command: Command, glaucoma: Path, model: Path, tmp_path_factory) -> tuple[Cohort, dict]:
    out = tmp_path_factory.mktemp("cohorts") / "synthetic"
    answer = out.parent / "answer.json"
    done = command("synthesize", model, glaucoma, out, "--per-case", "2", "--json", answer)
    assert done.status == 0, done.err
    return Cohort.open(out), json.loads(answer.read_text())


def test_every_glaucomatous_case_is_followed_with_its_label_and_split(synthetic, glaucoma: Path):
    made, answer = synthetic
    known = Cohort.open(glaucoma).table
    wanted = known[known["glaucoma"] == 1]
    assert len(made) == answer["added"] == 2 * len(wanted)
    assert answer["left_out"] == len(known) - len(wanted)
    split_of = dict(zip("synthetic-" + wanted["patient_id"], wanted["split"], strict=True))
    assert dict(zip(made.table["patient_id"], made.table["split"], strict=True)) == split_of
    assert (made.table["glaucoma"] == 1).all()
    assert not made.table["has_masks"].any()


def test_each_image_is_as_its_reference_is_stored_and_has_noise_of_its_own(synthetic, glaucoma: Path):
    made, reference = synthetic[0], Cohort.open(glaucoma)
    assert (made.grid, made.dtype, made.channels) == (reference.grid, reference.dtype, reference.channels)
    assert not np.array_equal(made.image(0), made.image(1))


def test_it_is_written_down_what_made_each_image(synthetic, glaucoma: Path, model: Path):
    made, about = synthetic[0], describe_model(model)
    [origin] = made.origins
    assert origin["address"] == f"synthesized:patho-gan/{about['version']}"
    assert origin["options"]["snapshot"] == Cohort.open(glaucoma).snapshot
    case = json.loads(made.table["acquisition"].iloc[0])
    assert case["synthesized_by"] == f"patho-gan/{about['version']}"
    assert case["reference"] in set(Cohort.open(glaucoma).table["case_id"])


def test_again_nothing_is_made_and_another_seed_adds(
    command: Command, synthetic, glaucoma: Path, model: Path, tmp_path
):
    made, answer = synthetic[0], tmp_path / "answer.json"
    common = ["synthesize", model, glaucoma, made.path, "--json", answer]
    assert command(*common, "--per-case", "2").status == 0
    again = json.loads(answer.read_text())
    assert (again["added"], again["reused"], again["snapshot"]) == (0, True, made.snapshot)
    assert command(*common, "--seed", "1", "--splits", "train").status == 0
    assert json.loads(answer.read_text())["added"] > 0


def test_what_cannot_be_is_told_in_one_line(command: Command, glaucoma: Path, model: Path, tmp_path):
    other = saved(tmp_path / "classifier", "classifier", {"network": {"width": 0.05}})
    for arguments, reason in [
        ([model, glaucoma, glaucoma], "is the cohort of the references"),
        ([other, glaucoma, tmp_path / "out"], "classifier synthesises no images"),
        ([model, glaucoma, tmp_path / "out", "--splits", "nowhere"], "nowhere"),
        ([tmp_path / "nothing", glaucoma, tmp_path / "out"], "nothing"),
    ]:
        done = command("synthesize", *arguments)
        assert (done.status, done.err.strip().count("\n")) == (2, 0), done.err
        assert reason in done.err
    assert not (tmp_path / "out").exists()


def test_training_without_a_vessel_model_is_refused_in_one_line(command: Command, glaucoma: Path):
    done = command("train", "patho-gan", glaucoma, "--target", "glaucoma")
    assert done.status == 2
    assert "starts from a trained model of vessel-unet: give one by --init MODEL" in done.err
    assert done.err.strip().count("\n") == 0
