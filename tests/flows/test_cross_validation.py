"""`train --folds` as a user types it: killed during the second fold, given again, and what it leaves."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from models.metrics import grading_metrics
from storage.cohort import Cohort
from tasks.model_files import describe_model
from tasks.workspace import VARIABLE
from tests.flows.conftest import TINY_NETWORK, Command, Outcome

pytestmark = pytest.mark.timeout(900)  # nine trainings and commands on a busy machine
ROOT = Path(__file__).parents[2]
SMALL = ["--epochs", "3", *TINY_NETWORK, "--set", "network.block5_valid=false", "--set", "trainer.sample_epochs=0"]


@pytest.fixture(scope="module")
def arguments(fundus_cohort: Path) -> list[str | Path]:
    return ["train", "iterative-refinement", fundus_cohort, "--folds", "3", *SMALL]


@pytest.fixture(scope="module")
def finished_before_the_kill(arguments: list[str | Path], workspace_folder: Path, command: Command) -> dict[str, bytes]:
    """The files of the first fold's run, as they were when the command was killed in its second fold."""
    before = set(workspace_folder.glob("runs/*"))
    environment = {**os.environ, VARIABLE: str(workspace_folder)}
    whole = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(whole, cwd=ROOT, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)
    deadline = time.monotonic() + 600
    try:
        while len(epoch_files(workspace_folder, before)) < 2:
            assert process.poll() is None, "the command ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    first = min(epoch_files(workspace_folder, before), key=lambda file: file.stat().st_mtime).parent
    return {str(file): file.read_bytes() for file in first.rglob("*") if file.is_file()}


def epoch_files(workspace: Path, but: set[Path]) -> list[Path]:
    """Where trainings have ended an epoch."""
    return [file for file in workspace.glob("runs/*/epochs.jsonl") if file.parent not in but]


@pytest.fixture(scope="module")
def gone_on(finished_before_the_kill: dict[str, bytes], arguments: list[str | Path], command: Command) -> Outcome:
    done = command(*arguments, "--json", Path(str(arguments[2])).parent / "folds.json")
    assert done.status == 0, done.err
    return done


@pytest.fixture(scope="module")
def answer(gone_on: Outcome, fundus_cohort: Path) -> dict:
    return json.loads((fundus_cohort.parent / "folds.json").read_text())


def jobs_of(answer: dict, workspace: Path) -> dict[int, dict]:
    """The jobs of the folds, as the training processes read them."""
    versions = {row["model"]: row["fold"] for row in answer["by_fold"]}
    folders = [file.parent for file in workspace.glob("runs/*/job.json") if (file.parent / "model").exists()]
    found = {describe_model(folder / "model")["version"]: folder for folder in folders}
    return {fold: json.loads((found[version] / "job.json").read_text()) for version, fold in versions.items()}


@pytest.mark.slow
def test_command_killed_in_the_second_fold_goes_on_without_training_the_first_again(
    finished_before_the_kill: dict[str, bytes], gone_on: Outcome
):
    assert any(name.endswith("model.safetensors") for name in finished_before_the_kill)
    assert {name: Path(name).read_bytes() for name in finished_before_the_kill} == finished_before_the_kill
    lines = [line for line in gone_on.err.splitlines() if line.startswith("fold ")]
    assert [line.split(":")[0] for line in lines] == ["fold 1", "fold 2", "fold 3"]
    assert ["trained before" in line for line in lines] == [True, False, False]


@pytest.mark.slow
def test_no_training_process_was_told_of_a_held_out_patient(answer: dict, fundus_cohort: Path, workspace_folder: Path):
    scores, table = pd.read_parquet(answer["scores"]), Cohort.open(fundus_cohort).table
    jobs = jobs_of(answer, workspace_folder)
    assert sorted(jobs) == [1, 2, 3]
    for fold, job in jobs.items():
        seen = set(table.loc[job["cases"]["train"] + job["cases"]["validation"], "patient_id"])
        held_out = set(scores[scores["fold"] == fold]["patient_id"])
        assert held_out
        assert not seen & held_out


@pytest.mark.slow
def test_every_case_of_train_and_validation_has_one_map_and_score_by_its_fold(answer: dict, fundus_cohort: Path):
    cohort, scores = Cohort.open(fundus_cohort), pd.read_parquet(answer["scores"])
    [name] = answer["maps"]
    assert name.startswith("iterative-refinement/cv-")
    maps = cohort.maps(name)
    expected = cohort.table[cohort.table["split"] != "test"]
    assert sorted(maps.indices) == expected.index.tolist()
    assert sorted(scores["case_id"]) == sorted(expected["case_id"])
    versions = {row["fold"]: row["model"] for row in answer["by_fold"]}
    assert maps.table["model"].tolist() == [versions[fold] for fold in maps.table["fold"]]
    assert maps.attrs["snapshot"] in {state.id for state in cohort.history()}
    assert maps.saliency(int(maps.indices[0])).max() > 0


@pytest.mark.slow
def test_pooled_metrics_are_those_of_the_table(answer: dict):
    scores = pd.read_parquet(answer["scores"])
    expected = grading_metrics(scores["label"], scores["score"], scores["patient_id"].tolist())
    assert answer["held_out"]["mse"] == pytest.approx(expected["mse"])
    assert answer["held_out"]["mse_interval"] == pytest.approx(expected["mse_interval"])
    errors = (scores["label"] - scores["score"]) ** 2
    assert [row["mse"] for row in answer["by_fold"]] == pytest.approx(errors.groupby(scores["fold"]).mean().tolist())


@pytest.mark.slow
def test_fold_runs_lie_below_one_run_that_holds_scores_report_and_ensemble(answer: dict, workspace_folder: Path):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace_folder / 'mlflow.db'}")
    parent = client.get_run(answer["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["held_out/mse"] == pytest.approx(answer["held_out"]["mse"])
    nested = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{answer['run_id']}'")
    assert sorted(run.data.tags["fold"] for run in nested) == ["1", "2", "3"]
    assert {entry.path for entry in client.list_artifacts(answer["run_id"])} >= {"model", "report", "scores.parquet"}
    page = Path(answer["report"]).read_text()
    assert page.count("data:image/png;base64") == 2
    assert "never saw the patient" in page


@pytest.mark.slow
def test_ensemble_of_the_folds_is_registered_and_localizes(
    answer: dict, command: Command, fundus_cohort: Path, tmp_path: Path
):
    about = describe_model(Path(answer["model"]))
    assert about["members"] == 3
    assert about["member_versions"] == [row["model"] for row in answer["by_fold"]]
    name, _, number = answer["registered"].partition(" version ")
    file = tmp_path / "localize.json"
    loop = ["--split", "test", "--set", "max_iterations=1", "--set", "stop_score=-10", "--json", file]
    done = command("localize", fundus_cohort, "--model", f"{name}/{number}", *loop)
    assert done.status == 0, done.err
    assert json.loads(file.read_text())["maps"][0] == f"iterative-refinement/{answer['model_version']}/S"


@pytest.mark.slow
def test_same_command_again_hands_back_the_answer_and_makes_only_lost_maps_again(
    answer: dict, command: Command, arguments: list[str | Path], fundus_cohort: Path, tmp_path: Path
):
    file = tmp_path / "again.json"
    assert command(*arguments, "--json", file).status == 0
    assert json.loads(file.read_text()) == {**answer, "reused": True}
    [name] = answer["maps"]
    before = Cohort.open(fundus_cohort).maps(name).table["score"]
    Cohort.open(fundus_cohort).drop_maps(name)
    assert command(*arguments, "--json", file).status == 0
    again = Cohort.open(fundus_cohort).maps(name).table["score"]
    assert np.allclose(again.loc[before.index], before, atol=1e-5)


def test_mistakes_are_one_clear_line(command: Command, fundus_cohort: Path):
    train = ["train", "iterative-refinement", fundus_cohort]
    mistakes = {
        ("--folds", "1"): "2 or more",
        ("--folds", "99"): "every fold needs a patient",
        ("--folds", "five"): "loo",
        ("--folds", "3", "--target", "age"): "grade",
        ("--folds", "3", "--split", "holdout"): "train",
        ("--folds", "3", "--nodes", "2"): "--nodes",
        ("--repeats", "2"): "--folds",
    }
    for options, word in mistakes.items():
        done = command(*train, *options)
        assert done.status == 2, (options, done)
        [line] = done.err.splitlines()
        assert line.startswith("lesionflow: ")
        assert word in line
