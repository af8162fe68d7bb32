"""The Dask cluster that batch work runs on, as the variable LESIONFLOW_DASK says.

unset                      processes of this machine, at most one a core
tcp://… or tls://…         a scheduler that is there
a YAML file                a cluster made for the work and taken down after it (`deployments/dask/`)

Every worker needs the same Python environment and the same paths to cohorts, models and results.
"""

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from dask.config import set as dask_settings
from distributed import Client
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from models.config import Config, validated
from models.errors import ModelError

DASK = "LESIONFLOW_DASK"
SCHEMES = ("tcp://", "tls://", "ucx://", "ws://", "wss://")
# what makes each kind of cluster; of the last two the extra of lesionflow that installs it has the kind's name
MAKERS = {
    "local": ("distributed", "LocalCluster"),
    "ssh": ("distributed", "SSHCluster"),
    "slurm": ("dask_jobqueue", "SLURMCluster"),
    "kubernetes": ("dask_kubernetes.operator", "KubeCluster"),
}
LOCAL: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.CRITICAL}

# Dask has its workers give back freed memory at once (MALLOC_TRIM_THRESHOLD_); with images of a megabyte each array
# then costs its pages anew, and ingestion took twice as long. Left out here; the other variables are Dask's own.
SETTINGS: dict[str, Any] = {
    "distributed.worker.daemon": False,
    "distributed.nanny.pre-spawn-environ": {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1},
}


class Adaptive(Config):
    """As many workers as the work at hand keeps busy, between two bounds."""

    minimum: NonNegativeInt = 0
    maximum: PositiveInt

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is more than maximum {self.maximum}")
        return self


class ClusterSettings(Config):
    """A cluster to make. `options` go to the class that makes it: LocalCluster, SSHCluster, SLURMCluster, KubeCluster.

    `workers` None: one a core (local), one a host (ssh), one (slurm, kubernetes).
    """

    cluster: Literal["local", "ssh", "slurm", "kubernetes"]
    workers: PositiveInt | Adaptive | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.cluster == "ssh":
            if self.workers is not None:
                raise ValueError("workers: ssh starts one on each host after the first; name more hosts in options")
            if len(self.options.get("hosts", ())) < 2:
                raise ValueError("options.hosts: ssh needs the scheduler's host, then a host for each worker")
        return self


def names_cluster() -> bool:
    """Whether the user has named a cluster."""
    return bool(os.environ.get(DASK))


def shared_path(path: str) -> str:
    """A path as workers in another folder can use it; an address stays as it is."""
    return path if "://" in path else str(Path(path).resolve())


def cluster_settings(file: Path) -> ClusterSettings:
    """The settings in a YAML file; ModelError where there is none or it says something else."""
    if not file.is_file():
        raise ModelError(f"{DASK} is {str(file)!r}: neither a scheduler such as tcp://host:8786 nor a YAML file")
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ModelError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} must say which cluster: local, ssh, slurm or kubernetes")
    return validated(ClusterSettings, content, where=str(file))


def maker(kind: str) -> Any:
    """The class that makes clusters of a kind; ModelError names the extra where its package is missing."""
    module, name = MAKERS[kind]
    try:
        if kind == "ssh":
            importlib.import_module("asyncssh")
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ModelError(f"a {kind} cluster needs more packages: pip install 'lesionflow[{kind}]'") from error


def make_cluster(settings: ClusterSettings) -> Any:
    """A cluster that runs, with its workers on their way; the caller closes it."""
    options = dict(settings.options)
    if settings.cluster == "local":
        options = {**LOCAL, **options}
        if settings.workers is not None:
            options["n_workers"] = settings.workers if isinstance(settings.workers, int) else settings.workers.minimum
    try:
        cluster = maker(settings.cluster)(**options)
    except ModelError:
        raise
    except Exception as error:  # each kind has its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"the {settings.cluster} cluster cannot be made: {reason}") from error
    if isinstance(settings.workers, Adaptive):
        cluster.adapt(minimum=settings.workers.minimum, maximum=settings.workers.maximum)
    elif settings.cluster in ("slurm", "kubernetes"):
        cluster.scale(settings.workers or 1)
    return cluster


@contextmanager
def cluster_client(shards: int, most: int | None = None) -> Iterator[Client]:
    """A client of the cluster that LESIONFLOW_DASK names, or of a local one of at most `most` processes.

    A local one has no more processes than `shards`. What was made here ends with the block.
    """
    named = os.environ.get(DASK, "")
    with dask_settings(SETTINGS):
        if named.startswith(SCHEMES):
            with _connected(named) as client:
                check_workers(client)
                yield client
            return
        workers = max(1, min(most or os.cpu_count() or 1, shards))
        settings = cluster_settings(Path(named)) if named else ClusterSettings(cluster="local", workers=workers)
        with make_cluster(settings) as cluster, Client(cluster) as client:
            if named:
                check_workers(client)
            yield client


def check_workers(client: Client) -> None:
    """Wait for the first worker; ModelError where it lacks this project: each task would then take a worker down."""
    # a lambda travels as code, so that nothing need be imported to receive it
    first = client.submit(lambda: __import__("tasks.shards").__name__, pure=False)
    try:
        first.result()
    except ImportError as error:
        raise ModelError(f"the Dask workers lack this project ({error}); they need the same environment") from error
    except Exception as error:  # each way to lose a scheduler has its own
        raise ModelError(f"the Dask scheduler is gone ({str(error).splitlines()[0]})") from error


def _connected(address: str) -> Client:
    try:
        return Client(address)
    except (OSError, ValueError) as error:
        raise ModelError(f"{DASK} is {address}: no Dask scheduler answers there") from error
