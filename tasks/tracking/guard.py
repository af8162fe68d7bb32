"""A small process beside one that tracks runs; it outlives a kill, and closes the runs that were open.

The owner writes a line `+RUN URI` as it opens a run, `-RUN` as it closes one, and `!PID` of a Prefect server that lives
for its flow alone. When the owner is gone, the guard ends such servers, closes runs that are left in MLflow, and ends.
It has a session of its own, so what is sent to the owner's process group or terminal does not reach it.

The guard runs this file with the standard library alone (11 MB, 30 ms); MLflow is imported once there is work.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SERVER = "prefect.server"  # in the command line of Prefect's temporary server
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


class Guard:
    """The owner's end: started with the first run, safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        os.register_at_fork(after_in_child=self._forget)

    @property
    def pid(self) -> int | None:
        """The guard's process, where there is one."""
        return self._process.pid if self._process else None

    def watch(self, run_id: str, tracking_uri: str) -> None:
        """Close the run if this process ends before `release`."""
        with self._lock:
            self._runs[run_id] = tracking_uri
            self._tell(f"+{run_id} {tracking_uri}\n")
            for server in temporary_servers():
                self._tell(f"!{server}\n")

    def release(self, run_id: str) -> None:
        """The run has been closed."""
        with self._lock:
            if self._runs.pop(run_id, None):
                self._tell(f"-{run_id}\n")

    def _tell(self, line: str) -> None:
        """Write to the guard; one that is not there, or was killed, is started and told of every open run."""
        if self._process is not None and self._write(line):
            return
        command = [sys.executable, "-P", __file__, str(os.getpid())]
        quiet = subprocess.DEVNULL  # an inherited pipe would look open to whoever waits for the owner's output
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, bufsize=0, start_new_session=True
        )
        for run_id, uri in self._runs.items():
            self._write(f"+{run_id} {uri}\n")

    def _write(self, line: str) -> bool:
        """Whether the guard could be told."""
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
        except BrokenPipeError:
            return False
        return True

    def _forget(self) -> None:
        """In a forked child: the runs and the guard are the parent's, and the pipe must not stay open here."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._lock, self._runs, self._process = threading.Lock(), {}, None


def temporary_servers() -> list[int]:
    """Prefect's servers that this process has started, by process id."""
    import psutil  # type: ignore[import-untyped]  # only the owner has need of it

    return [child.pid for child in psutil.Process().children() if _is_server(child.pid)]


def main() -> None:
    """The guard's end: listen until the owner is gone, then close what it has left open."""
    owner = int(sys.argv[1])
    runs: dict[str, str] = {}
    servers: set[int] = set()
    for line in sys.stdin:
        name, _, uri = line[1:].strip().partition(" ")
        if line.startswith("+"):
            runs[name] = uri
        elif line.startswith("!"):
            servers.add(int(name))
        else:
            runs.pop(name, None)
    while os.getppid() == owner:  # its files are closed a little before it is gone
        time.sleep(0.05)
    for server in filter(_is_server, servers):
        os.kill(server, signal.SIGTERM)
    if runs:
        close(runs)


def close(runs: dict[str, str]) -> None:
    """Close those of `runs` (tracking URI by run id) that nobody else has reopened."""
    os.environ.update(PATIENCE)
    sys.path.insert(0, str(PROJECT))
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from tasks.tracking.ownership import close_if_abandoned

    for run_id, uri in runs.items():
        with suppress(MlflowException):
            client = MlflowClient(uri)
            close_if_abandoned(client, client.get_run(run_id))


def _is_server(pid: int) -> bool:
    try:
        return SERVER in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


if __name__ == "__main__":
    main()
