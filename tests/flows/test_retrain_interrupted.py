"""`lesionflow retrain` killed at each of its steps and given again: it ends as if nobody had disturbed it."""

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from storage.cohort import Cohort
from tasks.workspace import VARIABLE
from tests.toys.spots import SIDE, TABLE, add_photographs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRAINING = [
    "--epochs",
    "6",
    "--set",
    "network.width=0.1",
    "--set",
    "network.head=[8]",
    "--set",
    "trainer.batch_size=16",
]
SETTINGS = [*TRAINING, "--localize", "max_iterations=2", "--radiomics", "min_pixels=12", "--metric", "mse"]
SEED = 0


@dataclass(frozen=True)
class Place:
    """A folder with photographs, their cohort and a workspace."""

    root: Path

    @property
    def cohort(self) -> Path:
        return self.root / "cohort"

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    def command(self, *arguments: str | Path) -> subprocess.Popen[str]:
        environment = {**os.environ, VARIABLE: str(self.workspace), "PYTHONPATH": os.pathsep.join(sys.path)}
        environment.pop("MLFLOW_TRACKING_URI", None)
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "--workspace", str(self.workspace), *map(str, arguments)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str | Path) -> None:
        process = self.command(*arguments)
        told = process.communicate(timeout=400)[1]
        assert process.returncode == 0, told

    def retrain(self, *more: str | Path) -> subprocess.Popen[str]:
        return self.command("retrain", self.cohort, self.root / "photos", *SETTINGS, *more)


def prepared(root: Path) -> Place:
    """Photographs of which half are in the cohort."""
    place, photos = Place(root), root / "photos"
    add_photographs(photos, "test", 40, seed=1)
    add_photographs(photos, "validation", 12, seed=2)
    add_photographs(photos, "train", 24, seed=3)
    options = ["--size", str(SIDE), "--no-crop", "--labels", photos / TABLE, "--file-column", "image"]
    options += ["--patient-column", "patient", "--split-column", "split", "--label", "grade=grade"]
    place.run("ingest", photos, place.cohort, *options)
    add_photographs(photos, "train", 40, seed=4)
    return place


def ending(place: Place) -> dict[str, object]:
    """What a retraining is for: the champion by its weights, its maps and features, the decisions, by content."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place.workspace / 'mlflow.db'}")
    champion = client.get_model_version_by_alias("iterative-refinement", "champion")
    cohort = Cohort.open(place.cohort)
    name = next(name for name in cohort.map_names() if name.endswith("/S"))
    maps = cohort.maps(name)
    digest = hashlib.sha256(np.stack([maps.saliency(case) for case in range(len(cohort))]).tobytes()).hexdigest()
    features = pd.read_parquet(next((place.workspace / "features").glob("*.parquet")))
    decisions = client.search_runs(["1"], "tags.step = 'promotion' and attributes.status = 'FINISHED'")
    return {
        "weights": client.get_run(champion.run_id).data.tags["model_version"],
        "version": champion.version,
        "maps": cohort.map_names(),
        "saliency": digest,
        "features": hashlib.sha256(features.to_csv(index=False).encode()).hexdigest(),
        "decisions": [run.data.tags["decision"] for run in decisions],
        "cases": len(cohort),
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    place = prepared(tmp_path_factory.mktemp("undisturbed"))
    process = place.retrain()
    told = process.communicate(timeout=600)[1]
    assert process.returncode == 0, told
    return ending(place)


def marks(place: Place) -> set[tuple[str, str]]:
    """Step and status of the runs that MLflow has."""
    file = place.workspace / "mlflow.db"
    if not file.exists():
        return set()
    query = "select t.value, r.status from tags t join runs r using (run_uuid) where t.key = 'step'"
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=1)) as database:
            return set(database.execute(query).fetchall())
    except sqlite3.OperationalError:  # locked, or not laid out yet
        return set()


def begun(step: str) -> Callable[[Place], bool]:
    return lambda place: (step, "RUNNING") in marks(place)


def finished(step: str) -> Callable[[Place], bool]:
    return lambda place: (step, "FINISHED") in marks(place)


def has_checkpoint(place: Place) -> bool:
    return any(place.workspace.glob("runs/*/stages/*/*.ckpt"))


MOMENTS: dict[str, Callable[[Place], bool]] = {
    "the ingestion has begun": begun("ingest"),
    "the training has a checkpoint": has_checkpoint,
    "the training is finished": finished("train"),
    "the maps to compare are being made": begun("localize"),
    "the decision is being written": begun("promotion"),
    "the decision is written": finished("promotion"),
    "the features are being measured": begun("radiomics"),
    "the end is being written": begun("retrain"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_when(moment: str, undisturbed: dict[str, object], tmp_path: Path):
    place = prepared(tmp_path)
    process = place.retrain()
    wait_until(MOMENTS[moment], place, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert_nothing_is_half_done(place)
    answer = tmp_path / "answer.json"
    again = place.retrain("--json", answer)
    told = again.communicate(timeout=400)[1]
    assert again.returncode == 0, told
    assert ending(place) == undisturbed
    assert json.loads(answer.read_text())["champion"] == 1
    assert_no_process_is_left(place)


def test_killed_at_random_moments_again_and_again(undisturbed: dict[str, object], tmp_path: Path):
    place, rng = prepared(tmp_path), random.Random(SEED)
    for _ in range(6):
        process = place.retrain()
        time.sleep(rng.uniform(4, 40))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert_nothing_is_half_done(place)
    last = place.retrain()
    told = last.communicate(timeout=600)[1]
    assert last.returncode == 0, told
    assert ending(place) == undisturbed
    assert_no_process_is_left(place)


def wait_until(moment: Callable[[Place], bool], place: Place, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 400
    while not moment(place):
        assert process.poll() is None, f"it ended too early: {process.communicate()[1]}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_nothing_is_half_done(place: Place) -> None:
    """The cohort opens, and the champion, if there is one, is a whole model that a decision speaks of."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if Cohort.exists(place.cohort):
        cohort = Cohort.open(place.cohort)
        assert len(cohort) == len(cohort.table)
    if not marks(place):
        return
    client = MlflowClient(f"sqlite:///{place.workspace / 'mlflow.db'}")
    try:
        champion = client.get_model_version_by_alias("iterative-refinement", "champion")
    except MlflowException:
        return
    assert client.get_run(champion.run_id).info.status == "FINISHED"
    assert finished("promotion")(place)


def assert_no_process_is_left(place: Place) -> None:
    deadline = time.monotonic() + 30
    while left := list(processes_of(place)):
        assert time.monotonic() < deadline, [process.cmdline() for process in left]
        time.sleep(0.2)


def processes_of(place: Place) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if process.environ().get(VARIABLE) == str(place.workspace) and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
