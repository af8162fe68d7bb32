"""A flow that waits, and takes its time to stop, as a training does."""

import os
import time
from pathlib import Path

from prefect import flow, task

from tasks.notifications import notified


@task
def wait(folder: str, seconds: float) -> None:
    Path(folder, "pid").write_text(str(os.getpid()))
    try:
        time.sleep(seconds)
    finally:
        time.sleep(2)
        Path(folder, "checkpoint").touch()


@notified
@flow(name="probe")
def probe(folder: str, seconds: float = 120, error: str = "") -> None:
    if error:
        raise ValueError(error)
    wait(folder, seconds)
