"""Which flow runs a worker has under way, written down, so that the next worker finds what a killed one has left."""

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.reuse import write_json
from tasks.services.lifeline import lives, signal_group, signal_process, started
from tasks.workspace import current_workspace

SECONDS_TO_STOP = 150.0  # a training writes its checkpoint within 120


@dataclass(frozen=True)
class LeftBehind:
    """A flow run whose worker is gone: its id, and the process that ran it; none where it was only claimed."""

    flow_run_id: str
    pid: int | None
    since: float
    file: Path

    def end(self, seconds: float = SECONDS_TO_STOP) -> None:
        """SIGTERM, time to write a checkpoint, SIGKILL to whatever is left of its process group."""
        if self.pid is None:
            return
        deadline = time.monotonic() + seconds
        if lives(self.pid, self.since):
            signal_process(self.pid, signal.SIGTERM)
        while lives(self.pid, self.since) and time.monotonic() < deadline:
            time.sleep(0.2)
        if lives(self.pid, self.since):
            signal_group(self.pid, signal.SIGKILL)


def write_down(worker: str, flow_run_id: str, pid: int | None) -> None:
    """The worker has started process `pid` for a flow run, or (None) is about to ask the server for the run."""
    folder = _folder(worker)
    folder.mkdir(parents=True, exist_ok=True)
    since = time.time() if pid is None else started(pid) or time.time()
    write_json(folder / f"{flow_run_id}.json", {"pid": pid, "started": since})


def strike_out(worker: str, flow_run_id: str) -> None:
    """The flow run has ended, and its state is known to the server."""
    (_folder(worker) / f"{flow_run_id}.json").unlink(missing_ok=True)


def left_behind(worker: str) -> Iterator[LeftBehind]:
    """What an earlier worker of that name has not struck out."""
    for file in sorted(_folder(worker).glob("*.json")):
        entry = json.loads(file.read_text())
        yield LeftBehind(file.stem, entry["pid"], entry["started"], file)


def _folder(worker: str) -> Path:
    return current_workspace().root / "services" / "flow-runs" / worker
