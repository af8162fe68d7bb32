"""Runs of processes that are killed, by real processes and real signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import pytest

from tasks.tracking.ownership import HOST, KILLED, PID, STARTED, Owner
from tasks.tracking.runs import tracked_run, tracking_client

OWNER = """
import sys, time
from tasks.tracking.runs import tracked_run
with tracked_run("train", {}, resume=sys.argv[1] or None) as run:
    print(run.run_id, flush=True)
    sys.stdin.readline()
"""

OWNER_IN_A_FLOW = """
import sys
from prefect import flow
from tasks.tracking.runs import tracked_run
@flow
def hold():
    with tracked_run("train", {}) as run:
        print(run.run_id, flush=True)
        sys.stdin.readline()
hold()
"""

pytestmark = pytest.mark.usefixtures("shared_workspace")


@dataclass
class Tracking:
    """A process that has a run open, and its guard."""

    process: subprocess.Popen[str]
    run_id: str
    guard: psutil.Process

    def kill(self) -> None:
        """SIGKILL to its process group, as a terminal or a job manager would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def tracking(resume: str = "", script: str = OWNER) -> Iterator[Tracking]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, resume],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    run_id = process.stdout.readline().strip()
    assert run_id
    try:
        yield Tracking(process, run_id, guard_of(process.pid))
    finally:
        process.kill()
        process.communicate()


def guard_of(pid: int) -> psutil.Process:
    living = [child for child in psutil.Process(pid).children() if child.status() != psutil.STATUS_ZOMBIE]
    [guard] = [child for child in living if any(part.endswith("guard.py") for part in child.cmdline())]
    return guard


def eventually(holds: Callable[[], bool], seconds: float = 90) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def status(run_id: str) -> str:
    return tracking_client().get_run(run_id).info.status


def test_killed_process_has_its_run_closed_by_its_guard_which_then_ends():
    with tracking() as owner:
        assert status(owner.run_id) == "RUNNING"
        owner.kill()
        assert eventually(lambda: status(owner.run_id) == "KILLED")
        assert eventually(lambda: not owner.guard.is_running())
    assert "ended without closing" in tracking_client().get_run(owner.run_id).data.tags[KILLED]


@pytest.mark.slow
def test_prefect_server_that_a_killed_flow_started_ends_too():
    with tracking(script=OWNER_IN_A_FLOW) as owner:
        children = psutil.Process(owner.process.pid).children()
        [server] = [child for child in children if "prefect.server" in " ".join(child.cmdline())]
        owner.process.kill()
        assert eventually(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.slow
def test_guard_of_a_process_that_ends_well_ends_too_and_is_small():
    with tracking() as owner:
        assert owner.guard.memory_info().rss < 20e6
        owner.process.communicate("go on\n")
        assert owner.process.returncode == 0
        assert eventually(lambda: not owner.guard.is_running())
    assert status(owner.run_id) == "FINISHED"


@pytest.mark.slow
def test_run_whose_guard_was_killed_too_is_closed_by_the_next_process_and_a_live_one_is_not():
    with tracking() as dead, tracking() as alive:
        dead.guard.kill()
        dead.kill()
        with tracking():
            assert status(dead.run_id) == "KILLED"
            assert status(alive.run_id) == "RUNNING"


@pytest.mark.slow
def test_killed_run_that_another_process_reopens_is_left_to_it():
    with tracking() as first:
        first.guard.suspend()
        first.kill()
        with tracking(first.run_id) as second:
            first.guard.resume()
            assert second.run_id == first.run_id
            assert eventually(lambda: not first.guard.is_running())
            assert status(first.run_id) == "RUNNING"
            second.process.communicate("go on\n")
    kept = tracking_client().get_run(first.run_id)
    assert kept.info.status == "FINISHED"
    assert KILLED not in kept.data.tags


def test_guard_that_was_killed_is_started_again_with_the_next_run():
    with tracked_run("train", {}) as outer:
        first = guard_of(os.getpid())
        first.kill()
        assert eventually(lambda: first.status() == psutil.STATUS_ZOMBIE)
        with tracked_run("train", {}, parent=outer.run_id):
            assert guard_of(os.getpid()).pid != first.pid


@pytest.mark.slow
def test_forked_child_that_lives_on_does_not_keep_the_guard_waiting():
    fork = "    import os\n    os.fork() or (time.sleep(600), os._exit(0))\n"
    with tracking(script=OWNER.replace("    print", f"{fork}    print")) as owner:
        owner.process.kill()
        assert eventually(lambda: status(owner.run_id) == "KILLED")
        owner.kill()


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({}, False),
        ({STARTED: "0.00"}, True),
        ({PID: "999999999"}, True),
        ({HOST: "elsewhere", PID: "999999999"}, False),
    ],
)
def test_owner_is_gone_where_its_process_is_not_there_or_is_another_one(change: dict[str, str], gone: bool):
    tags = {**Owner.current().tags(), **change}
    assert Owner(tags[HOST], int(tags[PID]), float(tags[STARTED])).is_gone() is gone


def test_process_that_nobody_has_waited_for_is_gone():
    process = subprocess.Popen([sys.executable, "-c", ""])
    started = psutil.Process(process.pid).create_time()
    assert eventually(Owner(Owner.current().host, process.pid, started).is_gone)
    process.wait()
