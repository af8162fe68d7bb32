"""The process that starts the ranks of a job under torch.distributed elastic, and ends when they have.

    python -m tasks.engine.launcher JOB_FILE --parent PID [--node-rank R --rendezvous HOST:PORT]

It leaves `outcome.json` in the run's folder. A rank that was killed is started again with all others, from the last
checkpoint; so is a training whose batch did not fit into memory, in smaller parts, if it may.
"""

import argparse
import fcntl
import json
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tasks.engine.checkpoint_files import forget_mid_epoch
from tasks.engine.interruption import StoppedError, die_with_parent
from tasks.reuse import write_json

SECONDS_TO_STOP = 120
OUT_OF_MEMORY = ("OutOfMemoryError", "CUDA out of memory", "DefaultCPUAllocator: can't allocate memory")

Status = Literal["finished", "failed", "killed", "stopped"]


@dataclass(frozen=True)
class Outcome:
    """How the ranks ended; of a failure, the first rank's own exception."""

    status: Status
    rank: int = 0
    message: str = ""

    @property
    def out_of_memory(self) -> bool:
        """Whether a batch did not fit."""
        return any(words in self.message for words in OUT_OF_MEMORY)


@dataclass(frozen=True)
class Node:
    """Which of several machines this is, and where they meet: `host:port` of node 0."""

    rank: int = 0
    rendezvous: str = ""


ONLY_NODE = Node()


@dataclass(frozen=True)
class Plan:
    """What of a job concerns the launching; the job's own class would load all that the ranks need."""

    file: Path
    nodes: int
    devices: int
    trainer: dict[str, Any]

    @classmethod
    def read(cls, file: Path) -> "Plan":
        """Out of a job file."""
        job = json.loads(file.read_text())
        return cls(file, job["nodes"], job["devices"], job["trainer"])

    @property
    def folder(self) -> Path:
        """The run's."""
        return self.file.parent


@record
def run_rank(*arguments: Any) -> None:
    """What `elastic_launch` starts."""
    from tasks.engine.rank import train_rank  # here, because only the ranks need Lightning and MONAI

    train_rank(*arguments)


def launch(job: Plan, node: Node) -> Outcome:
    """Run the ranks to their end, again where that helps."""
    restarts, accumulate = job.trainer["restarts"] if job.nodes == 1 else 0, fitting_parts(job)
    while True:
        outcome = run_ranks(job, node, accumulate)
        if outcome.out_of_memory and can_halve(job, accumulate):
            accumulate *= 2
            remember_parts(job, accumulate)
        elif outcome.status == "killed" and restarts:
            restarts -= 1
        else:
            return outcome


def run_ranks(job: Plan, node: Node, accumulate: int) -> Outcome:
    """Start this node's ranks, wait for them, and tell how they ended."""
    logs = job.folder / "logs"
    logs.mkdir(exist_ok=True)
    meeting = (
        {"rdzv_backend": "static", "rdzv_endpoint": node.rendezvous, "rdzv_configs": {"rank": node.rank}}
        if job.nodes > 1
        else {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0"}
    )
    config = LaunchConfig(
        min_nodes=job.nodes,
        max_nodes=job.nodes,
        nproc_per_node=job.devices,
        run_id=job.folder.name,
        max_restarts=0,
        monitor_interval=0.1,
        shutdown_timeout=SECONDS_TO_STOP,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL),
        **meeting,
    )
    try:
        elastic_launch(config, run_rank)(str(job.file), os.getpid(), accumulate)
    except SignalException:
        return Outcome("stopped")
    except ChildFailedError as error:
        return told(*error.get_first_failure())
    return Outcome("finished")


def told(rank: int, failure: ProcessFailure) -> Outcome:
    """A rank's failure by its own exception; a rank that was killed left none."""
    message = failure.message
    text = str(message["message"]) if isinstance(message, dict) else ""  # without one it failed before its first line
    line = next(iter(text.splitlines()), "")
    if line.startswith(StoppedError.__name__):
        return Outcome("stopped", rank)
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        return Outcome("killed", rank, f"it was killed by {name}, as the system does when memory runs out")
    return Outcome("failed", rank, line)


def can_halve(job: Plan, accumulate: int) -> bool:
    """Whether the parts of a batch may and can be half as large."""
    parts = 2 * accumulate * job.devices * job.nodes
    return bool(job.trainer["halve_batch"]) and job.trainer["batch_size"] % parts == 0


def fitting_parts(job: Plan) -> int:
    """In how many parts a batch was last found to fit, or is asked to come."""
    file = _parts_file(job)
    return int(file.read_text()) if file.exists() else int(job.trainer["accumulate"])


def remember_parts(job: Plan, accumulate: int) -> None:
    """Go on, now and after a kill, with smaller parts, from the last end of an epoch."""
    write_json(_parts_file(job), accumulate)
    for stage in (job.folder / "stages").glob("*"):
        forget_mid_epoch(stage)


@contextmanager
def alone(folder: Path, node: Node) -> Iterator[None]:
    """Only one launcher a run and node: another one waits here until the ranks before it have ended."""
    with (folder / f".lock-{node.rank}").open("w") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Launch the job of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job_file", type=Path)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--rendezvous", default="")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent, signal.SIGTERM)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # told once, by the outcome
    node, job = Node(arguments.node_rank, arguments.rendezvous), Plan.read(arguments.job_file)
    with alone(job.folder, node):
        outcome = launch(job, node)
        write_json(outcome_file(job.folder, node.rank), asdict(outcome))


def outcome_file(folder: Path, node_rank: int = 0) -> Path:
    """Where a node's launcher says how its ranks ended."""
    return folder / f"outcome-{node_rank}.json"


def _parts_file(job: Plan) -> Path:
    return job.folder / "parts.json"


if __name__ == "__main__":
    main()
