"""A small process between `lesionflow ui` and a server: the server ends with it, and it with `lesionflow ui`.

    python keeper.py PARENT WORKERS COMMAND ...

Runs as a file, with the standard library alone (12 MB). At SIGTERM the server and all its children get SIGTERM and, ten
seconds later, SIGKILL. The same happens when process PARENT is killed, once the workers have ended, which hold locks in
the folder WORKERS: so the server still hears how their flow runs have ended.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tasks.services.lifeline import end_with, signal_group
from tasks.services.users import users

SECONDS_FOR_WORKERS = 200.0
SECONDS_TO_STOP = 10.0
SECONDS_TO_DIE = 0.5  # the signal comes before all threads of PARENT are gone
LOOK_SECONDS = 0.1


def main() -> None:
    """Keep the command of the command line; end with its status."""
    parent, workers, command = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    end_with(parent)
    process = subprocess.Popen(command, start_new_session=True, preexec_fn=_end_with_keeper)
    while process.poll() is None and not signals:
        time.sleep(LOOK_SECONDS)
    time.sleep(SECONDS_TO_DIE)
    if os.getppid() != parent:
        _wait_while(lambda: bool(users(workers)) and process.poll() is None, SECONDS_FOR_WORKERS)
    signal_group(process.pid, signal.SIGTERM)
    _wait_while(lambda: process.poll() is None, SECONDS_TO_STOP)
    signal_group(process.pid, signal.SIGKILL)
    sys.exit(process.wait() % 256)


def _wait_while(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while holds() and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)


def _end_with_keeper(keeper: int = os.getpid()) -> None:
    end_with(keeper)


if __name__ == "__main__":
    main()
