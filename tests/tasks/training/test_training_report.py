import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.cohort import Cohort
from storage.ingestion import ingest
from storage.sources import open_source
from tasks.engine.job import TrainerSettings, TrainingJob
from tasks.tracking.runs import tracked_run
from tasks.training.report import publish_training, validation_metrics
from tasks.workspace import Workspace

STAGES = ("autoencoder", "adversarial")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """A training that has left what it leaves, drawn by chance."""
    folder = tmp_path_factory.mktemp("run")
    ingest(open_source("sim:fundus?cases=30&size=32&seed=2"), folder / "cohort")
    cohort = Cohort.open(folder / "cohort")
    (folder / "samples").mkdir()
    cases, chance = np.flatnonzero(cohort.table["split"] == "validation"), np.random.default_rng(0)
    labels = cohort.label("grade")[cases]
    np.savez(folder / "validation.npz", case=cases, label=labels, score=np.append(labels[1:] + 0.2, np.nan))
    for name in ("autoencoder-0000", "adversarial-0000", "adversarial-0003"):
        maps = chance.random((3, 32, 32), np.float32)
        np.savez(folder / "samples" / f"{name}.npz", case=cases[:3], image=cohort.images(cases[:3]), saliency=maps)
    return TrainingJob(
        cohort=cohort.path,
        snapshot=cohort.snapshot,
        system="iterative-refinement",
        config={"network": {"size": 32}},
        target="grade",
        trainer=TrainerSettings(),
        seed=7,
        devices=1,
        folder=folder,
    )


def epochs(stages: tuple[str, ...] = STAGES) -> list[dict[str, Any]]:
    pace = {"seconds": 10.0, "images_per_second": 50.0, "waiting": 0.25, "learning_rate": 0.1}
    return [
        {
            "stage": stage,
            "epoch": number,
            "step": 4 * stages.index(stage) + number + 1,
            **pace,
            "val/loss": 2.0 - number,
        }
        for stage in stages
        for number in range(4)
    ]


def test_page_tells_what_was_trained_and_shows_curves_samples_and_agreement(
    job: TrainingJob, prefect_server: None, shared_workspace: Workspace
):
    lines = epochs()
    with tracked_run("train", {}) as run:
        page = publish_training(run, job, lines, lines[-1]).read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == [
        "What was trained",
        "The epoch that was kept",
        "Losses and other logged values",
        "Learning rate and pace",
        "Validation cases by epoch: saliency of stage autoencoder",
        "Validation cases by epoch: saliency of stage adversarial",
        "Agreement with the labels",
        "Settings",
    ]
    assert page.count("<img ") == 5
    for told in (job.snapshot, "4 autoencoder, 4 adversarial", "25.0%", "used to choose the epoch: optimistic"):
        assert told in page
    assert "Left out for want of a finite label or score: 1." in page
    kept = run.client.get_run(run.run_id).data.metrics
    assert kept["validation/mse"] > 0
    assert len(run.client.list_artifacts(run.run_id, "figures")) == 5


def test_training_that_only_logged_is_a_page_too(
    job: TrainingJob, prefect_server: None, shared_workspace: Workspace, tmp_path: Path
):
    lines = epochs(("training",))
    with tracked_run("train", {}) as run:
        page = publish_training(run, job.model_copy(update={"folder": tmp_path}), lines, lines[-1]).read_text()
    assert page.count("<img ") == 2
    assert "Agreement" not in page


def test_kind_of_a_label_is_not_told_from_the_few_validation_cases():
    label, score = np.array([0.0, 1, 1, 0]), np.array([0.2, 0.9, 0.4, 0.1])
    metrics = validation_metrics(label, score, ["a", "b", "c", "d"], known=np.arange(5.0))
    assert {"mse", "kappa"} <= metrics.keys()
    assert "brier" not in metrics


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1, 4, 2, 0, 3], {"mse", "kappa", "auc_referable"}),
        ([0, 1, 1, 0, 0, 1], {"auc", "brier"}),
        ([7.5, 1, 8, 9, 0, 3], {"mse", "mae"}),
    ],
)
def test_metrics_are_those_of_the_labels_kind(labels: list[float], expected: set[str]):
    label = np.array(labels, float)
    metrics = validation_metrics(label, label, [str(number) for number in range(len(label))], label)
    assert {name for name in metrics if not name.endswith("_interval")} == expected
    best = {"mse": 0.0, "mae": 0.0, "brier": 0.0, "kappa": 1.0, "auc": 1.0, "auc_referable": 1.0}
    assert all(metrics[name] == pytest.approx(best[name]) for name in expected)
