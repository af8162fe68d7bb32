"""A cohort's pixels in any process, also in a forked one.

icechunk reads with threads of its own, which a fork leaves behind: the first read in the child waits for ever (torch's
data loader with two forked workers: no batch in 15 s). A forked process therefore reads through another one that it
starts anew, `python -m storage.reader PATH SNAPSHOT`. Over that one's stdin and stdout go requests (name, arguments)
and answers (succeeded, value or exception), each as a pickle and the arrays beside it, all with their lengths before
them. It ends with the end of its stdin, and with the thread that started it.
"""

import contextlib
import ctypes
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import IO, Any, TypeAlias

import numpy as np
import pandas as pd

from storage.cohort import Cohort
from storage.errors import CohortError

PR_SET_PDEATHSIG = 1

_forked = False
_inherited: list[Any] = []  # cohorts of the parent: taking them apart here would reach for threads that are gone


def _note_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_note_fork)


Reader: TypeAlias = "Cohort | ReaderProcess"


def open_reader(path: str, snapshot: str) -> Reader:
    """The cohort at `path` as it was at `snapshot`: itself, or in a forked process through a process beside it."""
    return ReaderProcess(path, snapshot) if _forked else Cohort.open(path, snapshot)


class OwnReader:
    """A reader for each process that holds this object, opened when it is first asked for; pickled without it."""

    def __init__(self, path: str, snapshot: str) -> None:
        self.path, self.snapshot = path, snapshot
        self._opened: tuple[int, Reader] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return OwnReader, (self.path, self.snapshot)

    def __call__(self) -> Reader:
        """The reader of this process."""
        if self._opened is not None and self._opened[0] == os.getpid():
            return self._opened[1]
        if self._opened is not None:
            _inherited.append(self._opened)
        reader = open_reader(self.path, self.snapshot)
        self._opened = os.getpid(), reader
        return reader


class ReaderProcess:
    """A cohort read by a process of its own, for as long as this object lives.

    Errors raised there are raised here. CohortError when that process has died.
    """

    def __init__(self, path: str, snapshot: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "storage.reader", path, snapshot],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        weakref.finalize(self, _end, self._process, os.getpid())

    @property
    def dims(self) -> tuple[str, ...]:
        """`Cohort.dims`."""
        return tuple(self._ask("dims"))

    @property
    def lesions(self) -> tuple[str, ...]:
        """`Cohort.lesions`."""
        return tuple(self._ask("lesions"))

    @property
    def table(self) -> pd.DataFrame:
        """`Cohort.table`."""
        table: pd.DataFrame = self._ask("table")
        return table

    def label(self, name: str) -> np.ndarray:
        """`Cohort.label`."""
        return self._array("label", name)

    def image(self, index: int) -> np.ndarray:
        """`Cohort.image`."""
        return self._array("image", index)

    def masks(self, index: int) -> np.ndarray:
        """`Cohort.masks`."""
        return self._array("masks", index)

    def mask(self, index: int, lesions: Sequence[str] | None = None) -> np.ndarray:
        """`Cohort.mask`."""
        return self._array("mask", index, lesions)

    def patch(self, index: int, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """`Cohort.patch`."""
        return self._array("patch", index, start, shape)

    def mask_patch(
        self, index: int, start: Sequence[int], shape: Sequence[int], lesions: Sequence[str] | None = None
    ) -> np.ndarray:
        """`Cohort.mask_patch`."""
        return self._array("mask_patch", index, start, shape, lesions)

    def _array(self, name: str, *arguments: Any) -> np.ndarray:
        return np.asarray(self._ask(name, *arguments))

    def _ask(self, name: str, *arguments: Any) -> Any:
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        with self._lock:
            try:
                _send(requests, (name, arguments))
                succeeded, value = _receive(answers)
            except (EOFError, BrokenPipeError):
                raise CohortError(self._obituary()) from None
        if not succeeded:
            raise value
        return value

    def _obituary(self) -> str:
        code = self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        cause = "; the machine may have run out of memory" if code == -signal.SIGKILL else ""
        return f"the process that reads {self.path} for a forked worker {how}{cause}"


def _end(process: "subprocess.Popen[bytes]", owner: int) -> None:
    """End a reader, which has nothing to lose; in a fork of its owner just let go of the copies of its pipes."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    if os.getpid() == owner:
        process.kill()  # a forked worker may hold its stdin open
        process.wait()


def serve(path: str, snapshot: str, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until there are no more."""
    cohort: Cohort | None = None
    while True:
        try:
            name, arguments = _receive(requests)
        except EOFError:
            return
        try:
            cohort = Cohort.open(path, snapshot) if cohort is None else cohort
            member = getattr(cohort, name)
            answer = True, member(*arguments) if callable(member) else member
        except Exception as error:
            answer = False, _picklable(error)
        _send(answers, answer)


def _picklable(error: Exception) -> Exception:
    """`error`, or one that says the same where it cannot travel."""
    try:
        return error if type(pickle.loads(pickle.dumps(error))) is type(error) else CohortError(str(error))
    except Exception:
        return CohortError(f"{type(error).__name__}: {error}")


def _send(pipe: IO[bytes], message: Any) -> None:
    """Write how many parts there are, their lengths, and them: the pickle and the buffers outside of it."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(pickled), *(buffer.raw() for buffer in buffers)]
    pipe.write(struct.pack(f"<{len(parts) + 1}Q", len(parts), *(part.nbytes for part in parts)))
    for part in parts:
        pipe.write(part)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    """The next message; EOFError where the other side has gone."""
    (count,) = struct.unpack("<Q", _exactly(pipe, 8))
    lengths = struct.unpack(f"<{count}Q", _exactly(pipe, 8 * count))
    pickled, *buffers = [_exactly(pipe, length) for length in lengths]
    return pickle.loads(pickled, buffers=buffers)


def _exactly(pipe: IO[bytes], length: int) -> bytearray:
    content = bytearray(length)
    view, filled = memoryview(content), 0
    while filled < length:
        count = pipe.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        filled += count
    return content


def _main(path: str, snapshot: str) -> None:
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6", use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    with contextlib.suppress(BrokenPipeError):
        serve(path, snapshot, sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main(*sys.argv[1:])
