"""prefect.yaml against a real Prefect server, worker and all, on loopback."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from storage.cohort import Cohort
from tasks.workspace import VARIABLE

ROOT = Path(__file__).parents[1]
PREFECT = str(Path(sys.executable).with_name("prefect"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a client of a server that runs on loopback until the tests end."""
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW", "LESIONFLOW"))}
    settings = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "LESIONFLOW_ROOT": str(ROOT),
        VARIABLE: str(home / "workspace"),
    }
    environment = {**kept, **settings}
    command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}/api/health", server)
            run(environment, "work-pool", "create", "cpu", "--type", "process")
            run(environment, "--no-prompt", "deploy", "--all")
            yield environment
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)
            shutil.rmtree(home, ignore_errors=True)


def wait_until_healthy(url: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.3)
    raise AssertionError("the server did not come up in two minutes")


def run(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run([PREFECT, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_flow_has_one_deployment_that_the_server_knows(environment: dict[str, str]):
    of_the_command = {"__init__", "cli", "cohort_verbs", "console", "show", "training_verbs"}
    flows = {file.stem for file in (ROOT / "flows").glob("*.py")} - of_the_command
    flows = {name.replace("_", "-") for name in flows}
    declared = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert {deployment["name"] for deployment in declared} == flows
    listed = json.loads(run(environment, "deployment", "ls", "-o", "json"))
    assert {entry["name"] for entry in listed} >= flows


def test_worker_runs_a_deployment_to_its_end(environment: dict[str, str], tmp_path: Path):
    worker = subprocess.Popen(
        [PREFECT, "worker", "start", "--pool", "cpu"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        parameters = ["-p", "source=sim:fundus?cases=4&size=64", "-p", f"cohort={tmp_path / 'cohort'}"]
        run(environment, "deployment", "run", "ingest/ingest", *parameters, "--watch", "--watch-timeout", "200")
    finally:
        os.killpg(worker.pid, signal.SIGTERM)  # before the server: a worker without one waits for it
        worker.wait(60)
    assert len(Cohort.open(tmp_path / "cohort")) == 4
