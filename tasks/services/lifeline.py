"""Processes by id: whether they live, and how one ends with another."""

import ctypes
import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1
CLOCK_SECONDS = 5.0


def end_with(parent: int) -> None:
    """Ask Linux to send SIGTERM to this process when `parent`, which started it, ends; end now if it has already.

    The signal comes when the *thread* that started the process ends, so that must be one that lives as long. A killed
    process loses its threads one by one, and each may be the parent for a moment: the signal then comes several times.
    """
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6", use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def started(pid: int) -> float | None:
    """When a living process began, in seconds since 1970; None where there is none of that id."""
    import psutil  # type: ignore[import-untyped]  # 20 ms that most commands save

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    return None


def lives(pid: int, since: float) -> bool:
    """Whether the process of that id that began at `since` is still there; ids are used again."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    begun = started(pid)
    return begun is not None and abs(begun - since) < CLOCK_SECONDS


def signal_process(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to the process group that `pid` leads, which may have ended."""
    with suppress(ProcessLookupError):
        os.killpg(pid, number)
