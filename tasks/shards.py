"""Batch work shard by shard on Dask: a local cluster by default, an existing one by LESIONFLOW_DASK_ADDRESS."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from dask.config import set as dask_settings
from distributed import Client, Future, as_completed

ADDRESS = "LESIONFLOW_DASK_ADDRESS"
Item = TypeVar("Item")

# Dask has its workers give back freed memory at once (MALLOC_TRIM_THRESHOLD_); with images of a megabyte each array
# then costs its pages anew, and ingestion took twice as long. Left out here; the other variables are Dask's own.
SETTINGS: dict[str, Any] = {
    "distributed.worker.daemon": False,
    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1},
}


def shards(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """`items` in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while shard := list(islice(iterator, size)):
        yield shard


def map_shards(function: Callable[[Any], Any], shards: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """(position, answer) of `function` over `shards`, in the order in which they finish.

    One shard is done in this process: a cluster would cost more than it saves. Dask is called straight from inside one
    Prefect task (docs/decisions/dask.md).
    """
    if len(shards) <= 1:
        yield from ((position, function(shard)) for position, shard in enumerate(shards))
        return
    with dask_settings(SETTINGS), cluster_client(len(shards)) as client:
        futures = {client.submit(function, shard, pure=False): position for position, shard in enumerate(shards)}
        for future, answer in as_completed(futures, with_results=True):
            yield futures[future], answer


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
    with dask_settings(SETTINGS), cluster_client(len(shards), workers) as client:
        shared = client.scatter(common, broadcast=True, hash=False)
        answer, pending = first, deque[Future]()
        for shard in shards:
            answer = client.submit(record, shared, client.submit(read, shared, shard, pure=False), answer, pure=False)
            pending.append(answer)
            if len(pending) > 2 * max(workers, len(client.ncores())):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def cluster_client(shards: int, most: int | None = None) -> Client:
    """A client of the cluster that the environment names, or of a local one with at most a process a core."""
    if address := os.environ.get(ADDRESS):
        return Client(address)
    workers = min(most or os.cpu_count() or 1, shards)
    return Client(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=logging.CRITICAL
    )
