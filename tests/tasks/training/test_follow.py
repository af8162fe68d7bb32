import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.cohort import Cohort
from storage.ingestion import ingest
from storage.sources import open_source
from tasks.engine.job import TrainerSettings, TrainingJob
from tasks.tracking.runs import MlflowClient, TrackedRun, tracked_run
from tasks.training.follow import Follower, epochs_so_far, followed, note_of, read_state
from tasks.workspace import Workspace

STATE = {"stage": "training", "stage_number": 1, "stages": 1, "epoch": 2, "epochs": 30, "batch": 4, "batches": 8}
RATE = {"done": 0.0833, "images_per_second": 211.6, "seconds_left": 61.2}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    path = tmp_path_factory.mktemp("cohort") / "fundus"
    ingest(open_source("sim:fundus?cases=8&size=32&seed=2"), path)
    return Cohort.open(path)


@pytest.fixture
def job(cohort: Cohort, tmp_path: Path) -> TrainingJob:
    folder = tmp_path / "run"
    (folder / "samples").mkdir(parents=True)
    return TrainingJob(
        cohort=cohort.path,
        snapshot=cohort.snapshot,
        system="iterative-refinement",
        config={},
        target="grade",
        trainer=TrainerSettings(),
        seed=0,
        devices=1,
        folder=folder,
    )


@pytest.fixture(scope="module")
def mlflow(shared_workspace: Workspace) -> Workspace:
    return shared_workspace


def epoch(number: int, stage: str = "training", **values: Any) -> dict[str, Any]:
    line = {"stage": stage, "epoch": number, "step": 8 * (number + 1), "seconds": 1.5, "images_per_second": 90.0}
    return {
        **line,
        "waiting": 0.1,
        "learning_rate": 0.01,
        "train/loss": 2.0 - number,
        "val/loss": 3.0 - number,
        **values,
    }


def write_epochs(job: TrainingJob, *lines: dict[str, Any], half: str = "") -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (job.folder / "epochs.jsonl").write_text(text + half)


def write_state(job: TrainingJob, **changes: Any) -> None:
    (job.folder / "progress.json").write_text(json.dumps({**STATE, **RATE, **changes}))


def write_sample(job: TrainingJob, name: str, brightness: float = 1.0) -> Path:
    file = job.folder / "samples" / f"{name}.npz"
    images = np.zeros((2, 3, 32, 32), np.uint8)
    maps = brightness * np.random.default_rng(0).random((2, 32, 32), np.float32)
    np.savez(file, case=[0, 3], image=images, label=np.array([0, np.nan]), score=np.array([0.2, 1.7]), saliency=maps)
    return file


def history(run: TrackedRun, metric: str) -> dict[int, float]:
    entries = run.client.get_metric_history(run.run_id, metric)
    assert len({entry.step for entry in entries}) == len(entries), "an epoch was logged twice"
    return {entry.step: entry.value for entry in entries}


def pictures(run: TrackedRun) -> list[str]:
    return sorted(Path(file.path).name for file in run.client.list_artifacts(run.run_id, "samples"))


def test_epochs_are_logged_once_each_as_their_lines_become_whole(job: TrainingJob, mlflow: Workspace):
    with tracked_run("train", {}) as run:
        follower = Follower(job, run)
        follower.look()
        write_state(job)
        write_epochs(job, epoch(0), half='{"stage": "training", "epoch": 1, "val/lo')
        follower.look()
        follower.look()
        assert history(run, "val/loss") == {0: 3.0}
        write_epochs(job, epoch(0), epoch(1))
        follower.look()
        assert history(run, "val/loss") == {0: 3.0, 1: 2.0}
        assert history(run, "step") == {0: 8, 1: 16}


def test_who_follows_anew_logs_only_what_mlflow_lacks_and_the_later_of_two_lines_counts(
    job: TrainingJob, mlflow: Workspace
):
    with tracked_run("train", {}) as run:
        write_state(job)
        write_epochs(job, epoch(0), epoch(1))
        Follower(job, run).look()
        write_epochs(job, epoch(0), epoch(1), epoch(1, **{"val/loss": 1.9}), epoch(2))
        handed: list[dict[str, Any]] = []
        again = Follower(job, run, handed.append)
        again.look()
        again.look()
        assert history(run, "val/loss") == {0: 3.0, 1: 2.0, 2: 1.0}
    assert [line["val/loss"] for line in handed] == [3.0, 1.9, 1.0]


def test_names_of_several_stages_are_told_apart_and_their_epochs_count_on(job: TrainingJob, mlflow: Workspace):
    first = [epoch(number, "autoencoder") for number in range(3)]
    second = [epoch(number, "adversarial", step=24 + 8 * (number + 1), critic=-0.5) for number in range(2)]
    with tracked_run("train", {}) as run:
        write_epochs(job, *first)
        follower = Follower(job, run)
        follower.look()
        assert history(run, "autoencoder/seconds") == history(run, "seconds") == {}, "the stages were not known yet"
        write_state(job, stages=2)
        follower.look()
        write_epochs(job, *first, *second)
        follower.look()
        assert list(history(run, "autoencoder/val/loss")) == [0, 1, 2]
        assert history(run, "adversarial/critic") == {3: -0.5, 4: -0.5}
        assert history(run, "val/loss") == {}


def test_every_epoch_is_handed_on_once_even_if_that_raises(job: TrainingJob, mlflow: Workspace):
    handed = []

    def prune(line: dict[str, Any]) -> None:
        handed.append(line["epoch"])
        if line["epoch"] == 1:
            raise StopIteration

    with tracked_run("train", {}) as run:
        write_state(job)
        write_epochs(job, *[epoch(number) for number in range(4)])
        follower = Follower(job, run, prune)
        with pytest.raises(StopIteration):
            follower.look()
        assert list(history(run, "val/loss")) == [0, 1, 2, 3]
        follower.look()
    assert handed == [0, 1, 2, 3]


def test_values_that_are_no_numbers_are_logged_as_such(job: TrainingJob, mlflow: Workspace):
    with tracked_run("train", {}) as run:
        write_state(job)
        write_epochs(job, epoch(0, **{"val/loss": float("nan"), "val/kappa": None}))
        Follower(job, run).look()
        assert np.isnan(history(run, "val/loss")[0])
        assert history(run, "val/kappa") == {}


def test_samples_are_logged_as_pictures_when_they_are_whole_and_again_when_written_anew(
    job: TrainingJob, mlflow: Workspace
):
    with tracked_run("train", {}) as run:
        follower = Follower(job, run)
        whole = write_sample(job, "training-0000").read_bytes()
        (job.folder / "samples" / "training-0005.npz").write_bytes(whole[: len(whole) // 2])
        (job.folder / "samples" / ".training-0007.npz.partial.npz").write_bytes(whole)
        follower.look()
        assert pictures(run) == ["training-0000.png"]
        write_sample(job, "training-0005")
        follower.look()
        assert pictures(run) == ["training-0000.png", "training-0005.png"]
        before = (job.folder / "samples" / "training-0005.png").read_bytes()
        write_sample(job, "training-0005", brightness=-1.0)
        follower.look()
        assert (job.folder / "samples" / "training-0005.png").read_bytes() != before


def test_no_cut_of_a_file_is_an_error(job: TrainingJob, tmp_path: Path):
    write_state(job)
    write_epochs(job, epoch(0), epoch(1))
    sample = write_sample(job, "training-0000").read_bytes()
    lines, state = (job.folder / "epochs.jsonl").read_bytes(), (job.folder / "progress.json").read_bytes()
    whole = lines.index(b"\n")
    for cut in range(len(lines)):
        (job.folder / "epochs.jsonl").write_bytes(lines[:cut])
        assert len(epochs_so_far(job.folder)) == (cut >= whole) + (cut >= len(lines) - 1)
    for cut in range(len(state)):
        (job.folder / "progress.json").write_bytes(state[:cut])
        assert read_state(job.folder) == {}
    nowhere = TrackedRun(MlflowClient("http://127.0.0.1:9"), "none")
    for cut in range(0, len(sample), 97):
        (job.folder / "samples" / "training-0000.npz").write_bytes(sample[:cut])
        Follower(job, nowhere).look()


def test_a_training_goes_on_while_mlflow_is_away_and_nothing_is_lost(
    job: TrainingJob, mlflow: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    handed: list[dict[str, Any]] = []
    with tracked_run("train", {}) as run:
        away = TrackedRun(MlflowClient("http://127.0.0.1:9"), run.run_id)
        write_state(job)
        write_epochs(job, epoch(0), epoch(1))
        follower = Follower(job, away, handed.append)
        follower.look()
        follower.look()
        assert len(handed) == 2
        assert capsys.readouterr().err.count("MLflow does not answer, the training goes on") == 1
        follower.run = run
        follower.look()
        assert history(run, "val/loss") == {0: 3.0, 1: 2.0}


def test_progress_is_shown_and_what_was_missed_is_logged_at_the_end(
    job: TrainingJob, mlflow: Workspace, capsys: pytest.CaptureFixture[str]
):
    with tracked_run("train", {}) as run:
        with followed(job, run) as look:
            look()
            write_epochs(job, epoch(0))
            look()
        assert history(run, "val/loss") == {0: 3.0}, "although nobody said how many stages there are"
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("train iterative-refinement: 100%")
    assert last.endswith("val/loss 3")


def test_note_tells_stage_epoch_rate_and_validation_loss():
    lines = [epoch(0, **{"val/auc": 0.5}), epoch(1, **{"val/auc": 0.6})]
    assert note_of({**STATE, **RATE}, lines) == "epoch 3/30, 212 images/s, val/loss 2"
    several = {**STATE, **RATE, "stage": "adversarial", "stage_number": 2, "stages": 2}
    assert note_of(several, []) == "adversarial (2/2), epoch 3/30, 212 images/s"
