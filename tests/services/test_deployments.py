"""prefect.yaml against a real Prefect server and worker, over SQLite and over PostgreSQL."""

import json
import urllib.request
from pathlib import Path

import pytest
import yaml

from storage.cohort import Cohort
from tasks.services.deployment import deploy_all, run_deploy
from tests.services.processes import ROOT, Services, eventually

DECLARED = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
OF_THE_COMMAND = {"__init__", "cli", "cohort_verbs", "console", "operating_verbs", "show", "training_verbs"}


def test_every_flow_has_one_deployment():
    flows = {file.stem for file in (ROOT / "flows").glob("*.py")} - OF_THE_COMMAND
    assert sorted(entry["name"] for entry in DECLARED) == sorted(name.replace("_", "-") for name in flows)


def test_no_schedule_is_active_before_somebody_gives_it_its_parameters():
    schedules = [schedule for entry in DECLARED for schedule in entry.get("schedules", [])]
    assert schedules
    assert not any(schedule["active"] for schedule in schedules)
    assert all(schedule["timezone"] and schedule["slug"] for schedule in schedules)


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestServer:
    def test_knows_every_declared_deployment(self, services: Services):
        listed = json.loads(services.prefect("deployment", "ls", "-o", "json"))
        assert {entry["name"] for entry in listed} >= {entry["name"] for entry in DECLARED}

    def test_shows_a_form_with_choices_and_defaults(self, services: Services):
        schema = services.api.deployment("localize")["parameter_openapi_schema"]
        assert schema["required"] == ["cohort", "model"]
        [choices, _] = schema["properties"]["method"]["anyOf"]
        assert choices["enum"] == ["iterative-refinement", "saliency", "own"]
        assert schema["properties"]["batch_size"] == {
            "default": 32,
            "position": 6,
            "title": "batch_size",
            "type": "integer",
        }

    def test_trains_one_at_a_time_and_lets_others_wait(self, services: Services):
        train = services.api.deployment("train")
        assert train["global_concurrency_limit"]["limit"] == 1
        assert train["concurrency_options"]["collision_strategy"] == "ENQUEUE"

    def test_runs_a_deployment_to_its_end(self, services: Services, tmp_path: Path):
        parameters = {"source": "sim:fundus?cases=4&size=64", "cohort": str(tmp_path / "cohort")}
        state, _ = services.run_deployment("ingest", parameters)
        assert state == "COMPLETED"
        assert len(Cohort.open(tmp_path / "cohort")) == 4

    def test_run_that_a_killed_worker_had_only_claimed_gives_its_place_back(self, services: Services, tmp_path: Path):
        parameters = {"source": "sim:fundus?cases=2&size=64", "cohort": str(tmp_path / "claimed")}
        assert services.run_deployment("ingest", parameters)[0] == "COMPLETED"  # the worker has its folder of notes
        services.kill_worker()
        claimed = services.start_run("ingest", parameters)
        pending = {"state": {"type": "PENDING", "name": "Submitting"}}
        assert services.api.ask("POST", f"/flow_runs/{claimed}/set_state", pending)["status"] == "ACCEPT"
        waiting = services.start_run("ingest", parameters)
        [notes] = (services.root / "services" / "flow-runs").glob("*")
        (notes / f"{claimed}.json").write_text(json.dumps({"pid": None, "started": 0.0}))
        services.start_worker()
        assert services.final_state(claimed) == "CRASHED"
        assert services.final_state(waiting) == "COMPLETED"
        assert eventually(lambda: not list(notes.glob("*.json")))

    def test_tracks_the_run_in_mlflow(self, services: Services, tmp_path: Path):
        parameters = {"source": "sim:fundus?cases=2&size=64", "cohort": str(tmp_path / "tracked")}
        assert services.run_deployment("ingest", parameters)[0] == "COMPLETED"
        run = newest_run(services.addresses["mlflow"])
        assert run["info"]["status"] == "FINISHED"
        assert str(tmp_path / "tracked") in json.dumps(run["data"]["params"])
        files = asked(services.addresses["mlflow"], f"artifacts/list?run_id={run['info']['run_id']}")["files"]
        assert "config.json" in {file["path"] for file in files}
        url = f"{services.addresses['mlflow']}/get-artifact?path=config.json&run_uuid={run['info']['run_id']}"
        with urllib.request.urlopen(url) as answer:
            assert json.load(answer)

    def test_fires_a_schedule_of_every_minute(self, services: Services, tmp_path: Path):
        deployment = services.api.deployment("ingest")
        parameters = {"source": "sim:fundus?cases=2&size=64", "cohort": str(tmp_path / "every-minute")}
        path = f"/deployments/{deployment['id']}/schedules"
        entry = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True, "parameters": parameters}
        [made] = services.api.ask("POST", path, [entry])
        done = {
            "name": {"like_": str(tmp_path / "every-minute")},
            "state": {"type": {"any_": ["COMPLETED"]}},
        }
        assert eventually(lambda: services.api.ask("POST", "/flow_runs/filter", {"flow_runs": done}), 200)
        services.api.ask("DELETE", f"{path}/{made['id']}")

    def test_goes_on_after_it_was_killed(self, services: Services, tmp_path: Path):
        services.restart_server()
        parameters = {"source": "sim:fundus?cases=2&size=64", "cohort": str(tmp_path / "after")}
        assert services.run_deployment("ingest", parameters)[0] == "COMPLETED"

    def test_deploying_again_keeps_what_people_have_scheduled(self, services: Services, tmp_path: Path):
        api, name = services.api, "ingest"
        path = f"/deployments/{api.deployment(name)['id']}/schedules"
        [daily] = [entry for entry in api.deployment(name)["schedules"] if entry["slug"] == "daily"]
        parameters = {"source": "/photos", "cohort": "/cohort"}
        api.ask("PATCH", f"{path}/{daily['id']}", {"active": True, "parameters": parameters})
        own = {"schedule": {"cron": "0 4 1 1 *", "timezone": "Europe/Berlin"}, "active": True, "parameters": parameters}
        api.ask("POST", path, [own])
        deploy_all(api, services.environment, services.root / "services")
        by_slug = {entry["slug"]: entry for entry in api.deployment(name)["schedules"]}
        assert {slug: entry["parameters"] for slug, entry in by_slug.items()} == {"daily": parameters, None: parameters}
        assert all(entry["active"] for entry in by_slug.values())
        assert by_slug[None]["schedule"]["cron"] == "0 4 1 1 *"
        run_deploy(services.environment, services.root / "plain.log")  # sets all back, as the next test wants it
        assert [entry["active"] for entry in api.deployment(name)["schedules"]] == [False]

    def test_does_not_deploy_what_is_deployed_already(self, services: Services):
        folder = services.root / "services"
        deploy_all(services.api, services.environment, folder)
        (folder / "deploy.log").unlink(missing_ok=True)
        deploy_all(services.api, services.environment, folder)
        assert not (folder / "deploy.log").exists()

    def test_takes_the_automations(self, services: Services):
        services.prefect("automation", "create", "--from-file", str(ROOT / "deployments" / "automations.yaml"))
        listed = services.api.ask("POST", "/automations/filter", {})
        declared = yaml.safe_load((ROOT / "deployments" / "automations.yaml").read_text())["automations"]
        assert {entry["name"] for entry in listed} >= {entry["name"] for entry in declared}

    def test_takes_the_example_of_scheduled_deployments_and_plans_their_runs(self, services: Services):
        example = str(ROOT / "deployments" / "scheduled.yaml")
        services.prefect("deploy", "--all", "--prefect-file", example)
        planned = {"state": {"type": {"any_": ["SCHEDULED"]}}}
        for name in ("fundus-weekly", "fundus-check"):
            wanted = {"flow_runs": planned, "deployments": {"name": {"any_": [name]}}}
            [run, *_] = eventually(lambda: services.api.ask("POST", "/flow_runs/filter", wanted), 90)  # noqa: B023
            assert run["parameters"]["cohort"] == "/cohorts/fundus"


def asked(address: str, path: str, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def newest_run(address: str) -> dict:
    experiment = asked(address, "experiments/get-by-name?experiment_name=lesionflow")["experiment"]["experiment_id"]
    return asked(address, "runs/search", {"experiment_ids": [experiment], "max_results": 1})["runs"][0]
