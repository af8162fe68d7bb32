"""Weeks of scheduled retrainings in an hour, with kills: the champion is valid all along, nothing piles up unexplained.

Runs are scheduled faster than they end, so that there is always one that waits for its turn; it asks every 3 seconds.

LESIONFLOW_SOAK_RUNS says how many runs (200); `soak.json` in the test's folder has the figures, printed as well (`-s`).
"""

import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from storage.cohort import Cohort
from tasks.services.errors import ServicesError
from tests.services.processes import FINAL, Services, eventually, running_services
from tests.services.retraining import Retraining
from tests.services.test_retrain_faults import processes_with
from tests.toys.spots import add_photographs

RUNS = int(os.environ.get("LESIONFLOW_SOAK_RUNS", "200"))
INTERVAL_SECONDS = 10
SECONDS_BETWEEN_KILLS = (40, 120)
QUICK_TO_ASK = {"PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "3", "PREFECT_WORKER_QUERY_SECONDS": "3"}
RUNS_BETWEEN_DATA = 25
SEED = 0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]


@dataclass
class Soak:
    """What was done to it, and what was seen."""

    made: Retraining
    kills: Counter[str] = field(default_factory=Counter)
    champions: list[int] = field(default_factory=list)
    batches: int = 0
    sizes: list[dict[str, float]] = field(default_factory=list)

    @property
    def services(self) -> Services:
        return self.made.services

    def states(self) -> Counter[str]:
        """How many flow runs are in which state."""
        found, page = Counter[str](), 0
        wanted = {"flow_runs": {"deployment_id": {"any_": [self.services.api.deployment("retrain")["id"]]}}}
        while runs := self.services.api.ask("POST", "/flow_runs/filter", {**wanted, "limit": 200, "offset": page}):
            found.update(run["state_type"] for run in runs)
            page += len(runs)
        return found

    def ended(self) -> int | None:
        """How many flow runs have ended; None where the server is too busy to say."""
        try:
            return sum(count for state, count in self.states().items() if state in FINAL)
        except ServicesError:
            return None

    def add_data(self) -> None:
        self.batches += 1
        add_photographs(self.made.photos, "train", 24, seed=100 + self.batches)

    def kill(self, rng: random.Random) -> None:
        what = rng.choice(["flow run", "flow run", "worker", "server", "mlflow"])
        self.kills[what] += 1
        match what:
            case "flow run":
                for process in processes_with(self.services, "flow_engine") or processes_with(
                    self.services, "flow-run"
                ):
                    process.send_signal(signal.SIGKILL)
            case "worker":
                self.services.kill_worker()
                self.services.start_worker()
            case "server":
                self.services.restart_server()
            case "mlflow":
                self.services.mlflow.kill()
                self.services.mlflow.start()
                assert eventually(lambda: self.services.mlflow.answers, 180)

    def look(self) -> None:
        """The champion only ever moves to a version that was promoted, and is a whole model."""
        champion = self.made.champion()
        if champion is None:
            assert not self.champions
            return
        if not self.champions or self.champions[-1] != champion:
            self.champions.append(champion)
        version = self.made.mlflow.get_model_version(self.made.name, str(champion))
        assert self.made.mlflow.get_run(version.run_id).info.status == "FINISHED"
        assert self.made.mlflow.list_artifacts(version.run_id, "model")
        assert len(Cohort.open(self.made.cohort).table)

    def measure(self, runs: int) -> None:
        root = self.services.root
        parts = {part.name: megabytes(part) for part in sorted(root.iterdir())} | {
            "cohort": megabytes(self.made.cohort)
        }
        memory = {
            service: psutil.Process(running.process.pid).memory_info().rss / 1e6
            for service, running in (("server", self.services.server), ("worker", self.services.worker))
            if running.process is not None and psutil.pid_exists(running.process.pid)
        }
        self.sizes.append({"ended": runs, **parts, **{f"{name} memory": size for name, size in memory.items()}})
        print(json.dumps({key: round(value, 1) for key, value in self.sizes[-1].items()}), flush=True)


def megabytes(path: Path) -> float:
    """What a file or folder takes."""
    files = [path] if path.is_file() else path.rglob("*")
    total = 0
    for file in files:
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total / 1e6


def test_champion_is_valid_all_along_and_no_process_is_left(tmp_path: Path):
    with running_services(tmp_path / "services", QUICK_TO_ASK) as services:
        services.prefect("deploy", "--all")
        services.start_worker()
        soak = Soak(Retraining(services, tmp_path, "spots", epochs=2))
        for split, count, seed in (("test", 30, 1), ("validation", 10, 2), ("train", 24, 3)):
            add_photographs(soak.made.photos, split, count, seed)
        schedule(soak)
        endured(soak)
        root = services.root
        unschedule(soak)
        assert soak.made.run(600) == "COMPLETED"
        soak.look()
        ending = soak.made.ending()
        assert ending["cases"] == 64 + 24 * soak.batches
        assert len(set(soak.made.decisions())) <= 2
    assert eventually(lambda: not all_processes_of(root), 60), all_processes_of(root)
    report = {"kills": soak.kills, "champions": soak.champions, "sizes": soak.sizes, "ending": ending}
    (tmp_path / "soak.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report["kills"]), soak.champions, ending["decisions"], flush=True)


def schedule(soak: Soak) -> None:
    api = soak.services.api
    entry = {"schedule": {"interval": INTERVAL_SECONDS}, "active": True, "parameters": soak.made.parameters()}
    api.ask("POST", f"/deployments/{api.deployment('retrain')['id']}/schedules", [entry])


def unschedule(soak: Soak) -> None:
    """No more runs, and none of those that wait."""
    api = soak.services.api
    deployment = api.deployment("retrain")["id"]
    for known in api.ask("GET", f"/deployments/{deployment}/schedules"):
        api.ask("DELETE", f"/deployments/{deployment}/schedules/{known['id']}")
    waiting = {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": ["SCHEDULED"]}}}
    while runs := api.ask("POST", "/flow_runs/filter", {"flow_runs": waiting, "limit": 200}):
        for run in runs:
            api.ask("DELETE", f"/flow_runs/{run['id']}")


def endured(soak: Soak) -> None:
    """Look on until enough runs have ended, adding data and killing meanwhile."""
    rng = random.Random(SEED)
    next_kill, measured, ended, moved = time.monotonic() + 120, 0, 0, time.monotonic()
    while ended < RUNS:
        soak.look()
        if (now := soak.ended()) is not None and now > ended:
            ended, moved = now, time.monotonic()
        assert time.monotonic() - moved < 900, soak.services.worker.last_lines(30)
        if ended >= (soak.batches + 1) * RUNS_BETWEEN_DATA:
            soak.add_data()
        if time.monotonic() > next_kill:
            soak.kill(rng)
            next_kill = time.monotonic() + rng.uniform(*SECONDS_BETWEEN_KILLS)
        if ended >= measured:
            soak.measure(ended)
            print(dict(soak.kills), soak.champions, flush=True)
            measured += 20
        time.sleep(3)
    soak.measure(ended)
    print(dict(soak.states()), flush=True)


def all_processes_of(root: Path) -> list[list[str]]:
    """What still runs with the workspace in its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("LESIONFLOW_WORKSPACE") == str(root) and process.status() != "zombie":
                found.append(process.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
