"""What the tests of the engine share: toy systems that the ranks know too, a small cohort, jobs on it."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import tests.toys.classifier
import tests.toys.gan
import tests.toys.segmenter  # noqa: F401 registers
from models.registry import OWN_SYSTEMS, build
from storage.cohort import Cohort
from storage.ingestion import ingest
from storage.sources import open_source
from tasks.engine.job import TrainerSettings, TrainingJob
from tasks.reuse import file_digest, write_json

ROOT = Path(__file__).parents[3]
MakeJob = Callable[..., TrainingJob]


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training processes import the toys by these variables."""
    monkeypatch.setenv(OWN_SYSTEMS, "tests.toys.classifier,tests.toys.gan,tests.toys.segmenter")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """60 simulated fundus photographs of 32 pixels."""
    path = tmp_path_factory.mktemp("cohort") / "fundus"
    ingest(open_source("sim:fundus?cases=60&size=32&seed=2"), path)
    return Cohort.open(path)


@pytest.fixture
def make_job(cohort: Cohort, tmp_path: Path) -> MakeJob:
    """A job in a folder of its own: `make_job(name, system, config, devices=…, **trainer settings)`."""
    return lambda name, system, config=None, devices=1, **trainer: described(
        cohort, tmp_path / name, system, config or {}, devices, trainer
    )


def described(
    cohort: Cohort, folder: Path, system: str, config: dict[str, Any], devices: int, trainer: dict[str, Any]
) -> TrainingJob:
    config = {**config, "network": {"size": 32, "in_channels": 3, **config.get("network", {})}}
    settings = {"max_epochs": 3, "batch_size": 8, "deterministic": True, "sample_epochs": 0, **trainer}
    job = TrainingJob(
        cohort=str(cohort.path),
        snapshot=cohort.snapshot,
        system=system,
        config=build(system, config).config.model_dump(mode="json"),
        target="grade",
        trainer=TrainerSettings(**settings),
        seed=3,
        devices=devices,
        folder=folder,
    )
    folder.mkdir()
    write_json(job.file, job.model_dump(mode="json"))
    return job


def weights_of(job: TrainingJob) -> str:
    """The digest of the final weights."""
    return file_digest(job.folder / "model" / "model.safetensors")


def epochs_of(job: TrainingJob) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.folder / "epochs.jsonl").read_text().splitlines()]


def wait_for(what: Callable[[], Any], seconds: float = 240) -> Any:
    """The first thing that `what` answers; fails where nothing comes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    pytest.fail(f"nothing came within {seconds} s")


@pytest.fixture
def no_orphans(tmp_path: Path) -> Iterator[None]:
    """Whatever a test started has ended a while after it."""
    yield
    mine = psutil.Process().pid

    def left() -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                text = " ".join([*process.cmdline(), *process.environ().values()])
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            if str(tmp_path) in text and process.pid != mine:
                found.append(process.pid)
        return found

    wait_for(lambda: not left(), 30)
