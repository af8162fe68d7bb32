"""`lesionflow ui` as a process of its own: what it prints, runs, starts again, and leaves behind when it ends."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tasks.services.announcement import announced
from tasks.services.deployment import Server
from tasks.services.service import answers
from tests.services.processes import (
    ROOT,
    Receiver,
    clean_environment,
    deploy_probe,
    eventually,
    final_state,
    free_port,
    start_run,
    state_of,
)

UP = "Ctrl-C ends them"
pytestmark = pytest.mark.timeout(600)  # the first start deploys all flows


@dataclass
class Ui:
    """A `lesionflow ui` that has said that it is up."""

    process: subprocess.Popen
    workspace: Path
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def api(self) -> Server:
        return Server(announced(self.workspace).prefect + "/api")

    def family(self) -> list[psutil.Process]:
        """All processes that it has started, and those that they have."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def one(self, words: str) -> psutil.Process:
        """The youngest of them with these words in its command line."""
        found = [member for member in self.family() if words in " ".join(member.cmdline())]
        return max(found, key=lambda member: member.create_time())


def command(workspace: Path, *verb: str | Path, webhook: str = "") -> dict:
    """How to start `lesionflow` in a process of its own."""
    environment = {**clean_environment(), **({"LESIONFLOW_WEBHOOK": webhook} if webhook else {})}
    arguments = [sys.executable, "-m", "flows.cli", "--workspace", str(workspace), *map(str, verb)]
    return {"args": arguments, "env": environment, "cwd": ROOT}


def start_ui(workspace: Path, webhook: str = "") -> Ui:
    ports = [part for name in ("prefect", "mlflow", "browser") for part in (f"--{name}-port", str(free_port()))]
    output = workspace.parent / f"ui-{time.monotonic_ns()}.txt"
    with output.open("w") as opened:
        process = subprocess.Popen(
            **command(workspace, "ui", *ports, webhook=webhook), stdout=opened, stderr=opened, start_new_session=True
        )
    ui = Ui(process, workspace, output)
    assert eventually(lambda: UP in ui.said or process.poll() is not None, 240)
    assert process.poll() is None, ui.said
    return ui


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Ui]:
    started = start_ui(tmp_path_factory.mktemp("ui") / "workspace", receiver.address)
    deploy_probe(started.api)
    yield started
    if started.process.poll() is None:
        started.process.kill()


@pytest.fixture(scope="module")
def scheduled(ui: Ui) -> Path:
    """The cohort that a schedule of the `ingest` deployment fills, again and again."""
    cohort = ui.workspace.parent / "scheduled"
    api = ui.api
    parameters = {"source": "sim:fundus?cases=2&size=64", "cohort": str(cohort)}
    entry = {"schedule": {"interval": 30, "timezone": "UTC"}, "active": True, "parameters": parameters}
    api.ask("POST", f"/deployments/{api.deployment('ingest')['id']}/schedules", [entry])
    return cohort


def test_all_addresses_that_it_prints_answer(ui: Ui, scheduled: Path):
    printed = re.findall(r"http://127\.0\.0\.1:\d+", ui.said)
    known = announced(ui.workspace)
    assert printed == [known.prefect, known.mlflow, known.browser]
    assert all(answers(address) for address in printed)


def test_mlflow_refuses_other_host_names(ui: Ui):
    import httpx

    known = announced(ui.workspace)
    assert httpx.get(known.mlflow, headers={"Host": "elsewhere.example"}).status_code == 403


def test_second_one_says_that_it_runs_already_and_where(ui: Ui):
    second = subprocess.run(**command(ui.workspace, "ui"), capture_output=True, text=True, timeout=120)
    assert second.returncode == 1
    [line] = second.stderr.strip().splitlines()
    assert line.startswith("lesionflow: ")
    assert str(ui.process.pid) in line
    assert announced(ui.workspace).prefect in line


def test_taken_port_is_one_line(ui: Ui, tmp_path: Path):
    port = announced(ui.workspace).prefect.rsplit(":", 1)[1]
    other = subprocess.run(
        **command(tmp_path, "ui", "--prefect-port", port), capture_output=True, text=True, timeout=120
    )
    assert other.returncode == 1
    assert other.stderr.strip() == f"lesionflow: port {port} is taken: choose another for Prefect with --prefect-port"


def test_run_of_the_command_appears_in_its_prefect(ui: Ui, tmp_path: Path):
    done = subprocess.run(
        **command(ui.workspace, "ingest", "sim:fundus?cases=2&size=64", tmp_path / "cohort"),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    wanted = {"flow_runs": {"name": {"like_": str(tmp_path / "cohort")}}}
    [run] = ui.api.ask("POST", "/flow_runs/filter", wanted)
    assert run["state_type"] == "COMPLETED"


@pytest.mark.slow
def test_failed_flow_run_is_told_to_the_webhook(ui: Ui, receiver: Receiver, tmp_path: Path):
    run = start_run(ui.api, "probe", {"folder": str(tmp_path), "error": "no such cohort"})
    told = receiver.waits_for("failed")
    assert final_state(ui.api, run, 60) == "FAILED"
    assert told["text"].splitlines() == [
        f"probe ({told['flow_run']}) failed: Flow run encountered an exception: ValueError: no such cohort",
        f"{announced(ui.workspace).prefect}/runs/flow-run/{run}",
    ]


@pytest.mark.slow
def test_killed_flow_run_crashes_and_is_told_to_the_webhook(ui: Ui, receiver: Receiver, tmp_path: Path):
    run = start_run(ui.api, "probe", {"folder": str(tmp_path)})
    pid = eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    os.kill(int(pid), signal.SIGKILL)
    assert final_state(ui.api, run, 60) == "CRASHED"
    assert receiver.waits_for("crashed")["flow_run_id"] == run


@pytest.mark.slow
def test_killed_worker_is_started_again_and_ends_what_it_left_behind(ui: Ui, receiver: Receiver, tmp_path: Path):
    run = start_run(ui.api, "probe", {"folder": str(tmp_path)})
    pid = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    ui.one("tasks.services.worker").kill()
    assert "worker-cpu" in receiver.waits_for("service-restarted")["text"]
    assert final_state(ui.api, run, 90) == "CRASHED"
    assert eventually(lambda: not psutil.pid_exists(pid))
    assert (tmp_path / "checkpoint").exists()


def test_schedule_fires_and_completes(ui: Ui, scheduled: Path):
    wanted = {"flow_runs": {"name": {"like_": str(scheduled)}, "state": {"type": {"any_": ["COMPLETED"]}}}}
    assert eventually(lambda: ui.api.ask("POST", "/flow_runs/filter", wanted), 150)


@pytest.mark.slow
def test_sigterm_lets_flow_runs_write_their_checkpoints_and_leaves_no_process(ui: Ui, tmp_path: Path):
    run, address = start_run(ui.api, "probe", {"folder": str(tmp_path)}), ui.api
    assert eventually(lambda: (tmp_path / "pid").exists())
    family = ui.family()
    ui.process.terminate()
    assert eventually(lambda: state_of(address, run) == "CRASHED" if answers(address.address + "/health") else True)
    assert ui.process.wait(120) == 0
    assert (tmp_path / "checkpoint").exists()
    assert psutil.wait_procs(family, 10)[1] == []
    assert announced(ui.workspace) is None


@pytest.mark.slow
def test_killed_one_leaves_no_process_and_can_be_started_again(ui: Ui, tmp_path: Path):
    again = start_ui(ui.workspace)
    start_run(again.api, "probe", {"folder": str(tmp_path)})
    assert eventually(lambda: (tmp_path / "pid").exists())
    family = again.family()
    again.process.kill()
    again.process.wait(10)
    assert psutil.wait_procs(family, 100)[1] == []
    assert (tmp_path / "checkpoint").exists()
    assert (ui.workspace / "services.json").exists()
    assert announced(ui.workspace) is None
