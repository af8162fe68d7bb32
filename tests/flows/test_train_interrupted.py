"""`lesionflow train` stopped or killed, and given again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.workspace import VARIABLE, Workspace
from tests.flows.conftest import TINY_NETWORK

EPOCHS = 12


def start(workspace: Workspace, cohort: Path, *more: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.cli", "train", "iterative-refinement", str(cohort), *TINY_NETWORK]
    command += ["--set", "network.block5_valid=false", "--epochs", str(EPOCHS), *map(str, more)]
    environment = {**os.environ, VARIABLE: str(workspace.root)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_for_epochs(workspace: Workspace, process: subprocess.Popen[str], count: int) -> Path:
    """The run's folder, once so many epochs are behind it."""
    while process.poll() is None:
        for file in workspace.runs.glob("*/epochs.jsonl"):
            if len(file.read_text().splitlines()) >= count:
                return file.parent
        time.sleep(0.05)
    pytest.fail(f"the command ended by itself: {process.communicate()[1]}")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_the_same_command_goes_on_in_the_same_run(workspace, fundus_cohort, tmp_path, how):
    first = start(workspace, fundus_cohort)
    folder = wait_for_epochs(workspace, first, 2)
    first.send_signal(how)
    told = first.communicate(timeout=120)[1]
    client, run_id = MlflowClient(workspace.tracking_uri), (folder / "mlflow_run").read_text()
    if how == signal.SIGTERM:
        assert first.returncode == 1
        assert told.strip().splitlines()[-1] == "lesionflow: stopped; the same command goes on from here"
    deadline = time.monotonic() + 60
    while client.get_run(run_id).info.status != "KILLED":
        assert time.monotonic() < deadline, client.get_run(run_id).info.status
        time.sleep(0.2)

    answer = tmp_path / "train.json"
    second = start(workspace, fundus_cohort, "--json", answer)
    assert second.wait(280) == 0, second.communicate()[1]
    assert json.loads(answer.read_text())["run_id"] == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    steps = [metric.step for metric in client.get_metric_history(run_id, "train/loss")]
    assert sorted(steps) == list(range(EPOCHS))
