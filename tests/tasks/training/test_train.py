"""What is asked of a training is checked before it starts, and known again when it is asked for twice."""

import json
from pathlib import Path

import numpy as np
import pytest

from models.errors import ModelError
from storage.cohort import Cohort
from storage.errors import CohortError
from storage.ingestion import ingest
from storage.sources import open_source
from tasks.engine.data import CohortData, label_weights, learnt_lesions
from tasks.engine.epoch_log import append_line, read_epochs
from tasks.training.train import job_monitor, training_job

NETWORK = {"width": 0.1, "stem_stride": 1, "normalisation": "batch", "head": [8], "block5_valid": False}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    path = tmp_path_factory.mktemp("cohort") / "fundus"
    ingest(open_source("sim:fundus?cases=30&size=64&seed=2"), path)
    return Cohort.open(path)


def asked(cohort: Cohort, target: str = "grade", trainer: dict | None = None, **options: object):
    settings = {"network": NETWORK}
    trainer = {"batch_size": 4, **(trainer or {})}
    common = {"seed": 0, "devices": 1, "initial": None, **options}
    return training_job(str(cohort.path), "iterative-refinement", target, settings, trainer, **common)


def test_labels_weigh_equally_with_a_mean_of_one():
    labels = np.array([0, 0, 0, 2])
    weights = label_weights(labels).numpy()
    assert weights[labels == 0].sum() == pytest.approx(weights[labels == 2].sum())
    assert weights.mean() == pytest.approx(1)


def test_a_job_is_known_by_what_it_learns_not_by_where_it_lies(cohort, workspace, monkeypatch, tmp_path):
    key, job = asked(cohort)
    monkeypatch.setenv("LESIONFLOW_WORKSPACE", str(tmp_path / "other"))
    again, elsewhere = asked(cohort)
    assert again == key
    assert elsewhere.folder != job.folder
    others = [asked(cohort, seed=1), asked(cohort, trainer={"ema": 0.9}), asked(cohort, devices=2)]
    others.append(asked(cohort, cases={"train": (0, 1, 2, 3, 4), "validation": (5,)}))
    assert len({key, *(other for other, _ in others)}) == 5


def test_the_network_knows_the_cohort(cohort, workspace):
    _, job = asked(cohort)
    assert job.config["network"]["size"] == 64
    assert job_monitor(job) == ("val/loss", "min")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": "colour"}, CohortError, "has no label 'colour'; it has: grade"),
        ({"trainer": {"stages": {"second": {}}}}, ModelError, "has no stage 'second'; it has: training"),
        ({"trainer": {"stages": {"training": {"epochs": 3}}}}, ModelError, "epochs is not a setting"),
        ({"trainer": {"accumulate": 3}}, ModelError, "a batch of 4 cannot be divided"),
        ({"devices": 64, "trainer": {"batch_size": 64}}, ModelError, "are fewer than the 64 parts of a batch"),
        ({"cases": {"train": (0, 1, 2, 3), "validation": ()}}, CohortError, "in its validation split"),
        ({"trainer": {"precision": "8"}}, ModelError, "precision"),
    ],
)
def test_what_cannot_be_trained_is_one_line_before_anything_runs(cohort, workspace, options, error, message):
    with pytest.raises(error, match=message) as raised:
        asked(cohort, **options)
    assert "\n" not in str(raised.value)


def vessels(cohort: Cohort, lesions: list[str]):
    settings = {"network": {"width": 0.05}, "lesions": lesions}
    return training_job(str(cohort.path), "vessel-unet", "", settings, {"batch_size": 4}, 0, 1, None)


def test_a_system_without_a_label_learns_from_the_masks_that_its_settings_name(cohort, workspace):
    _, job = vessels(cohort, ["exudate", "red"])
    items = CohortData(job, job.trainer, seed=0).train_dataloader().dataset
    assert items.cases.cases.lesions == ("exudate", "red")
    case = int(items.cases.cases.indices[0])
    assert np.array_equal(items.cases[0]["mask"][0], cohort.mask(case, ["exudate", "red"]))
    assert "label" not in items.cases[0]


def test_a_system_that_names_no_masks_learns_from_all(cohort, workspace):
    _, job = vessels(cohort, ["red"])
    named_none = job.model_copy(update={"system": "iterative-refinement", "config": asked(cohort)[1].config})
    assert learnt_lesions(cohort, job) == ["red"]
    assert learnt_lesions(cohort, named_none) == list(cohort.lesions)


def test_masks_that_the_cohort_lacks_are_named_before_anything_runs(cohort, workspace):
    with pytest.raises(
        CohortError, match=r"no masks of 'vessels', .* it has: .*red.* Choose by --set lesions="
    ) as raised:
        vessels(cohort, ["vessels"])
    assert "\n" not in str(raised.value)


def test_of_an_epoch_that_was_run_twice_the_later_counts(tmp_path: Path):
    lines = [{"stage": "a", "epoch": 0, "step": 5, "x": 1}, {"stage": "a", "epoch": 1, "step": 10, "x": 2}]
    lines.append({**lines[1], "x": 3})
    lines.append({"stage": "b", "epoch": 0, "step": 15, "x": 4})
    (tmp_path / "epochs.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"stage": "b", "ep')
    append_line(tmp_path / "epochs.jsonl", json.dumps({"stage": "b", "epoch": 1, "step": 20, "x": 5}))
    assert [epoch["x"] for epoch in read_epochs(tmp_path)] == [1, 3, 4, 5]
