"""`services.json` in the workspace: where the services are while `lesionflow ui` runs. Read by every command."""

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tasks.services.lifeline import lives, started

FILE = "services.json"


@dataclass(frozen=True)
class Announcement:
    """The process of `lesionflow ui`, the addresses of what it runs, and what MLflow's clients are to use."""

    pid: int
    started: float
    prefect: str
    mlflow: str
    browser: str
    tracking_uri: str

    @classmethod
    def of_this_process(cls, prefect: str, mlflow: str, browser: str, tracking_uri: str) -> "Announcement":
        """Signed with this process's id and start."""
        pid = os.getpid()
        return cls(pid, started(pid) or 0.0, prefect, mlflow, browser, tracking_uri)


def announce(root: Path, announcement: Announcement) -> None:
    """Write the file, whole or not at all."""
    partial = root / f".{FILE}.{os.getpid()}"
    partial.write_text(json.dumps(asdict(announcement), indent=1))
    partial.replace(root / FILE)


def withdraw(root: Path) -> None:
    """Remove the file."""
    (root / FILE).unlink(missing_ok=True)


def announced(root: Path) -> Announcement | None:
    """Who runs here; None where nobody does, whatever a killed process has left."""
    with suppress(FileNotFoundError, ValueError, TypeError):
        found = Announcement(**json.loads((root / FILE).read_text()))
        return found if lives(found.pid, found.started) else None
    return None
