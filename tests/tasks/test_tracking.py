import pytest

from models.errors import ModelError
from models.registry import build
from tasks.model_files import describe_model, save_model
from tasks.tracking import flattened, locate_model, register_model, tracked_run, tracking_client
from tasks.workspace import Workspace

TINY = {
    "network": {"size": 32, "stem_stride": 1, "block5_valid": False, "width": 0.05, "head": [4]},
}


def tiny_model(folder):
    system = build("iterative-refinement", TINY)
    config = system.config.model_dump(mode="json")
    return system, save_model(folder, "iterative-refinement", config, system.state_dict(), target="grade")


def test_run_is_finished_when_its_block_ends_and_holds_config_and_metrics(workspace: Workspace):
    with tracked_run("train", {"a": {"b": 1}}, snapshot="S0") as run:
        run.log_metrics({"mse": 0.5, "note": "left out"}, step=3)
    kept = tracking_client().get_run(run.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {"a.b": "1"}
    assert kept.data.metrics == {"mse": 0.5}
    assert kept.data.tags["snapshot"] == "S0"


def test_run_of_a_failing_block_is_failed_with_its_reason(workspace: Workspace):
    def fail():
        with tracked_run("train", {}):
            raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        fail()
    client = tracking_client()
    [kept] = client.search_runs([client.get_experiment_by_name("lesionflow").experiment_id])
    assert kept.info.status == "FAILED"
    assert kept.data.tags["error"] == "ValueError: no such thing"


def test_killed_run_is_reopened_not_doubled(workspace: Workspace):
    with tracked_run("train", {}) as run:
        pass
    with tracked_run("train", {}, resume=run.run_id) as again:
        assert tracking_client().get_run(run.run_id).info.status == "RUNNING"
    assert again.run_id == run.run_id


def test_nested_settings_are_flattened_with_dots():
    assert flattened({"a": 1, "b": {"c": {"d": 2}}}) == {"a": 1, "b.c.d": 2}


def test_model_is_found_by_folder_run_name_and_alias(workspace: Workspace):
    folder = workspace.root / "model"
    _, version = tiny_model(folder)
    with tracked_run("train", {}) as run:
        run.log_file(folder, "model")
        number = register_model(run.client, "iterative-refinement", run.run_id)
    run.client.set_registered_model_alias("iterative-refinement", "champion", str(number))
    addresses = [str(folder), run.run_id, "iterative-refinement", "iterative-refinement@champion"]
    assert {describe_model(locate_model(address))["version"] for address in addresses} == {version}


def test_unknown_model_is_one_clear_line(workspace: Workspace):
    with pytest.raises(ModelError, match="no model 'nothing'") as error:
        locate_model("nothing")
    assert "\n" not in str(error.value)
