"""Training processes seen from the Prefect task that starts them: started, watched, stopped, their failure told."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tasks.engine.job import TrainingJob
from tasks.engine.launcher import ONLY_NODE, Node, Outcome, outcome_file
from tasks.errors import TrainingError, TrainingStoppedError

LOOK_SECONDS = 0.5
FULL_BYTES = 1 << 20
_running: set[subprocess.Popen[bytes]] = set()
HINT = (
    "the batch did not fit into memory: lower trainer.batch_size, raise trainer.accumulate (the same batch in more "
    "parts; trainer.halve_batch=true does that by itself), take trainer.precision=bf16, or a smaller image or network"
)


def run_job(
    job: TrainingJob,
    watch: Callable[[], None] = lambda: None,
    node: Node = ONLY_NODE,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run this node's share of a training to its end, in processes of its own; `watch` is called meanwhile.

    If `watch` raises, or a signal ends this process's wait, the training writes a checkpoint and stops, and the
    exception goes on.

    Raises:
        TrainingError: with the first failing rank's own exception; its whole traceback is in the run's `logs`.
        TrainingStoppedError: a signal ended the training after a checkpoint.
    """
    outcome_file(job.folder, node.rank).unlink(missing_ok=True)
    with launcher(job, node, environment) as process:
        while process.poll() is None:
            watch()
            time.sleep(LOOK_SECONDS)
    watch()
    explain(job, outcome_of(job, node, process.returncode))


@contextmanager
def launcher(job: TrainingJob, node: Node, environment: Mapping[str, str] | None) -> Iterator[subprocess.Popen[bytes]]:
    """The launching process; whatever ends the block, it and its ranks have ended after it."""
    command = [sys.executable, "-m", "tasks.engine.launcher", str(job.file), "--parent", str(os.getpid())]
    command += ["--node-rank", str(node.rank), "--rendezvous", node.rendezvous] if job.nodes > 1 else []
    with (job.folder / f"launcher-{node.rank}.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **(environment or {})}, start_new_session=True
        )
    _running.add(process)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait()
        _running.discard(process)


def stop_running() -> None:
    """Tell every training of this process, in whatever thread, to write a checkpoint and stop."""
    for process in list(_running):
        process.send_signal(signal.SIGTERM)


def outcome_of(job: TrainingJob, node: Node, status: int) -> Outcome:
    """What the launcher said, or what its exit status means where it could not."""
    file = outcome_file(job.folder, node.rank)
    if file.exists():
        return Outcome(**json.loads(file.read_text()))
    if status in (-signal.SIGTERM, -signal.SIGINT):
        return Outcome("stopped")
    return Outcome("failed", 0, f"the launching process ended with status {status}: {_last_line(job)}")


def explain(job: TrainingJob, outcome: Outcome) -> None:
    """Raise what a person should read, unless the training ended well."""
    if outcome.status == "finished":
        return
    if outcome.status == "stopped":
        raise TrainingStoppedError("training was stopped after a checkpoint; the same command goes on from there")
    message = outcome.message or _last_line(job)
    if shutil.disk_usage(job.folder).free < FULL_BYTES:  # then what a rank says may be cut off, too
        message = f"the disk of {job.folder} is full; {message}"
    what = HINT if outcome.out_of_memory else f"rank {outcome.rank}: {message}"
    raise TrainingError(f"{what} (logs in {job.folder / 'logs'})")


def _last_line(job: TrainingJob) -> str:
    """What was last said by a process that could not tell its failure otherwise."""
    logs = sorted(job.folder.glob("launcher-*.log"), key=lambda file: file.stat().st_mtime)
    lines = logs[-1].read_text(errors="replace").splitlines() if logs else []
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
