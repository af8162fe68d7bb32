import json
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from storage.cohort import Cohort
from storage.ingestion import ingest
from storage.sources import open_source
from tasks.tracking.ownership import HOST
from tasks.tracking.runs import flattened, tracked_run, tracking_client
from tasks.workspace import Workspace

pytestmark = pytest.mark.usefixtures("shared_workspace")


def test_run_is_finished_when_its_block_ends_and_holds_config_and_metrics():
    with tracked_run("train", {"a": {"b": 1}}, snapshot="S0") as run:
        run.log_metrics({"mse": 0.5, "note": "left out"}, step=3)
    kept = tracking_client().get_run(run.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {"a.b": "1"}
    assert kept.data.metrics == {"mse": 0.5}
    assert kept.data.tags["snapshot"] == "S0"


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_run_of_a_block_that_raises_is_closed_with_its_reason(error: type, status: str):
    with pytest.raises(error, match="no such thing"), tracked_run("train", {}) as run:
        raise error("no such thing")
    kept = tracking_client().get_run(run.run_id)
    assert kept.info.status == status
    assert kept.data.tags["error"] == f"{error.__name__}: no such thing"


def test_failed_run_is_reopened_not_doubled_and_forgets_its_error():
    with pytest.raises(ValueError, match="once"), tracked_run("train", {"a": 1}) as run:
        raise ValueError("once")
    tracking_client().set_tag(run.run_id, HOST, "elsewhere")
    with tracked_run("train", {"a": 1}, resume=run.run_id) as again:
        reopened = tracking_client().get_run(run.run_id)
    assert again.run_id == run.run_id
    assert reopened.info.status == "RUNNING"
    assert reopened.data.tags[HOST] != "elsewhere"
    assert "error" not in reopened.data.tags


@pytest.mark.parametrize("is_known", [True, False])
def test_run_that_mlflow_no_longer_has_is_begun_anew(is_known: bool):
    with tracked_run("train", {}) as run:
        pass
    if is_known:
        run.client.delete_run(run.run_id)
    with tracked_run("train", {"a": 1}, resume=run.run_id if is_known else "0" * 32) as again:
        assert again.run_id != run.run_id
    assert tracking_client().get_run(again.run_id).data.params == {"a": "1"}


def test_run_inside_another_is_nested_under_it():
    with tracked_run("search", {}) as outer, tracked_run("train", {}, parent=outer.run_id) as inner:
        pass
    client = tracking_client()
    assert client.get_parent_run(inner.run_id).info.run_id == outer.run_id


def test_steps_that_an_earlier_process_logged_are_known():
    with tracked_run("train", {}) as run:
        for step in (0, 1, 4):
            run.log_metrics({"val/loss": 1.0}, step)
    with tracked_run("train", {}, resume=run.run_id) as again:
        assert again.logged_steps("val/loss") == {0, 1, 4}
        assert again.logged_steps("val/other") == set()


def test_long_and_many_settings_are_kept_whole_as_an_artifact():
    config = {"cases": list(range(5000)), **{f"setting_{i}": i for i in range(250)}}
    with tracked_run("train", config) as run:
        pass
    assert len(tracking_client().get_run(run.run_id).data.params) == 251
    assert json.loads(artifact(run.run_id, "config.json")) == config


def test_environment_says_what_ran():
    with tracked_run("check", {}) as run:
        pass
    environment = json.loads(artifact(run.run_id, "environment.json"))
    assert environment["python"].startswith("3.")
    assert environment["packages"]["mlflow"] == mlflow.__version__
    assert environment["processors"] >= 1
    assert isinstance(environment["gpus"], list)


def test_cohort_is_a_dataset_of_the_run_known_by_its_snapshot(tmp_path: Path):
    ingest(open_source("sim:fundus?cases=6&size=32&seed=2"), tmp_path / "fundus")
    cohort = Cohort.open(tmp_path / "fundus")
    with tracked_run("train", {}) as run:
        run.log_dataset(cohort, "training")
    with tracked_run("train", {}, resume=run.run_id) as again:
        again.log_dataset(cohort, "training")
    [logged] = tracking_client().get_run(run.run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("fundus", cohort.snapshot)
    assert {tag.key: tag.value for tag in logged.tags} == {"mlflow.data.context": "training"}
    assert mlflow.data.get_source(logged.dataset).uri == cohort.path
    profile = json.loads(logged.dataset.profile)
    assert profile["cases"] == sum(profile["splits"].values()) == 6
    assert profile["labels"]["grade"] == 6
    features = json.loads(json.loads(logged.dataset.schema)["mlflow_tensorspec"]["features"])
    assert features[0]["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 3, 32, 32]}


def test_machine_is_watched_on_request_and_a_reopened_run_goes_on(monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    name = "system/cpu_utilization_percentage"
    with tracked_run("train", {}, system_metrics=True) as run:
        wait_for_steps(run, name, 2)
    first = run.logged_steps(name)
    with tracked_run("train", {}, system_metrics=True, resume=run.run_id) as again:
        wait_for_steps(again, name, len(first) + 2)
    steps = sorted(again.logged_steps(name))
    assert steps == list(range(len(steps)))
    with tracked_run("check", {}) as other:
        time.sleep(0.2)
    assert not other.logged_steps(name)


@pytest.mark.slow
def test_processes_that_start_together_share_a_fresh_workspace(workspace: Workspace):
    script = "from tasks.tracking.runs import tracked_run\nwith tracked_run('train', {}): pass"
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    client = tracking_client()
    runs = client.search_runs([client.get_experiment_by_name("lesionflow").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]


def test_nested_settings_are_flattened_with_dots():
    assert flattened({"a": 1, "b": {"c": {"d": 2}}}) == {"a": 1, "b.c.d": 2}


def artifact(run_id: str, name: str) -> str:
    return mlflow.artifacts.load_text(f"{tracking_client().get_run(run_id).info.artifact_uri}/{name}")


def wait_for_steps(run, name: str, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(run.logged_steps(name)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)
