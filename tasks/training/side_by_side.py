"""Several trainings side by side, each on its share of the machine."""

import contextvars
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from typing import Any, NamedTuple

from tasks.engine.job import TrainingJob
from tasks.errors import MEANT_FOR_A_PERSON, TrainingStoppedError
from tasks.training.launch import stop_running
from tasks.training.placement import share
from tasks.training.train import train_tracked

Outcome = dict[str, Any] | Exception


class Planned(NamedTuple):
    """A training to be done, and the tags of its MLflow run."""

    key: str
    job: TrainingJob
    tags: dict[str, str]


def trained_side_by_side(trainings: Sequence[Planned], parent: str, parallel: int) -> Iterator[tuple[int, Outcome]]:
    """The number of each training in the order given, and its answer or its failure, as they end.

    `parallel` of them run at a time, all of one number of devices; MLflow keeps each as a run below `parent`.

    Raises:
        TrainingStoppedError: a signal ended one, and so all.
    """
    count = min(parallel, len(trainings))
    stopping = threading.Event()
    free: SimpleQueue[int] = SimpleQueue()
    for slot in range(count):
        free.put(slot)

    def train(planned: Planned) -> Outcome:
        slot = free.get()
        try:
            return trained(planned, parent, share(slot, count, planned.job.devices), stopping)
        finally:
            free.put(slot)

    if count <= 1:  # in this thread, where an interrupt reaches the training at once
        yield from ((number, train(planned)) for number, planned in enumerate(trainings))
        return
    with ThreadPoolExecutor(count) as pool:
        futures = {
            pool.submit(contextvars.copy_context().run, train, planned): number
            for number, planned in enumerate(trainings)
        }
        try:
            yield from ((futures[future], future.result()) for future in as_completed(futures))
        except BaseException:
            stopping.set()
            stop_running()
            pool.shutdown(cancel_futures=True)
            raise


def trained(planned: Planned, parent: str, environment: dict[str, str], stopping: threading.Event) -> Outcome:
    """Train on a share of the machine; or a failure that a person can read.

    Raises:
        TrainingStoppedError: a signal ended it, or `stopping` was set.
    """

    def watch(_: dict[str, Any]) -> None:
        if stopping.is_set():
            raise TrainingStoppedError("the other trainings were stopped")

    try:
        return train_tracked(
            planned.key,
            planned.job,
            parent=parent,
            on_epoch=watch,
            register=False,
            tags=planned.tags,
            environment=environment,
        )
    except TrainingStoppedError:
        raise
    except MEANT_FOR_A_PERSON as error:
        return error
