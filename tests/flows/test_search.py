"""`lesionflow search` on the real engine, with a tiny network."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.flows.conftest import TINY_NETWORK, Command
from tests.flows.test_mistakes import one_line

ROOT = Path(__file__).parents[2]
TINY = [*TINY_NETWORK, "--set", "network.block5_valid=false", "--set", "trainer.max_epochs=1"]
FIXED = ["--set", "optimiser.weight_decay=0.01", "--set", "network.dropout=0.1"]
SPACE = ["--space", "optimiser.learning_rate=1e-4:1e-2:log"]


@pytest.fixture(scope="module")
def search(command: Command, fundus_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict]:
    def run(*arguments: str) -> dict[str, Any]:
        file = tmp_path_factory.mktemp("search") / "search.json"
        done = command("search", "iterative-refinement", fundus_cohort, *TINY, *FIXED, *arguments, "--json", file)
        assert done.status == 0, done.err
        return {**json.loads(file.read_text()), "err": done.err}

    return run


@pytest.fixture(scope="module")
def found(search: Callable[..., dict]) -> dict[str, Any]:
    return search("--trials", "2", *SPACE)


@pytest.fixture
def mlflow(workspace_folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{workspace_folder / 'mlflow.db'}")


@pytest.mark.slow
def test_best_trial_is_the_answer_and_the_only_one_registered(found: dict, mlflow: Any):
    experiment = mlflow.get_experiment_by_name("lesionflow").experiment_id
    nested = f"tags.mlflow.parentRunId = '{found['search_run_id']}'"
    runs = {int(run.data.tags["trial"]): run for run in mlflow.search_runs([experiment], nested)}
    assert sorted(runs) == [0, 1]
    losses = {number: run.data.metrics["best/val/loss"] for number, run in runs.items()}
    assert found["value"] == min(losses.values())
    assert found["run_id"] == runs[found["trial"]].info.run_id
    assert found["trials"] == {"complete": 2}
    versions = {version.run_id for version in mlflow.search_model_versions("name = 'iterative-refinement'")}
    assert {run.info.run_id for run in runs.values()} & versions == {found["run_id"]}
    described = json.loads(Path(found["model"], "system.json").read_text())
    assert described["config"]["optimiser"]["learning_rate"] == found["parameters"]["optimiser.learning_rate"]


@pytest.mark.slow
def test_run_of_the_search_holds_space_best_values_and_trials(found: dict, mlflow: Any, tmp_path: Path):
    run = mlflow.get_run(found["search_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["best/val/loss"] == found["value"]
    assert run.data.tags["best_run"] == found["run_id"]
    mlflow.download_artifacts(run.info.run_id, "trials.csv", tmp_path)
    mlflow.download_artifacts(run.info.run_id, "space.json", tmp_path)
    trials = pd.read_csv(tmp_path / "trials.csv")
    assert list(trials["trial"]) == [0, 1]
    assert trials["value"].min() == pytest.approx(found["value"])
    keys = set(json.loads((tmp_path / "space.json").read_text())["parameters"])
    assert keys == {"optimiser.learning_rate"}  # --set takes the others of the experiment file out
    assert Path(found["report"]).read_text().count("data:image/png;base64") == 2


@pytest.mark.slow
def test_lines_tell_of_each_trial(found: dict):
    lines = [line for line in found["err"].splitlines() if line.startswith("search: ")]
    assert [line.split(",")[0] for line in lines] == ["search: 1/2", "search: 2/2"]


@pytest.mark.slow
def test_searching_again_hands_back_the_answer_and_fewer_trials_too(search: Callable[..., dict], found: dict):
    for trials in ("2", "1"):
        again = search("--trials", trials, *SPACE)
        assert again["reused"]
        assert (again["model"], again["trial"]) == (found["model"], found["trial"])


@pytest.mark.slow
def test_trials_side_by_side_are_added_to_those_before(search: Callable[..., dict], found: dict):
    more = search("--trials", "4", "--parallel", "2", *SPACE)
    assert more["search_run_id"] == found["search_run_id"]
    assert more["trials"] == {"complete": 4}
    assert more["value"] <= found["value"]
    assert more["err"].count("search: ") == 2


@pytest.mark.slow
def test_training_that_diverges_is_a_failed_trial_with_its_reason(command: Command, fundus_cohort: Path):
    space = ["--space", "optimiser.learning_rate=1e30,1e31"]
    done = command("search", "iterative-refinement", fundus_cohort, *TINY, *FIXED, *space, "--trials", "1")
    assert done.status == 1
    one_line(done, "all 1 trials failed", "diverged", "nan")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--space", "optimiser.learning_rat=1e-4:1e-2"], ("learning_rat", "is not a setting")),
        (["--space", "trainer.batch_sise=8,16"], ("trainer.batch_sise", "is not a setting")),
        (["--space", "optimiser.learning_rate=-1:1"], ("optimiser.learning_rate=-1", "greater than 0")),
        (["--space", "optimiser.name=adamw,rmsprop"], ("optimiser.name=rmsprop", "'sgd', 'adam' or 'adamw'")),
        (["--space", "trainer.batch_size=8:16.5"], ("trainer.batch_size=16.5", "valid integer")),
        (["--space", "network.width"], ("KEY=LOW:HIGH",)),
        (["--space", "network.dropout=0:0.5", "--set", "network.dropout=0.1"], ("--set and by --space",)),
        (["--space", "trainer.batch_size=8,16", "--set", "trainer.batch_size=8"], ("--set and by --space",)),
        (["--target", "stage", *SPACE], ("no label 'stage'",)),
        (["--preset", "huge", *SPACE], ("no preset 'huge'",)),
        ([*FIXED, "--set", "optimiser.learning_rate=1", "--set", "trainer.batch_size=8"], ("nothing to search",)),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(
    command: Command, fundus_cohort: Path, workspace_folder: Path, arguments: list[str], words: tuple[str, ...]
):
    before = [*workspace_folder.glob("runs/*"), *workspace_folder.glob("search/*")]
    done = command("search", "iterative-refinement", fundus_cohort, "--trials", "2", *arguments)
    assert done.status == 2
    one_line(done, *words)
    assert [*workspace_folder.glob("runs/*"), *workspace_folder.glob("search/*")] == before


def booked(workspace: Path) -> list[tuple]:
    """Parameters, epochs, states and values of a workspace's only search."""
    [file] = workspace.glob("search/*/study.db")
    with sqlite3.connect(file) as study:
        tables = (
            "select number, param_name, param_value from trial_params natural join trials",
            "select number, step, intermediate_value from trial_intermediate_values natural join trials",
            "select number, state, value from trials natural join trial_values",
        )
        return [sorted(study.execute(table).fetchall()) for table in tables]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_search_killed_in_its_second_trial_goes_on_as_if_undisturbed(fundus_cohort: Path, tmp_path: Path):
    def start(workspace: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "flows.cli", "--workspace", str(workspace), "search", "iterative-refinement"]
        tiny = [*TINY[:-1], "trainer.max_epochs=4", *FIXED, *SPACE, "--trials", "3"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
        return subprocess.Popen([*command, str(fundus_cohort), *tiny], cwd=ROOT, env=environment)

    cut, whole = tmp_path / "cut", tmp_path / "whole"
    killed = start(cut)
    while len(list(cut.glob("runs/*/epochs.jsonl"))) < 2:
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    for workspace in (cut, whole):
        assert start(workspace).wait() == 0
    assert booked(cut) == booked(whole)
    assert len(booked(cut)[2]) == 3
