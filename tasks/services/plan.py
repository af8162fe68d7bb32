"""What `lesionflow ui` runs: each service's command, environment and address."""

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.gpus import gpu_names
from tasks.reuse import PROJECT
from tasks.services.service import Service
from tasks.services.users import WORKERS
from tasks.workspace import VARIABLE as WORKSPACE
from tasks.workspace import Workspace

LOOPBACK = "127.0.0.1"
ROOT, TRAINING_POOL, COHORTS = "LESIONFLOW_ROOT", "LESIONFLOW_TRAINING_POOL", "LESIONFLOW_COHORTS"
BACKEND = "MLFLOW_BACKEND_STORE_URI"
CPU, GPU = "cpu", "gpu"
SECONDS_FOR_FLOW_RUNS = 200.0  # a worker waits 150 for checkpoints, and takes a moment to say goodbye
KEPT_DAYS = 180


@dataclass(frozen=True)
class Ports:
    """Where the services listen on loopback."""

    prefect: int
    mlflow: int
    browser: int

    def named(self) -> dict[str, int]:
        """By service."""
        return {"prefect": self.prefect, "mlflow": self.mlflow, "browser": self.browser}


@dataclass(frozen=True)
class Pool:
    """A Prefect work pool of processes on this machine; `limit` flow runs at a time, None for any number."""

    name: str
    limit: int | None = None


def pools() -> list[Pool]:
    """One for what needs no GPU, and one with a place for each GPU where there are any."""
    gpus = len(gpu_names())
    return [Pool(CPU), *([Pool(GPU, gpus)] if gpus else [])]


@dataclass(frozen=True)
class Plan:
    """The services of one workspace."""

    workspace: Workspace
    ports: Ports
    pools: Sequence[Pool]
    cohorts: Sequence[str] = ()

    @property
    def prefect(self) -> str:
        """Prefect's address."""
        return f"http://{LOOPBACK}:{self.ports.prefect}"

    @property
    def mlflow(self) -> str:
        """MLflow's address."""
        return f"http://{LOOPBACK}:{self.ports.mlflow}"

    @property
    def browser(self) -> str:
        """The results browser's address."""
        return f"http://{LOOPBACK}:{self.ports.browser}"

    @property
    def backend(self) -> str:
        """The database behind MLflow's server: the workspace's, unless the environment names another."""
        return os.environ.get(BACKEND) or self.workspace.own_tracking_uri

    @property
    def tracking_uri(self) -> str:
        """What MLflow's clients are to use: the workspace's file at first hand, any other database by the server."""
        return self.workspace.own_tracking_uri if self.backend == self.workspace.own_tracking_uri else self.mlflow

    @property
    def training_pool(self) -> str:
        """Where the training deployments run."""
        return os.environ.get(TRAINING_POOL) or (GPU if any(pool.name == GPU for pool in self.pools) else CPU)

    def environment(self) -> dict[str, str]:
        """What every service finds in its environment."""
        inherited = {
            name: value for name, value in os.environ.items() if name != "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"
        }
        defaults = {  # Prefect throws away old events by itself, old flow runs only when told
            "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
            "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(KEPT_DAYS * 24 * 3600),
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",
        }
        return {
            **defaults,
            **inherited,
            WORKSPACE: str(self.workspace.root),
            ROOT: str(PROJECT),
            TRAINING_POOL: self.training_pool,
            "PREFECT_API_URL": f"{self.prefect}/api",
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes that serve language models
            "PYTHONUNBUFFERED": "1",
        }

    @property
    def _workers(self) -> Path:
        return self.workspace.root / WORKERS

    def servers(self) -> list[Service]:
        """Prefect, MLflow and the results browser."""
        return [self._prefect_server(), self._mlflow_server(), self._browser()]

    def workers(self) -> list[Service]:
        """One for each pool."""
        return [self._worker(pool) for pool in self.pools]

    def _prefect_server(self) -> Service:
        command = (_tool("prefect"), "server", "start", "--host", LOOPBACK, "--port", str(self.ports.prefect))
        return Service(
            "prefect", command, self.environment(), self.prefect, f"{self.prefect}/api/health", self._workers
        )

    def _mlflow_server(self) -> Service:
        artifacts = str(self.workspace.root / "mlflow-artifacts")
        command = (_tool("mlflow"), "server", "--host", LOOPBACK, "--port", str(self.ports.mlflow), "--workers", "1")
        stores = ("--backend-store-uri", self.backend, "--artifacts-destination", artifacts)
        return Service(
            "mlflow", command + stores, self.environment(), self.mlflow, f"{self.mlflow}/health", self._workers
        )

    def _browser(self) -> Service:
        command = (sys.executable, "-m", "uvicorn", "--factory", "tasks.browser.app:create_app", "--host", LOOPBACK)
        options = ("--port", str(self.ports.browser), "--app-dir", str(PROJECT), "--no-access-log")
        known = os.environ.get(COHORTS, "").split(os.pathsep)
        cohorts = [str(Path(cohort).resolve()) if "://" not in cohort else cohort for cohort in self.cohorts]
        environment = {**self.environment(), COHORTS: os.pathsep.join(filter(None, [*cohorts, *known]))}
        nobody = self.workspace.root / "services" / "nobody"
        return Service("browser", command + options, environment, self.browser, f"{self.browser}/", nobody)

    def _worker(self, pool: Pool) -> Service:
        name = f"{socket.gethostname()}-{pool.name}"
        command = (sys.executable, "-m", "tasks.services.worker", pool.name, "--name", name)
        environment = {**self.environment(), "PYTHONPATH": _with_project(os.environ.get("PYTHONPATH", ""))}
        return Service(f"worker-{pool.name}", command, environment, seconds_to_stop=SECONDS_FOR_FLOW_RUNS)


def _tool(name: str) -> str:
    """A command of this Python environment."""
    return str(Path(sys.executable).with_name(name))


def _with_project(path: str) -> str:
    return os.pathsep.join(filter(None, [str(PROJECT), path]))
