"""Real services for tests: Prefect's server, MLflow's server and a worker, on loopback, on free ports."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from tasks.services.deployment import Server, make_pools
from tasks.services.errors import ServicesError
from tasks.services.plan import Plan, Pool, Ports
from tasks.services.service import Running
from tasks.workspace import Workspace

ROOT = Path(__file__).parents[2]
PREFECT = str(Path(sys.executable).with_name("prefect"))
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
POOL = "cpu"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """This process's environment without what a workspace puts there."""
    ours = ("PREFECT", "MLFLOW", "LESIONFLOW")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    return {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "OMP_WAIT_POLICY": "PASSIVE", "DO_NOT_TRACK": "1"}


def eventually(holds: Callable[[], Any], seconds: float = 60) -> Any:
    """What `holds` answers once it is true; false when the time is over."""
    deadline = time.monotonic() + seconds
    while not (answer := holds()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return answer


@dataclass
class Services:
    """A Prefect server, an MLflow server and a worker; `environment` is that of their clients."""

    root: Path
    environment: dict[str, str]
    server: Running
    mlflow: Running
    worker: Running
    addresses: dict[str, str]

    @property
    def api(self) -> Server:
        """Prefect's API."""
        return Server(self.environment["PREFECT_API_URL"])

    @property
    def logs(self) -> dict[str, str]:
        """What each service has said."""
        return {file.stem: file.read_text(errors="replace") for file in (self.root / "services").glob("*.log")}

    def prefect(self, *arguments: str) -> str:
        """What the `prefect` command prints; it must succeed."""
        command = [PREFECT, "--no-prompt", *arguments]
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self) -> None:
        """Both servers, once they answer, and the work pool."""
        for service in (self.server, self.mlflow):
            service.start()
        for service in (self.server, self.mlflow):
            assert eventually(lambda: service.answers, 180), service.last_lines()  # noqa: B023
        make_pools(self.api, [Pool(POOL)])

    def start_worker(self) -> None:
        self.worker.start()

    def kill_worker(self) -> None:
        """SIGKILL."""
        self.worker.kill()

    def restart_server(self) -> None:
        """SIGKILL to Prefect's server, and start it anew."""
        for child in psutil.Process(self.server.process.pid).children(recursive=True):
            child.kill()
        self.server.process.wait(30)
        self.server.start()
        assert eventually(lambda: self.server.answers, 180), self.server.last_lines()

    def stop(self) -> None:
        for service in (self.worker, self.mlflow, self.server):
            service.tell()
            if service.process is not None:
                service.process.wait(240)

    def start_run(self, name: str, parameters: dict[str, Any]) -> str:
        """The id of a new flow run of the deployment `name/name`."""
        return start_run(self.api, name, parameters)

    def run_deployment(self, name: str, parameters: dict[str, Any], timeout: float = 240) -> tuple[str, str]:
        """The final state of a new flow run, and its id."""
        flow_run_id = self.start_run(name, parameters)
        return self.final_state(flow_run_id, timeout), flow_run_id

    def final_state(self, flow_run_id: str, timeout: float = 240) -> str:
        """COMPLETED, FAILED, CRASHED or CANCELLED; fails with the worker's log where it takes too long."""
        return final_state(self.api, flow_run_id, timeout, self.worker)


def start_run(api: Server, name: str, parameters: dict[str, Any]) -> str:
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    made = api.ask("POST", f"/deployments/{api.deployment(name)['id']}/create_flow_run", body)
    return str(made["id"])


def state_of(api: Server, flow_run_id: str) -> str:
    return str(api.ask("GET", f"/flow_runs/{flow_run_id}")["state_type"])


def has_ended(api: Server, flow_run_id: str) -> bool:
    """False also where the server is too busy to say."""
    try:
        return state_of(api, flow_run_id) in FINAL
    except ServicesError:
        return False


def final_state(api: Server, flow_run_id: str, timeout: float, worker: Running | None = None) -> str:
    ended = eventually(lambda: has_ended(api, flow_run_id), timeout)
    assert ended, (state_of(api, flow_run_id), worker.last_lines(30) if worker else "")
    return state_of(api, flow_run_id)


@contextmanager
def running_services(root: Path, stores: dict[str, str] | None = None) -> Iterator[Services]:
    """Both servers, answering; the caller deploys and starts the worker. `stores` are variables that name databases."""
    services = planned_services(root, stores or {})
    try:
        services.start()
        yield services
    finally:
        services.stop()


def planned_services(root: Path, stores: dict[str, str]) -> Services:
    """As `lesionflow ui` would start them in the workspace `root`."""
    root.mkdir(parents=True, exist_ok=True)
    home = {"PREFECT_HOME": str(root / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with mock.patch.dict(os.environ, {**clean_environment(), **home, **stores}, clear=True):
        plan = Plan(Workspace(root), Ports(free_port(), free_port(), 0), [Pool(POOL)])
        server, mlflow, _ = (Running(service, root / "services" / f"{service.name}.log") for service in plan.servers())
        worker = Running(plan.workers()[0], root / "services" / "worker.log")
        addresses = {"prefect": plan.prefect, "mlflow": plan.mlflow}
        return Services(root, plan.environment(), server, mlflow, worker, addresses)


def deploy_probe(api: Server) -> None:
    """The flow of `probe_flow.py`, as a deployment of pool `cpu`."""
    flow = api.ask("POST", "/flows/", {"name": "probe"})
    pull = [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}]
    schema = {"type": "object", "properties": {}}
    api.ask(
        "POST",
        "/deployments/",
        {
            "name": "probe",
            "flow_id": flow["id"],
            "entrypoint": "tests/services/probe_flow.py:probe",
            "work_pool_name": POOL,
            "pull_steps": pull,
            "parameter_openapi_schema": schema,
        },
    )


@dataclass
class Receiver:
    """A webhook's receiver: what it was sent."""

    address: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    refusals: int = 0

    def waits_for(self, event: str, seconds: float = 60) -> dict[str, Any]:
        """The first message of that event."""
        assert eventually(lambda: self.of(event), seconds), self.messages
        return self.of(event)[0]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["event"] == event]


@contextmanager
def webhook_receiver() -> Iterator[Receiver]:
    """An HTTP server on loopback that keeps what is posted; it refuses the first `refusals`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            is_refused, receiver.refusals = receiver.refusals > 0, max(0, receiver.refusals - 1)
            if not is_refused:
                receiver.messages.append(body)
            self.send_response(503 if is_refused else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_address[1]}/hook")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
