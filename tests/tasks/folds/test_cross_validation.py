"""The plan of a cross-validation, its training beside failures, and what its models say of held-out cases."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from models.registry import OWN_SYSTEMS, _import_families, build, registered
from storage.cohort import Cohort
from storage.errors import CohortError
from storage.ingestion import ingest
from storage.sources import open_source
from tasks.errors import TrainingError
from tasks.folds.held_out import predict_held_out
from tasks.folds.plan import FoldJob, Plan, plan_folds
from tasks.folds.report import has_maps, report_folds
from tasks.folds.train import train_folds
from tasks.model_files import describe_model, load_model, save_model
from tasks.tracking.runs import tracked_run, tracking_client
from tasks.training.placement import device_groups
from tasks.workspace import Workspace
from tests.toys import MODULES

ROOT = Path(__file__).parents[3]
TRAINER = {"max_epochs": 1, "batch_size": 8, "sample_epochs": 0}
MakePlan = Callable[..., Plan]


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OWN_SYSTEMS, MODULES)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    _import_families.cache_clear()


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    ingest(open_source("sim:fundus?cases=24&size=32&seed=3"), tmp_path / "fundus")
    return Cohort.open(tmp_path / "fundus")


@pytest.fixture
def make_plan(cohort: Cohort, workspace: Workspace) -> MakePlan:
    """`make_plan(system="toy-classifier", folds=3, repeats=1, splits=…)`."""

    def plan(system: str = "toy-classifier", folds=3, repeats: int = 1, splits=("train", "validation")) -> Plan:
        return plan_folds(str(cohort.path), system, "grade", folds, repeats, splits, {}, TRAINER, 0, 1, None)

    return plan


def untrained(plan: Plan) -> list[Path]:
    """A model a fold, each with weights of its own."""
    folders = []
    for number, planned in enumerate(plan.folds):
        torch.manual_seed(number)
        job = planned.job
        weights = build(job.system, job.config).state_dict()
        folders.append(plan.folder / f"model-{number}")
        save_model(folders[-1], job.system, job.config, weights, target="grade", snapshot=plan.snapshot)
    return folders


def predicted(plan: Plan, folders: Sequence[Path]):
    return predict_held_out.fn(plan, folders)


def patients_of(cohort: Cohort, cases: Sequence[int]) -> set[str]:
    return set(cohort.table.loc[list(cases), "patient_id"])


def test_no_patient_that_a_fold_holds_out_is_in_its_job(cohort: Cohort, make_plan: MakePlan):
    for planned in make_plan(repeats=2).folds:
        assert planned.job.cases is not None
        seen = patients_of(cohort, [*planned.job.cases["train"], *planned.job.cases["validation"]])
        assert not seen & patients_of(cohort, planned.fold.held_out)


def test_the_frozen_split_takes_no_part_unless_it_is_named(cohort: Cohort, make_plan: MakePlan):
    used = {case for planned in make_plan().folds for part in dataclasses.astuple(planned.fold)[2:] for case in part}
    assert set(cohort.table.loc[sorted(used), "split"]) == {"train", "validation"}
    assert make_plan(splits=("train", "validation", "test")).cases == list(range(len(cohort)))


def test_repeats_differ_in_folds_and_seeds_and_another_plan_has_another_key(make_plan: MakePlan):
    plan = make_plan(repeats=2)
    first, second = plan.repeat(1), plan.repeat(2)
    assert {planned.job.seed for planned in first} == {0}
    assert {planned.job.seed for planned in second} == {1}
    assert [planned.fold.held_out for planned in first] != [planned.fold.held_out for planned in second]
    assert make_plan().key == make_plan().key != plan.key


def test_what_cannot_be_planned_is_one_clear_line(make_plan: MakePlan):
    with pytest.raises(CohortError, match="no split 'holdout'"):
        make_plan(splits=("holdout",))
    with pytest.raises(CohortError, match="every fold needs a patient"):
        make_plan(folds=23)


def test_each_case_is_mapped_by_the_model_that_never_saw_it(cohort: Cohort, make_plan: MakePlan):
    plan = make_plan(repeats=2)
    folders = untrained(plan)
    names, table = predicted(plan, folders)
    assert names == [f"toy-classifier/cv-{plan.key[:8]}/map{end}" for end in ("", "-r2")]
    opened = Cohort.open(cohort.path)
    for planned, folder in zip(plan.folds, folders, strict=True):
        maps = opened.maps(names[planned.fold.repeat - 1])
        version = describe_model(folder)["version"]
        assert set(maps.table.loc[list(planned.fold.held_out), "model"]) == {version}
        assert set(maps.table.loc[list(planned.fold.held_out), "fold"]) == {planned.fold.number}
        assert maps.attrs["models"][str(planned.fold.number)] == version
        assert maps.attrs["snapshot"] == plan.snapshot
    assert len(table) == 2 * len(plan.cases)
    assert table["score"].notna().all()
    assert has_maps(plan, names)


def test_maps_that_are_there_are_left_alone_and_missing_ones_made_again(cohort: Cohort, make_plan: MakePlan):
    plan = make_plan()
    folders = untrained(plan)
    [name], table = predicted(plan, folders)
    before = Cohort.open(cohort.path).snapshot
    _, again = predicted(plan, folders)
    assert Cohort.open(cohort.path).snapshot == before
    assert again.equals(table)
    Cohort.open(cohort.path).drop_maps(name)
    assert not has_maps(plan, [name])
    assert predicted(plan, folders)[1].equals(table)


@pytest.mark.parametrize("system", ["toy-classifier", "toy-segmenter", "toy-gan"])
def test_maps_of_a_system_that_localises_by_its_own_are_what_it_predicts(
    system: str, cohort: Cohort, make_plan: MakePlan
):
    plan = make_plan(system)
    folders = untrained(plan)
    [name], table = predicted(plan, folders)
    maps = Cohort.open(cohort.path).maps(name)
    assert maps.array_names == (("image",) if system == "toy-gan" else ())
    planned, case = plan.folds[1], plan.folds[1].fold.held_out[0]
    expected = load_model(folders[1]).predict_step({"image": torch.from_numpy(cohort.image(case)[None])})
    assert np.allclose(maps.saliency(case), expected["saliency"][0].detach(), atol=1e-6)
    assert maps.table.at[case, "fold"] == planned.fold.number
    assert table["score"].notna().all() == ("score" in expected)


@pytest.mark.parametrize("localization", ["saliency", "iterative-refinement"])
def test_maps_of_a_system_that_localises_by_saliency_are_its_method_s(
    localization: str, cohort: Cohort, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(registered("toy-classifier").system, "localization", localization)
    plan = make_plan()
    [name], _ = predicted(plan, untrained(plan))
    assert name.endswith("/guided_backprop")
    assert Cohort.open(cohort.path).maps(name).attrs["sign"] == "negative"


def test_system_without_a_map_or_a_score_to_explain_still_gets_its_table(
    cohort: Cohort, make_plan: MakePlan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    plan = make_plan("toy-segmenter")
    monkeypatch.setattr(registered("toy-segmenter").system, "predict_step", lambda *_: {"mask": torch.zeros(1)})
    names, table = predicted(plan, untrained(plan))
    assert names == []
    assert Cohort.open(cohort.path).map_names() == []
    assert sorted(table["case_id"]) == sorted(cohort.table.loc[plan.cases, "case_id"])
    assert table["score"].isna().all()
    [line] = [line for line in capsys.readouterr().err.splitlines() if "no maps" in line]
    assert "outputs of shape" in line


@pytest.mark.slow
def test_failed_fold_is_named_after_the_others_have_finished(make_plan: MakePlan, prefect_server: None):
    plan = make_plan(folds=2)
    broken = dataclasses.replace(plan, folds=(failing(plan.folds[0]), plan.folds[1]))
    with tracked_run("cross-validate", {}) as run:
        with pytest.raises(TrainingError, match=r"1 of 2 folds failed: fold 1: .*toy failure"):
            train_folds.fn(broken, run.run_id, parallel=2)
        first, second = train_folds.fn(plan, run.run_id)
    assert ("reused" in first, "reused" in second) == (False, True)
    nested = tracking_client().search_runs(["1"], f"tags.mlflow.parentRunId = '{run.run_id}'")
    ended = sorted((one.data.tags["fold"], one.info.status) for one in nested)
    assert ended == [("1", "FAILED"), ("1", "FINISHED"), ("2", "FINISHED")]


def failing(planned: FoldJob) -> FoldJob:
    """The fold with a job that raises in its first step."""
    config = {**planned.job.config, "fail_on_rank": 0, "fail_at_step": 0}
    job = planned.job.model_copy(update={"config": config, "folder": planned.job.folder.with_name("failing")})
    return dataclasses.replace(planned, key="failing", job=job)


@pytest.mark.parametrize(("visible", "devices", "groups"), [("", 1, []), ("5,3", 1, ["5", "3"]), ("5,3", 2, ["5,3"])])
def test_folds_share_the_gpus_that_are_visible(
    visible: str, devices: int, groups: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(visible.split(",")) if visible else 0)
    assert device_groups(devices) == groups


def test_scores_are_those_of_the_fold_model(cohort: Cohort, make_plan: MakePlan):
    plan = make_plan()
    folders = untrained(plan)
    _, table = predicted(plan, folders)
    planned = plan.folds[0]
    job, case = planned.job, planned.fold.held_out[0]
    torch.manual_seed(0)
    system = build(job.system, job.config).eval()
    with torch.no_grad():
        expected = system(system.to_input(torch.from_numpy(cohort.image(case)[None]))).item()
    scored = table.set_index("case_id")["score"].loc[cohort.table.at[case, "case_id"]]
    assert np.isclose(scored, expected, atol=1e-5)


def as_trained(plan: Plan, folders: Sequence[Path]) -> list[dict]:
    """What training leaves and answers, of models that were not trained."""
    answers = []
    for planned, folder in zip(plan.folds, folders, strict=True):
        losses = [1.0 + planned.fold.number / (1 + epoch) for epoch in range(3)]
        lines = [
            {"stage": "training", "epoch": epoch, "step": epoch, "train/loss": loss, "val/loss": loss}
            for epoch, loss in enumerate(losses)
        ]
        planned.job.folder.mkdir(parents=True, exist_ok=True)
        (planned.job.folder / "epochs.jsonl").write_text("\n".join(map(json.dumps, lines)))
        version = describe_model(folder)["version"]
        answers.append({"model": str(folder), "model_version": version, "best": lines[-1], "epochs": 3})
    return answers


def reported(plan: Plan) -> dict:
    folders = untrained(plan)
    with tracked_run("cross-validate", {}) as run:
        return report_folds.fn(run, plan, as_trained(plan, folders), *predicted(plan, folders))


@pytest.mark.slow
def test_repeats_are_measured_one_by_one_and_by_their_mean(make_plan: MakePlan, prefect_server: None):
    answer = reported(make_plan(repeats=2))
    assert len(answer["by_repeat"]) == 2
    assert answer["held_out"]["mse"] == pytest.approx(np.mean([one["mse"] for one in answer["by_repeat"]]))
    assert [(row["repeat"], row["fold"]) for row in answer["by_fold"]] == [(r, f) for r in (1, 2) for f in (1, 2, 3)]
    assert describe_model(Path(answer["model"]))["members"] == 3
    assert "mean over repeats" in Path(answer["report"]).read_text()


def test_leaving_one_patient_out_is_measured_over_all_of_them(make_plan: MakePlan, prefect_server: None):
    plan = make_plan(folds="loo")
    answer = reported(plan)
    assert answer["folds"] == answer["patients"] == len(plan.folds)
    assert np.isfinite(answer["held_out"]["auc_referable"])


def test_system_without_scores_has_a_page_of_its_folds(make_plan: MakePlan, prefect_server: None):
    answer = reported(make_plan("toy-segmenter"))
    assert answer["held_out"] == {}
    assert len(pd.read_parquet(answer["scores"])) == answer["cases"]
    page = Path(answer["report"]).read_text()
    assert "Learning curves" in page
    assert "Score by label" not in page
