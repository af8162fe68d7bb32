"""Work pools and deployments on a Prefect server that has just come up."""

import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tasks.reuse import PROJECT, write_json
from tasks.services.errors import BusyError, ServicesError
from tasks.services.lifeline import end_with
from tasks.services.plan import CPU, ROOT, TRAINING_POOL, Pool
from tasks.workspace import current_workspace

SECONDS = 30
BUSY, BUSY_PAUSES = 503, (1.0, 3.0, 10.0)  # seconds
LOOK_SECONDS = 0.3
DECLARATION = PROJECT / "prefect.yaml"
KEPT = ("schedule", "active", "parameters", "slug")
Schedules = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Server:
    """Prefect's API at `address`, as far as it is needed here."""

    address: str

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer; None where there is none, or no such thing, or it is there already.

        A server whose database is busy says 503 and has done nothing: it is asked again.

        Raises:
            ServicesError: the server refused, or did not answer.
        """
        for pause in BUSY_PAUSES:
            try:
                return self._ask_once(method, path, body)
            except BusyError:
                time.sleep(pause)
        return self._ask_once(method, path, body)

    def _ask_once(self, method: str, path: str, body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            if error.code in (404, 409):
                return None
            said = error.read().decode(errors="replace")[:300]
            kind = BusyError if error.code == BUSY else ServicesError
            raise kind(f"Prefect refused {method} {path}: {error}: {said}") from error
        except OSError as error:
            raise ServicesError(f"Prefect does not answer on {self.address}: {error}") from error
        return json.loads(text) if text else None

    def deployment(self, name: str) -> dict[str, Any] | None:
        """A deployment, which has the name of its flow."""
        found: dict[str, Any] | None = self.ask("GET", f"/deployments/name/{name}/{name}")
        return found


def make_pools(server: Server, pools: Sequence[Pool]) -> None:
    """Make the work pools that are missing, and set the limits of all."""
    for pool in pools:
        wanted = {"concurrency_limit": pool.limit}
        if server.ask("POST", "/work_pools/", {"name": pool.name, "type": "process", **wanted}) is None:
            server.ask("PATCH", f"/work_pools/{pool.name}", wanted)


def deploy_all(
    server: Server, environment: Mapping[str, str], folder: Path, goes_on: Callable[[], bool] = lambda: True
) -> None:
    """Deploy what `prefect.yaml` declares, unless the server has it already; schedules stay as people have set them.

    `prefect deploy` sets schedules back to the file's and removes all others: so they are kept in `folder` meanwhile,
    where the next start finds them if this process is killed, or stops because `goes_on` says no.

    Raises:
        ServicesError: it failed; the message is its last line.
    """
    names = [declared["name"] for declared in yaml.safe_load(DECLARATION.read_text())["deployments"]]
    found = {name: server.deployment(name) for name in names}
    record, rescue = folder / "deployed.json", folder / "schedules.json"
    digest = declared_digest(environment)
    if all(found.values()) and record.exists() and json.loads(record.read_text()) == digest and not rescue.exists():
        return
    if not rescue.exists():
        write_json(rescue, {name: entry["schedules"] for name, entry in found.items() if entry})
    run_deploy(environment, folder / "deploy.log", goes_on)
    put_back(server, json.loads(rescue.read_text()))
    rescue.unlink()
    write_json(record, digest)


def run_deploy(environment: Mapping[str, str], log: Path, goes_on: Callable[[], bool] = lambda: True) -> None:
    """`prefect deploy --all`; what it says goes to `log`."""
    command = [str(Path(sys.executable).with_name("prefect")), "--no-prompt", "deploy", "--all"]
    end_with_this = partial(end_with, os.getpid())
    with log.open("w") as opened:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=dict(environment), stdout=opened, stderr=opened, preexec_fn=end_with_this
        )
        while process.poll() is None and goes_on():
            time.sleep(LOOK_SECONDS)
        process.terminate()
    if process.wait():
        lines = [line for line in log.read_text().splitlines() if line.strip()]
        raise ServicesError(f"the deployments of {DECLARATION} were not made: {lines[-1] if lines else ''} ({log})")


def put_back(server: Server, former: Schedules) -> None:
    """Set each deployment's schedules to what they were."""
    for name, schedules in former.items():
        if (deployment := server.deployment(name)) is None:
            continue
        path = f"/deployments/{deployment['id']}/schedules"
        by_slug = {entry["slug"]: entry["id"] for entry in deployment["schedules"] if entry["slug"]}
        known = [kept(entry) for entry in deployment["schedules"]]
        for entry in schedules:
            if entry["slug"] in by_slug:
                server.ask("PATCH", f"{path}/{by_slug[entry['slug']]}", kept(entry))
            elif kept(entry) not in known:
                server.ask("POST", path, [kept(entry)])


def kept(schedule: Mapping[str, Any]) -> dict[str, Any]:
    """What a person sets of a schedule."""
    return {key: schedule[key] for key in KEPT}


def declared_digest(environment: Mapping[str, str]) -> str:
    """Of all that decides what is deployed: the declaration, the flows, the checkout and the training pool."""
    digest = hashlib.sha256()
    for file in [DECLARATION, *sorted((PROJECT / "flows").glob("*.py"))]:
        digest.update(file.read_bytes())
    digest.update(f"{environment[ROOT]} {environment[TRAINING_POOL]}".encode())
    return digest.hexdigest()


def main() -> None:
    """`python -m tasks.services.deployment`: the pool `cpu` and all deployments, on the server of PREFECT_API_URL."""
    environment = {ROOT: str(PROJECT), TRAINING_POOL: CPU, **os.environ}
    server, folder = Server(os.environ["PREFECT_API_URL"]), current_workspace().root / "services"
    make_pools(server, [Pool(CPU)])
    deploy_all(server, environment, folder)


if __name__ == "__main__":
    main()
