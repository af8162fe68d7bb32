"""The process that hands out the shards is killed or stopped: no worker stays, and the next run does what is left."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from tasks.kept import kept_answers
from tasks.shards import shard_outcomes
from tasks.workspace import VARIABLE, Workspace
from tests.tasks.shards import work

PROJECT = Path(__file__).resolve().parents[3]
PARTS = [[item] for item in range(12)]
CLIENT = """
import signal, sys
from functools import partial
from tasks.kept import kept_answers
from tasks.shards import shard_outcomes
from tests.tasks.shards import work

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    function, keep = partial(work.slow_squares, sys.argv[1]), kept_answers("square", "key")
    for outcome in shard_outcomes(function, [[item] for item in range(12)], workers=2, keep=keep):
        print(outcome.part, flush=True)
"""


def stopped_midway(folder: Path, how: signal.Signals) -> subprocess.Popen[str]:
    """A client that got `how` when three shards were done."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(folder)], stdout=subprocess.PIPE, text=True, cwd=PROJECT, env=environment
    )
    assert client.stdout is not None
    for _ in range(3):
        client.stdout.readline()
    client.send_signal(how)
    client.wait(60)
    return client


def are_gone(processes: set[int], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(psutil.pid_exists, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(map(psutil.pid_exists, processes))


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=SLOW), pytest.param(signal.SIGINT, marks=SLOW)]
)
def test_no_worker_stays_and_the_next_run_does_the_missing_shards_only(
    workspace: Workspace, tmp_path: Path, how: signal.Signals
):
    assert os.environ[VARIABLE]
    begun = tmp_path / "begun"
    begun.mkdir()
    stopped_midway(begun, how)
    assert are_gone(work.processes(begun))
    keep, before = kept_answers("square", "key"), work.begun(begun)
    kept = {str(item) for [item] in PARTS if keep.has([item])}
    assert 3 <= len(kept) < len(PARTS)
    outcomes = list(shard_outcomes(partial(work.slow_squares, str(begun)), PARTS, workers=1, keep=keep))
    assert sorted(outcome.answer for outcome in outcomes) == [[item**2] for item in range(12)]
    again = work.begun(begun) - before
    assert again == {str(item): 1 for [item] in PARTS if str(item) not in kept}
