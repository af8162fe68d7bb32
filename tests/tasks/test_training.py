"""Training in processes of its own: failures told, kills survived."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from models.registry import build
from storage.cohort import Cohort
from storage.ingestion import ingest
from storage.sources import open_source
from tasks.errors import TrainingError
from tasks.rank import TrainerSettings, TrainingJob, label_weights
from tasks.reuse import file_digest, write_json
from tasks.training import launch, read_epochs

NETWORK = {"size": 64, "stem_stride": 1, "width": 0.1, "normalisation": "batch", "head": [8], "block5_valid": False}
LAUNCH = "import sys; from pathlib import Path; from tasks.training import *; from tasks.rank import TrainingJob\n" + (
    "if __name__ == '__main__':\n    f = Path(sys.argv[1]); launch(TrainingJob.model_validate_json(f.read_text()), f)"
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    path = tmp_path_factory.mktemp("cohort") / "fundus"
    ingest(open_source("sim:fundus?cases=40&size=64&seed=2"), path)
    return Cohort.open(path)


def job(cohort: Cohort, folder: Path, epochs: int = 6, **config: object) -> tuple[TrainingJob, Path]:
    folder.mkdir()
    described = TrainingJob(
        cohort=str(cohort.path),
        snapshot=cohort.snapshot,
        system="iterative-refinement",
        config=build("iterative-refinement", {"network": NETWORK}).config.model_dump(mode="json") | config,
        target="grade",
        trainer=TrainerSettings(max_epochs=epochs, batch_size=8),
        seed=3,
        devices=1,
        folder=folder,
    )
    return described, write_json(folder / "job.json", described.model_dump(mode="json"))


def test_sampling_weights_make_labels_equally_frequent():
    labels = np.array([0, 0, 0, 2])
    weights = label_weights(labels).numpy()
    assert weights[labels == 0].sum() == pytest.approx(weights[labels == 2].sum())


def test_failing_rank_is_told_by_its_own_exception(cohort: Cohort, tmp_path: Path):
    described, file = job(cohort, tmp_path / "run", network={**NETWORK, "size": 32})
    with pytest.raises(TrainingError, match=r"ModelError.*32"):
        launch(described, file)


def test_run_killed_between_epochs_goes_on_to_the_same_weights(cohort: Cohort, tmp_path: Path):
    undisturbed, file = job(cohort, tmp_path / "undisturbed")
    launch(undisturbed, file)
    disturbed, file = job(cohort, tmp_path / "disturbed")
    kill_after_epochs(disturbed, file, 2)
    assert not (disturbed.folder / "model").exists()
    launch(disturbed, file)
    assert [epoch["epoch"] for epoch in read_epochs(disturbed.folder)] == list(range(6))
    weights = [file_digest(run.folder / "model" / "model.safetensors") for run in (undisturbed, disturbed)]
    assert weights[0] == weights[1]


def test_images_may_be_loaded_by_workers(cohort: Cohort, tmp_path: Path):
    described, _ = job(cohort, tmp_path / "run", epochs=1)
    described = described.model_copy(update={"trainer": TrainerSettings(max_epochs=1, batch_size=8, workers=1)})
    launch(described, write_json(described.folder / "job.json", described.model_dump(mode="json")))
    assert (described.folder / "model" / "model.safetensors").exists()


def kill_after_epochs(described: TrainingJob, file: Path, epochs: int) -> None:
    """SIGKILL the launcher once `epochs` epochs and a checkpoint are there; its rank must die with it."""
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCH, file])
    deadline = time.monotonic() + 180
    while len(read_epochs(described.folder)) < epochs or not (described.folder / "checkpoints/last.ckpt").exists():
        assert launcher.poll() is None, "the launcher ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    ranks = psutil.Process(launcher.pid).children(recursive=True)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    _, alive = psutil.wait_procs(ranks, timeout=20)
    assert not alive
