"""Retraining as it runs unattended: by a worker, through Prefect's API, with MLflow's server beside it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.cohort import Cohort
from tasks.services.service import answers
from tests.services.processes import ROOT, Services, eventually, free_port
from tests.services.retraining import Retraining
from tests.toys.spots import add_photographs

DATABASES = ["postgres", pytest.param("sqlite", marks=pytest.mark.slow)]  # test_ui.py has SQLite in the quick tests
pytestmark = [pytest.mark.timeout(600), pytest.mark.parametrize("services", DATABASES, indirect=True, scope="session")]


@pytest.fixture(scope="module")
def retraining(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Retraining:
    made = Retraining(services, tmp_path_factory.mktemp("retrain"), name="spots")
    add_photographs(made.photos, "test", 60, seed=1)
    add_photographs(made.photos, "validation", 16, seed=2)
    add_photographs(made.photos, "train", 24, seed=3, labels="random")
    return made


def test_first_run_trains_a_champion_and_writes_a_map_for_every_case(retraining: Retraining):
    assert retraining.run() == "COMPLETED"
    assert retraining.champion() == 1
    assert retraining.ending()["cases"] == 100


@pytest.fixture(scope="module")
def retrained(retraining: Retraining) -> Retraining:
    """With a champion, whichever tests have been run."""
    if retraining.champion() is None:
        assert retraining.run() == "COMPLETED"
    return retraining


def test_run_with_nothing_new_leaves_no_trace(retrained: Retraining):
    before, snapshot = len(retrained.runs()), Cohort.open(retrained.cohort).snapshot
    assert retrained.run() == "COMPLETED"
    assert len(retrained.runs()) == before
    assert Cohort.open(retrained.cohort).snapshot == snapshot


@pytest.mark.slow
def test_added_cases_that_help_are_promoted(retrained: Retraining):
    add_photographs(retrained.photos, "train", 120, seed=4)
    assert retrained.run() == "COMPLETED"
    assert retrained.decisions() == ["promoted", "promoted"]
    assert retrained.champion() == 2
    assert retrained.ending()["cases"] == 220


@pytest.mark.slow
def test_mislabelled_cases_are_refused_and_the_champion_is_untouched(retrained: Retraining):
    before = retrained.ending()
    add_photographs(retrained.photos, "train", 160, seed=5, labels="reversed")
    assert retrained.run() == "COMPLETED"
    assert retrained.decisions()[0] == "refused"
    assert retrained.champion() == 2
    after = retrained.ending()
    assert after["weights"] == before["weights"]
    assert after["cases"] == 380
    assert not [name for name in Cohort.open(retrained.cohort).map_names() if name.endswith("/S")][2:]


def test_champions_maps_are_the_same_as_those_of_the_command(retrained: Retraining, tmp_path: Path):
    maps = Cohort.open(retrained.cohort).maps(f"iterative-refinement/{retrained.ending()['weights']}/S")
    assert set(maps.table["stop_reason"]) <= {"score", "cap", "empty_mask"}
    assert len(maps) == len(Cohort.open(retrained.cohort))


SCREENSHOTS = os.environ.get("LESIONFLOW_SCREENSHOTS")


@pytest.fixture(scope="module")
def tab(chromium: Any) -> Iterator[Any]:
    """A page of a headless Chromium."""
    page = chromium.new_page(viewport={"width": 1280, "height": 860})
    yield page
    page.close()


def shows(page: Any, address: str, *words: str, picture: str = "") -> None:
    """Wait until the page shows all `words`; keep a picture of it where LESIONFLOW_SCREENSHOTS names a folder."""
    page.goto(address)
    for word in words:
        page.get_by_text(word).first.wait_for(timeout=60_000)
    if SCREENSHOTS and picture:
        page.wait_for_timeout(1500)
        page.screenshot(path=f"{SCREENSHOTS}/{picture}.png")


def test_mlflow_shows_metrics_artifacts_overlays_and_aliases(retrained: Retraining, tab: Any):
    address, experiment = (
        retrained.services.addresses["mlflow"],
        retrained.mlflow.get_experiment_by_name("lesionflow"),
    )
    runs = f"{address}/#/experiments/{experiment.experiment_id}/runs"
    trained, located = (retrained.runs(step)[0].info.run_id for step in ("train", "localize"))
    shows(tab, f"{runs}/{trained}", "best/val/loss", "model_version", picture="mlflow-run")
    shows(tab, f"{runs}/{located}/artifacts", "figures", "report")
    tab.get_by_text("figures").first.click()
    tab.get_by_text("inpainted-image").first.click()
    overlay = tab.locator("img[src^=blob], img[src*='artifact']").first
    overlay.wait_for(timeout=60_000)
    assert eventually(lambda: overlay.evaluate("image => image.naturalWidth") > 500, 30)
    if SCREENSHOTS:
        tab.screenshot(path=f"{SCREENSHOTS}/mlflow-overlays.png")
    shows(tab, f"{address}/#/models/{retrained.name}", "champion", picture="mlflow-model")


def test_prefect_shows_the_flow_run_with_its_steps_and_why(retrained: Retraining, tab: Any):
    api = retrained.services.api
    wanted = {"flows": {"name": {"any_": ["retrain"]}}, "sort": "START_TIME_DESC", "limit": 1}
    [run] = api.ask("POST", "/flow_runs/filter", wanted)
    address = f"{retrained.services.addresses['prefect']}/runs/flow-run/{run['id']}"
    shows(tab, address, "Completed", "new and 0 corrected labelled cases", picture="prefect-flow-run")
    tab.get_by_text("Parameters", exact=True).first.click()
    tab.get_by_text("new_cases").first.wait_for(timeout=30_000)


def test_prefect_shows_the_parameters_of_a_retraining_as_a_form(retrained: Retraining, tab: Any):
    known = retrained.services.api.deployment("retrain")
    schema = known["parameter_openapi_schema"]
    assert {"Training", "Trigger", "Gate", "Localisation", "Retention"} <= set(schema["definitions"])
    assert schema["properties"]["if_running"]["enum"] == ["wait", "leave"]
    address = f"{retrained.services.addresses['prefect']}/deployments/deployment/{known['id']}/run"
    shows(tab, address, "How a challenger is trained", "New Cases", "Min Patients", picture="prefect-form")


def test_results_browser_shows_a_map_that_moves_with_the_slider(retrained: Retraining, tab: Any, results: str):
    shows(tab, f"{results}/cohort/index.html", f"{retrained.ending()['cases']} cases")
    maps = Cohort.open(retrained.cohort).maps(f"iterative-refinement/{retrained.ending()['weights']}/S")
    case = int(maps.table["iterations"].idxmax())
    shows(tab, f"{results}/cohort/cases/{case}.html", "Score by iteration", picture="results-case")
    slider = tab.locator("input[type=range]").first
    pictures = []
    for iteration in (0, int(maps.table.at[case, "iterations"])):
        slider.fill(str(iteration))
        tab.wait_for_timeout(500)
        pictures.append(tab.locator(".stack").screenshot(animations="disabled"))
    assert pictures[0] != pictures[1]


@pytest.fixture(scope="module")
def results(retrained: Retraining) -> Iterator[str]:
    """The address of the results browser."""
    port = free_port()
    environment = {**retrained.services.environment, "LESIONFLOW_COHORTS": str(retrained.cohort)}
    command = [sys.executable, "-m", "uvicorn", "--factory", "tasks.browser.app:create_app", "--port", str(port)]
    with subprocess.Popen(command, env=environment, cwd=ROOT) as process:
        try:
            assert eventually(lambda: answers(f"http://127.0.0.1:{port}/"), 120)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
