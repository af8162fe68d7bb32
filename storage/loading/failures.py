"""What a person reads when loading fails: one line with the case and the cause, not a traceback of a worker."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import TypeVar

from storage.errors import CohortError

T = TypeVar("T")
FROM_WORKER = "in DataLoader worker process"  # torch's, in front of the traceback of a worker
DEAD_WORKER = "DataLoader worker"
KILLED = (
    "a loading worker was killed, as the system does when memory runs out: "
    "lower the number of workers, the batch size or prefetch_factor"
)


class LoadingError(CohortError):
    """A batch could not be made.

    Torch makes a worker's exception anew out of the text of its traceback; this one takes its own line out of that and
    keeps the rest as a note.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_last_line(message) if _is_from_worker(message) else message)
        if _is_from_worker(message):
            self.add_note(message)


@contextmanager
def explained_failures() -> Iterator[None]:
    """Failures of a data loader inside are raised as LoadingError: one line, with the worker's own cause."""
    try:
        yield
    except Exception as error:
        line = explanation(error)
        if line is None:
            raise
        raise LoadingError(line) from error


def explained(batches: Iterable[T]) -> Iterator[T]:
    """`batches`, where a failure of the loader that makes them is a LoadingError of one line."""
    with explained_failures():
        yield from batches


def explanation(error: Exception) -> str | None:
    """What a data loader's own error means, or None where it tells that itself or comes from elsewhere."""
    text = str(error)
    if isinstance(error, LoadingError):
        return None
    if _is_from_worker(text):
        return _last_line(text)
    if text.startswith(DEAD_WORKER):
        why = str(error.__cause__)  # tells the signal or the exit code, where torch caught it
        return _of_dead_worker(why if why.startswith(DEAD_WORKER) else text)
    if isinstance(error, ConnectionError | EOFError | FileNotFoundError) and _while_taking_over(error):
        return KILLED
    if "stack expects each tensor to be equal size" in text:
        return "the cases of a batch differ in shape: pass collate_fn=padded_batch to the loader, or batch_size=1"
    return None


def _of_dead_worker(text: str) -> str | None:
    if "Bus error" in text or "shared memory" in text:
        return (
            "a loading worker ran out of shared memory (/dev/shm): raise its size (docker run --shm-size=8g), "
            "or lower the batch size or the number of workers"
        )
    if "exit code" in text:
        return f"{text.partition('. ')[0]}; with 0 workers the error shows itself"
    if "signal: Killed" in text or "exited unexpectedly" in text:
        return KILLED
    return text.strip() if "killed by signal" in text else None


def _while_taking_over(error: BaseException) -> bool:
    """Whether a worker was gone when torch asked it for the memory of a batch that it had announced."""
    files = (frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__))
    return any(file.endswith("torch/multiprocessing/reductions.py") for file in files)


def one_line(error: BaseException) -> str:
    """The error's first line that says something, or its type where there is none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, CohortError) and lines:
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _is_from_worker(message: str) -> bool:
    return FROM_WORKER in message.partition("\n")[0]


def _last_line(traceback: str) -> str:
    """The message at the end of a traceback, without the name of a LoadingError in front."""
    line = traceback.rstrip().rpartition("\n")[2]
    name, _, message = line.partition(": ")
    return message if name.rpartition(".")[2] == LoadingError.__name__ and message else line
