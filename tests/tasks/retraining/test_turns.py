"""One retraining at a time: the second leaves or waits, and a killed one holds nobody up."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tasks.retraining.turns import turn
from tasks.workspace import VARIABLE, Workspace

HOLD = """
import sys, time
from tasks.retraining.turns import turn
with turn("model", "wait"):
    print("held", flush=True)
    time.sleep(float(sys.argv[1]))
"""


def holder(workspace: Workspace, seconds: float) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(seconds)],
        stdout=subprocess.PIPE,
        env={**os.environ, VARIABLE: str(workspace.root), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_the_second_leaves_where_it_is_told_to(workspace: Workspace):
    first = holder(workspace, 60)
    try:
        with turn("model", "leave") as has_turn:
            assert not has_turn
        with turn("another model", "leave") as has_turn:
            assert has_turn
    finally:
        first.kill()
        first.wait()


def test_the_second_waits_and_says_so(workspace: Workspace, capsys: pytest.CaptureFixture[str]):
    first = holder(workspace, 1)
    started = time.monotonic()
    with turn("model", "wait") as has_turn:
        assert has_turn
        assert first.wait(10) == 0
    assert time.monotonic() - started > 0.1
    assert "waiting for it to end" in capsys.readouterr().err


def test_a_killed_one_holds_nobody_up(workspace: Workspace):
    first = holder(workspace, 60)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with turn("model", "leave") as has_turn:
        assert has_turn
