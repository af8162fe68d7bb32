"""Whose an open MLflow run is, so that what a killed process has left open can be closed.

A run carries the host, process id and start time of the process that writes to it. Once that process is gone, a run
that still says RUNNING is closed as KILLED: by the process's guard (`tasks.tracking.guard`), or, where that was killed
too, by the next process on that host that tracks a run.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from mlflow import MlflowClient
from mlflow.entities import Run

HOST, PID, STARTED = "owner.host", "owner.pid", "owner.started"
KILLED = "killed"
CLOCK_SECONDS = 5.0


@dataclass(frozen=True)
class Owner:
    """A process: `started` in seconds since 1970, as the process table has it."""

    host: str
    pid: int
    started: float

    @classmethod
    def current(cls) -> "Owner":
        """This process."""
        return cls(host_name(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def of(cls, run: Run) -> "Owner | None":
        """Who wrote to `run` last; None where it does not say."""
        tags = run.data.tags
        if not {HOST, PID, STARTED} <= tags.keys():
            return None
        return cls(tags[HOST], int(tags[PID]), float(tags[STARTED]))

    def tags(self) -> dict[str, str]:
        """What a run carries."""
        return {HOST: self.host, PID: str(self.pid), STARTED: f"{self.started:.2f}"}

    def is_gone(self) -> bool:
        """Whether the process has ended; of another host's, nobody knows here, and the answer is no."""
        if self.host != host_name():
            return False
        try:
            os.kill(self.pid, 0)
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.started) < CLOCK_SECONDS  # process ids are reused, clocks set
            return not is_same or process.status() == psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.NoSuchProcess):
            return True
        except PermissionError:
            return False  # another user's


def host_name() -> str:
    """This host by name; in a container with its namespace, as process ids mean nothing to its neighbours."""
    namespace = Path("/proc/self/ns/pid")
    is_container = namespace.exists() and os.readlink(namespace) != "pid:[4026531836]"
    return socket.gethostname() + (f"/{os.readlink(namespace)}" if is_container else "")


def close_abandoned_runs(client: MlflowClient, experiment_id: str) -> list[str]:
    """Close the experiment's open runs of dead processes of this host; their ids."""
    mine = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{host_name()}'"
    return [run.info.run_id for run in client.search_runs([experiment_id], mine) if close_if_abandoned(client, run)]


def close_if_abandoned(client: MlflowClient, run: Run) -> bool:
    """Close `run` as KILLED, with a tag that says why, if it is open and its process is gone."""
    owner, run_id = Owner.of(run), run.info.run_id
    if run.info.status != "RUNNING" or owner is None or not owner.is_gone():
        return False
    client.set_tag(run_id, KILLED, f"process {owner.pid} on {owner.host} ended without closing this run")
    client.set_terminated(run_id, "KILLED")
    if Owner.of(client.get_run(run_id)) == owner:
        return True
    client.delete_tag(run_id, KILLED)
    client.update_run(run_id, status="RUNNING")  # somebody went on with it at this very moment
    return False
