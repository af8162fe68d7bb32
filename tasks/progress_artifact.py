"""Progress in Prefect's pages: an artifact of the run that the work belongs to.

A thread of its own speaks to Prefect, so that the work never waits for it: nothing at all is said of work shorter than
PATIENCE, then at most one thing every EVERY seconds. Where Prefect does not answer, the artifact stays behind.
"""

import contextlib
import contextvars
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast
from uuid import UUID

PATIENCE, EVERY, FAREWELL = 10.0, 5.0, 2.0  # seconds


@contextmanager
def progress_artifact(what: str) -> Iterator[Callable[[float], None]]:
    """What is told how much of the work is done, as a share of 0 … 1; does nothing outside of a Prefect run."""
    done = [0.0]
    if not _inside_a_run():
        yield lambda share: None
        return
    ended, context = threading.Event(), contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(_publish, what, done, ended), daemon=True)
    thread.start()
    try:
        yield lambda share: done.__setitem__(0, share)
    finally:
        ended.set()
        thread.join(FAREWELL)


def _inside_a_run() -> bool:
    """Whether a flow or task is running here; Prefect is not imported to find out."""
    if "prefect.context" not in sys.modules:
        return False
    from prefect.context import FlowRunContext, TaskRunContext

    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def _publish(what: str, done: list[float], ended: threading.Event) -> None:
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    if ended.wait(PATIENCE):
        return
    key = "progress-" + re.sub(r"[^a-z0-9]+", "-", what.lower()).strip("-")
    with contextlib.suppress(Exception):  # the work goes on without it
        said = done[0]
        artifact = cast(UUID, create_progress_artifact(100 * said, key=key, description=what))
        while True:
            over = ended.wait(EVERY)
            if done[0] != said:
                said = done[0]
                update_progress_artifact(artifact, 100 * said)
            if over:
                return
