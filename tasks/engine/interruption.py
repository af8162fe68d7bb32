"""How training processes end: with their parent, or all at the same step when one of them is told to stop."""

import ctypes
import os
import signal
import sys
from typing import Any

import torch
from torch import distributed

PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """A signal asked for the end; a checkpoint was written."""


def die_with_parent(parent: int, by: signal.Signals) -> None:
    """Ask Linux to send `by` to this process when its parent, process `parent`, ends; end now if it has already."""
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6", use_errno=True).prctl(PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:
        sys.exit(f"process {parent}, which started this one, has ended")


class StopSignal:
    """Whether SIGTERM or SIGINT has come; the process goes on meanwhile."""

    def __init__(self) -> None:
        self.came = False

    def listen(self) -> None:
        """Take the signals from whoever has them now."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.came = True


class Agreement:
    """What any rank wants at a step, all ranks know one step later, without waiting for each other meanwhile.

    Signals and clocks differ between ranks, but a checkpoint or an end must come at the same step in all of them.
    """

    def __init__(self, world_size: int) -> None:
        self.alone = world_size == 1
        self.group = None if self.alone else distributed.new_group(backend="gloo")
        self.asked: tuple[Any, torch.Tensor] | None = None

    def on(self, *wishes: bool) -> tuple[bool, ...]:
        """The wishes of any rank at the step before (of one rank alone: at this one)."""
        if self.alone:
            return wishes
        known = self._answer(len(wishes))
        flags = torch.tensor(wishes, dtype=torch.uint8)
        self.asked = (distributed.all_reduce(flags, distributed.ReduceOp.MAX, self.group, async_op=True), flags)
        return known

    def close(self) -> None:
        """Wait for what is under way; every rank calls it after the same number of steps."""
        self._answer(0)

    def _answer(self, count: int) -> tuple[bool, ...]:
        if self.asked is None:
            return (False,) * count
        work, flags = self.asked
        self.asked = None
        work.wait()
        return tuple(bool(flag) for flag in flags)
