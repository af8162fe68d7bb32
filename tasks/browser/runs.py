"""The MLflow runs that made a map set, and their addresses where an MLflow server is known."""

import json
import os
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import httpx

from tasks.browser.cohorts import MapSet
from tasks.browser.records import records
from tasks.workspace import current_workspace

PATIENCE, FRESH_SECONDS = 1.0, 30.0
STEPS = {"localize": ("Localisation", "maps"), "train": ("Training", "model_version")}  # title, and MLflow's tag


@dataclass(frozen=True)
class Run:
    """An MLflow run: what it did, its id, and its page or nothing."""

    title: str
    run_id: str
    address: str = ""


def runs_of(maps: MapSet, linked: bool) -> list[Run]:
    """The run that made the maps and the one that trained their model, as far as known; `linked`: with addresses."""
    server = mlflow_server() if linked else ""
    moment, found = int(time.monotonic() / FRESH_SECONDS), []
    for step, (title, tag) in STEPS.items():
        value = maps.name if tag == "maps" else str(maps.maps.attrs.get("model", ""))
        run_id = recorded_run(step, value)
        known = asked(server, run_id, f"tags.step = '{step}' and tags.{tag} = '{value}'", moment) if server else None
        if known or run_id:
            found.append(Run(title, known[1], page(server, *known)) if known else Run(title, run_id))
    return found


def mlflow_server() -> str:
    """The address of the MLflow server that is running, or nothing."""
    named = os.environ.get("MLFLOW_TRACKING_URI", "")
    try:
        services = json.loads((current_workspace().root / "services.json").read_text())
    except (OSError, ValueError):
        services = {}
    address = str(services.get("mlflow") or named) if isinstance(services, dict) else named
    return address.rstrip("/") if address.startswith(("http://", "https://")) else ""


def page(server: str, experiment: str, run_id: str) -> str:
    """Where MLflow shows a run."""
    return f"{server}/#/experiments/{experiment}/runs/{run_id}"


def recorded_run(step: str, value: str) -> str:
    """The newest run that the workspace's records name for a map set, or for a model."""
    answers = (record.answer for record in records(step))
    made = (answer for answer in answers if value == answer.get("model_version") or value in answer.get("maps", ()))
    return next((str(answer["run_id"]) for answer in made if answer.get("run_id")), "")


@lru_cache(maxsize=256)
def asked(server: str, run_id: str, tags: str, _moment: int) -> tuple[str, str] | None:
    """(experiment, run) as the server knows it: the run of this id, else the newest with these tags."""
    try:
        with httpx.Client(base_url=f"{server}/api/2.0/mlflow/", timeout=PATIENCE) as client:
            return (_by_id(client, run_id) if run_id else None) or _by_tags(client, tags)
    except (httpx.HTTPError, ValueError):
        return None


def _by_id(client: httpx.Client, run_id: str) -> tuple[str, str] | None:
    return _named(client.get("runs/get", params={"run_id": run_id}).json().get("run"))


def _by_tags(client: httpx.Client, tags: str) -> tuple[str, str] | None:
    experiments = client.get("experiments/search", params={"max_results": 100}).json().get("experiments", [])
    query = {
        "experiment_ids": [one["experiment_id"] for one in experiments],
        "filter": tags,
        "max_results": 1,
        "order_by": ["attributes.start_time DESC"],
    }
    return _named(next(iter(client.post("runs/search", json=query).json().get("runs", [])), None))


def _named(run: dict[str, Any] | None) -> tuple[str, str] | None:
    return (str(run["info"]["experiment_id"]), str(run["info"]["run_id"])) if run else None
