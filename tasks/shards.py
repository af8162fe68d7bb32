"""Batch work shard by shard, in this process or on the Dask cluster that LESIONFLOW_DASK names (`tasks.clusters`).

A shard that raises is tried again RETRIES times; one whose worker died (memory, a crash) is tried again alone, after
the others, so that no other shard is blamed for it. What still fails is reported while the rest goes on; with `apart`
its cases are done one by one first, so that the guilty ones alone are reported.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, NoReturn, TypeVar

import cloudpickle  # type: ignore[import-untyped]
from dask.config import set as dask_settings
from distributed import Client, Future
from distributed.scheduler import KilledWorker

from storage.errors import CohortError
from tasks.clusters import cluster_client, names_cluster
from tasks.kept import Kept

RETRIES = 2
IN_FLIGHT = 3  # shards a thread of a worker: one at work, the others on their way
SHARD_PIXELS = 1 << 24
LOOK_SECONDS, LOST_SECONDS = 10.0, 120.0
HOPELESS = 32  # failures in a row from the start on: it is the job that is wrong, not a case
# Dask itself would try a shard that kills its worker again beside others, which then die with it
NOT_TWICE: dict[str, Any] = {"distributed.scheduler.allowed-failures": 0}
Item = TypeVar("Item")


class WholeJobError(CohortError):
    """What no shard can help, such as a full disk: after the retries it ends the work."""


@dataclass(frozen=True)
class Outcome:
    """What became of shard `position`, or of a `part` of it that was done by itself: `answer`, or else `error`."""

    position: int
    part: Any
    answer: Any = None
    error: Exception | None = None

    @property
    def reason(self) -> str:
        """Why it failed, in one line."""
        if isinstance(self.error, KilledWorker):
            return "its worker process was killed each time, by a crash or for want of memory"
        lines = str(self.error).strip().splitlines()
        return lines[0] if lines else type(self.error).__name__


@dataclass(frozen=True)
class _Try:
    """A shard, or a part of one, to be done; `lethal` once a worker died of it."""

    position: int
    part: Any
    attempt: int = 0
    lethal: bool = False


def shards(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """`items` in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while shard := list(islice(iterator, size)):
        yield shard


def cases_in_shard(pixels: int, most: int, of_shard: int = SHARD_PIXELS) -> int:
    """How many cases of so many pixels make a shard: `most`, or fewer where they are large."""
    return max(1, min(most, of_shard // max(1, pixels)))


def map_shards(
    function: Callable[[Any], Any], parts: Sequence[Any], workers: int | None = None
) -> Iterator[tuple[int, Any]]:
    """(position, answer) of `function` over shards, in finishing order; the first that fails for good raises.

    A single shard is done in this process.
    """
    on_cluster = len(parts) > 1 and wanted_cluster(len(parts), workers, 2)
    for outcome in _done([_Try(*part) for part in enumerate(parts)], function, workers, False, on_cluster):
        if outcome.error is not None:
            raise outcome.error
        yield outcome.position, outcome.answer


def shard_outcomes(
    function: Callable[[Any], Any],
    parts: Sequence[Any],
    *,
    workers: int | None = None,
    keep: Kept | None = None,
    apart: bool = False,
    worth: int = 2,
    patience: int | None = HOPELESS,
) -> Iterator[Outcome]:
    """What becomes of each of `parts` under `function`, in finishing order.

    `keep`: answers that an earlier run has kept are handed out first, new ones are kept; the parts are then what JSON
    can say. `apart`: parts are lists, whose items are done one by one where the whole fails. Fewer parts than `worth`
    are done in this process unless a cluster is named or several `workers` are asked for. Memory holds a few shards a
    worker, however many there are.

    Raises:
        WholeJobError: as `function` raised it, after the retries.
        Exception: what `function` raised, where the first `patience` outcomes are all failures.
    """
    known, left = _sorted_by_kept(parts, keep, apart)
    for attempt in known:
        answer = keep.read(attempt.part) if keep else None
        if answer is None:
            left.append(attempt)
        else:
            patience = None
            yield Outcome(attempt.position, attempt.part, answer[0])
    on_cluster = wanted_cluster(len(parts), workers, worth)
    for number, outcome in enumerate(_done(left, function, workers, apart, on_cluster), 1):
        if outcome.error is None:
            patience = None
            if keep:
                keep.write(outcome.part, outcome.answer)
        elif number == patience:
            raise_error(outcome)
        yield outcome


def raise_error(outcome: Outcome) -> NoReturn:
    """Raise what made a shard fail, where that speaks for all of them."""
    if outcome.error is None or isinstance(outcome.error, KilledWorker):
        raise WholeJobError(outcome.reason)
    raise outcome.error


def wanted_cluster(parts: int, workers: int | None, worth: int) -> bool:
    """Whether so many shards go to a cluster: where one is named or several workers are, or it is worth its start."""
    return names_cluster() or (workers or 1) > 1 or (workers is None and parts >= worth)


def _sorted_by_kept(parts: Sequence[Any], keep: Kept | None, apart: bool) -> tuple[list[_Try], list[_Try]]:
    """What is kept and what is to be done; a part that was taken apart before stays in pieces."""
    known: list[_Try] = []
    left: list[_Try] = []
    if keep is None or not keep.folder.exists():
        return known, [_Try(*part) for part in enumerate(parts)]
    for position, part in enumerate(parts):
        pieces = [part]
        if apart and not keep.has(part) and any(keep.has([item]) for item in part):
            pieces = [[item] for item in part]
        for piece in pieces:
            (known if keep.has(piece) else left).append(_Try(position, piece))
    return known, left


def _done(
    todo: Sequence[_Try], function: Callable[[Any], Any], workers: int | None, apart: bool, on_cluster: bool
) -> Iterator[Outcome]:
    if not (todo and on_cluster):
        yield from _here(todo, function, apart)
        return
    with dask_settings(NOT_TWICE), cluster_client(len(todo), workers) as client:
        try:
            yield from _on_cluster(client, todo, function, apart)
        except Exception as error:
            if client.status == "running":
                raise
            raise WholeJobError("the Dask scheduler is gone; the same command goes on with what is left") from error


def _here(todo: Sequence[_Try], function: Callable[[Any], Any], apart: bool) -> Iterator[Outcome]:
    waiting = deque(todo)
    while waiting:
        attempt = waiting.popleft()
        try:
            answer = function(attempt.part)
        except Exception as error:
            again = _again(attempt, error, apart)
            waiting.extendleft(reversed(again))
            if not again:
                yield Outcome(attempt.position, attempt.part, error=error)
        else:
            yield Outcome(attempt.position, attempt.part, answer)


def _on_cluster(client: Client, todo: Sequence[_Try], function: Callable[[Any], Any], apart: bool) -> Iterator[Outcome]:
    waiting, lethal = deque(todo), deque[_Try]()
    flying: dict[Future, _Try] = {}
    landed = SimpleQueue[Future]()
    code = cloudpickle.dumps(function)

    def submit(attempt: _Try) -> None:
        future = client.submit(_called, code, attempt.part, pure=False)
        flying[future] = attempt
        future.add_done_callback(landed.put)

    room, looked = 0, 0.0
    while waiting or lethal or flying:
        if waiting and time.monotonic() - looked > 1:  # workers come and go; asking takes as long as a small shard
            room, looked = IN_FLIGHT * max(1, sum(client.nthreads().values())), time.monotonic()
        while waiting and len(flying) < room:
            submit(waiting.popleft())
        if not flying:
            submit(lethal.popleft())
        future = _next(landed, client)
        attempt = flying.pop(future)
        try:
            answer = future.result()
        except Exception as error:
            if client.status != "running":
                raise
            again = _again(attempt, error, apart)
            for one in reversed(again):
                (lethal if one.lethal else waiting).appendleft(one)
            if not again:
                yield Outcome(attempt.position, attempt.part, error=error)
        else:
            yield Outcome(attempt.position, attempt.part, answer)


def _called(code: bytes, part: Any) -> Any:
    """Runs in a worker; code that it cannot load is then an error of the task, and not the end of the worker."""
    return cloudpickle.loads(code)(part)


def _next(landed: SimpleQueue[Future], client: Client) -> Future:
    """The next shard that is done, whatever became of it; without workers a line says why nothing moves."""
    lonely = 0.0
    while True:
        try:
            return landed.get(timeout=LOOK_SECONDS)
        except Empty:
            lonely = 0.0 if client.nthreads() else lonely + LOOK_SECONDS
            if lonely and not names_cluster() and lonely > LOST_SECONDS:
                raise WholeJobError("the workers are gone and do not come back") from None
            if lonely % 60 == LOOK_SECONDS:
                sys.stderr.write("waiting for a Dask worker\n")


def _again(attempt: _Try, error: Exception, apart: bool) -> list[_Try]:
    """What is to be tried after an error: the same, its parts, or nothing."""
    lethal = attempt.lethal or isinstance(error, KilledWorker)
    if attempt.attempt < RETRIES:
        return [replace(attempt, attempt=attempt.attempt + 1, lethal=lethal)]
    if isinstance(error, WholeJobError):
        raise error
    if apart and len(attempt.part) > 1:
        return [_Try(attempt.position, [item], lethal=lethal) for item in attempt.part]
    return []


def chain_shards(
    common: Any,
    shards: Sequence[Any],
    read: Callable[[Any, Any], Any],
    record: Callable[[Any, Any, Any], Any],
    first: Any,
    workers: int,
) -> Iterator[Any]:
    """Fold `record(common, read(common, shard), answer)` over `shards` from `first` on; each answer as it is there.

    Shards are read side by side and recorded one after another, in order, each where it was read: what was read never
    travels. At most two shards a worker are on their way, which bounds memory.
    """
    with cluster_client(len(shards), workers) as client:
        shared = client.scatter(common, broadcast=True, hash=False)
        answer, pending = first, deque[Future]()
        for shard in shards:
            answer = client.submit(record, shared, client.submit(read, shared, shard, pure=False), answer, pure=False)
            pending.append(answer)
            if len(pending) > 2 * max(workers, len(client.ncores())):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
