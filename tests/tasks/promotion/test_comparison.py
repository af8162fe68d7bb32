"""Models of known worth against each other: on real maps, in a real registry, with real kills."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from models.metrics import localization_metrics, paired_difference
from models.registry import OWN_SYSTEMS, _import_families, build
from storage.cohort import Cohort
from storage.ingestion import ingest
from storage.layout import Corrections
from storage.sources import open_source
from tasks.errors import PromotionError
from tasks.localization import localize_refined, map_name
from tasks.maps import gather_evidence
from tasks.model_files import describe_model, save_model
from tasks.promotion import comparison
from tasks.promotion.comparison import compare_with_champion
from tasks.promotion.frozen import freeze, frozen_cases, indices_of
from tasks.promotion.gate import Gate
from tasks.promotion.ledger import champion_version, decisions, promote_by_hand, propose, registry_state
from tasks.reuse import PROJECT
from tasks.tracking.registry import locate_model, register_model
from tasks.tracking.runs import tracked_run, tracking_client
from tasks.workspace import Workspace
from tests.toys import MODULES

BY_SCORE = Gate(metric="auc_referable", resamples=200)
LOOP = {"max_iterations": 1}
WORTH = {"good": 0, "bad": 1, "fair": 2, "diverged": 3}

COMPARE = """
import sys
from tasks.promotion.comparison import compare_with_champion
from tasks.promotion.gate import Gate
name, cohort = sys.argv[1:]
gate = Gate(metric="auc_referable", resamples=200)
print(compare_with_champion(name, cohort, 2, gate, settings={"max_iterations": 1})["run_id"])
"""
DIE = """
import os, signal
from mlflow.tracking.client import MlflowClient
from tasks.promotion import ledger
def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)
"""
BEFORE_IT_IS_RECORDED = "ledger._marks = die"
BEFORE_IT_IS_APPLIED = "MlflowClient.set_registered_model_alias = die"

_names = count(1)
pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore:Logger 'prefect", "ignore:An input example", "ignore:The given NumPy"),
]


@pytest.fixture(scope="module", autouse=True)
def _toys() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OWN_SYSTEMS, MODULES)
        patch.setenv("PYTHONPATH", str(PROJECT))
        _import_families.cache_clear()
        yield


@pytest.fixture(scope="module")
def cohort_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("cohorts") / "fundus"
    ingest(open_source("sim:fundus?cases=70&size=32&seed=3"), path, fractions=(0.2, 0.2, 0.6))
    return str(path)


@pytest.fixture
def cohort(cohort_path: str) -> Cohort:
    return Cohort.open(cohort_path)


@pytest.fixture(scope="module")
def trained(shared_workspace: Workspace, cohort_path: str) -> dict[str, str]:
    """Runs of models of known worth: the last layer is fitted to the grade, to nothing, or to a noisy grade."""
    cohort, runs = Cohort.open(cohort_path), {}
    for worth, seed in WORTH.items():
        folder = fitted(shared_workspace.root / worth, cohort, worth, seed)
        with tracked_run("train", {}) as run:
            run.log_model(folder)
        runs[worth] = run.run_id
    return runs


def fitted(folder: Path, cohort: Cohort, worth: str, seed: int) -> Path:
    torch.manual_seed(seed)
    system = build("toy-classifier", {"network": {"width": 64}}).eval()
    images = torch.from_numpy(cohort.images(range(len(cohort))))
    with torch.no_grad():
        features = system.network[:-1](system.to_input(images)).double()
        grade = torch.from_numpy(cohort.label("grade"))
        noise = torch.randn(len(cohort), dtype=torch.float64)
        wanted = {"good": grade, "bad": noise, "fair": grade + 2 * noise, "diverged": grade}[worth]
        scaled = torch.cat([features, torch.ones(len(features), 1)], 1)
        weights = torch.linalg.lstsq(scaled, wanted[:, None], driver="gelsd").solution
        system.network[-1].weight.copy_(weights[:-1].T if worth != "diverged" else torch.nan)
        system.network[-1].bias.copy_(weights[-1])
    about = {
        "target": "grade",
        "image": {"dtype": "uint8", "channels": ["r", "g", "b"], "dims": ["y", "x"], "grid": [32, 32]},
    }
    save_model(folder, system.name, system.config.model_dump(mode="json"), system.state_dict(), **about)
    return folder


@pytest.fixture
def name(trained: dict[str, str]) -> str:
    """A registered model that no other test has."""
    return f"toy-{next(_names)}"


def registered(name: str, trained: dict[str, str], *worths: str) -> None:
    """Versions 1, 2, … of these worths, the last of them the challenger; nobody leads."""
    for worth in worths:
        propose(name, register_model(tracking_client(), name, trained[worth]))


def led(name: str, trained: dict[str, str], *worths: str) -> None:
    """As `registered`, and version 1 leads."""
    registered(name, trained, *worths)
    tracking_client().set_registered_model_alias(name, "champion", "1")


def compared(name: str, cohort: Cohort, version: int, gate: Gate = BY_SCORE, **named):
    return compare_with_champion(name, cohort.path, version, gate, settings=LOOP, **named)


def test_first_model_leads_with_its_own_figures(name: str, trained, cohort: Cohort):
    registered(name, trained, "bad")
    answer = compared(name, cohort, 1)
    assert (answer["decision"], answer["reason"], answer["reused"]) == ("promoted", "there was no champion", False)
    assert champion_version(name) == 1
    assert set(answer["metrics"]) == {"challenger"}
    assert 0 < answer["metrics"]["challenger"]["ap_pooled"] < 1
    assert len(frozen_cases(name).table) == answer["frozen_cases"] == int((cohort.table["split"] == "test").sum())


def test_better_challenger_is_promoted_and_a_worse_one_refused(name: str, trained, cohort: Cohort):
    led(name, trained, "bad", "good")
    better = compared(name, cohort, 2)
    assert better["decision"] == "promoted", better["reason"]
    assert tuple(registry_state(name).values()) == (2, None, 1)
    propose(name, register_model(tracking_client(), name, trained["fair"]))
    worse = compared(name, cohort, 3)
    assert worse["decision"] == "refused"
    assert tuple(registry_state(name).values()) == (2, 3, 1)
    assert worse["earlier"] == 1


def test_figures_are_those_of_maps_and_scores_measured_by_hand(name: str, trained, cohort: Cohort):
    led(name, trained, "fair", "good")
    gate = Gate(metric="auc_referable", resamples=100, seed=5)
    answer = compared(name, cohort, 2, gate)
    cohort, frozen = Cohort.open(cohort.path), frozen_cases(name)
    cases = indices_of(cohort, frozen)
    metrics, names = answer["metrics"], {"challenger": map_set(name, 2), "champion": map_set(name, 1)}
    areas = {role: auc(cohort, maps, cases) for role, maps in names.items()}
    assert {role: metrics[role]["auc_referable"] for role in metrics} == pytest.approx(areas)
    assert answer["gains"]["auc_referable"] == pytest.approx(areas["challenger"] - areas["champion"])
    annotated = [case for case in cases if cohort.table["has_masks"][case]]
    patients = cohort.table.loc[annotated, "patient_id"].tolist()
    evidence = gather_evidence(cohort, names, annotated, [])
    drawn = {"resamples": 100, "seed": 5}
    expected = localization_metrics(evidence["challenger"], patients, **drawn)
    assert metrics["challenger"]["ap_pooled_interval"] == pytest.approx(expected["ap_pooled_interval"])
    paired = paired_difference(evidence["challenger"], evidence["champion"], patients, **drawn)
    assert answer["gains"]["ap_pooled_interval"] == pytest.approx(paired["ap_pooled_interval"])
    errors = {role: metrics[role]["mse"] for role in metrics}
    assert answer["gains"]["mse"] == pytest.approx(errors["champion"] - errors["challenger"])


def map_set(name: str, version: int) -> str:
    return map_name(describe_model(locate_model(f"{name}/{version}")), "S")


def auc(cohort: Cohort, maps: str, cases: list[int]) -> float:
    return roc_auc_score(cohort.label("grade")[cases] > 1, cohort.maps(maps).table.loc[cases, "score"])


def test_decision_is_recorded_with_report_tags_and_files(name: str, trained, cohort: Cohort, tmp_path: Path):
    led(name, trained, "bad", "good")
    (tmp_path / "known.txt").write_text("cases")
    answer = compared(name, cohort, 2, tags={"retrain.name": name}, files=[tmp_path / "known.txt"])
    run = tracking_client().get_run(answer["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["retrain.name"] == name
    assert (run.data.tags["champion"], run.data.tags["challenger"]) == ("1", "2")
    assert run.data.tags["content"] == cohort.content_digest()
    assert run.data.metrics["gain/auc_referable"] == pytest.approx(answer["gains"]["auc_referable"])
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/decision.json")
    assert json.loads(text)["verdict"] == answer["verdict"]
    page = Path(answer["report"]).read_text()
    for part in ("challenger (version 2)", "champion (version 1)", answer["verdict"]["rule"], "ap_pooled", "<img"):
        assert part in page
    assert decisions(name)[0]["interval"] == answer["verdict"]["interval"]


@pytest.mark.slow
def test_same_comparison_is_decided_once(name: str, trained, cohort: Cohort):
    registered(name, trained, "bad", "good", "fair")
    first = [compared(name, cohort, version) for version in (1, 2, 3)]
    again = [compared(name, cohort, version) for version in (2, 3)]
    assert [answer["run_id"] for answer in again] == [answer["run_id"] for answer in first[1:]]
    assert all(answer["reused"] for answer in again)
    assert again[0] == {**first[1], "reused": True}
    assert len(decisions(name)) == 3
    assert not compared(name, cohort, 3, BY_SCORE.model_copy(update={"margin": 0.01}))["reused"]


def test_rollback_outlives_the_comparison_that_promoted_the_model(name: str, trained, cohort: Cohort):
    led(name, trained, "bad", "good")
    compared(name, cohort, 2)
    promote_by_hand(name, "previous", "it missed haemorrhages")
    assert compared(name, cohort, 2)["reused"]
    assert champion_version(name) == 1


@pytest.mark.slow
def test_same_weights_registered_twice_are_refused_and_keep_the_champions_maps(name: str, trained, cohort: Cohort):
    led(name, trained, "good")
    twin = tracking_client().create_model_version(name, f"runs:/{trained['good']}/model", trained["good"])
    answer = compared(name, cohort, int(twin.version))
    assert answer["decision"] == "refused"
    assert answer["verdict"]["interval"] == [0, 0]
    assert map_set(name, 1) in Cohort.open(cohort.path).map_names()


def test_maps_of_a_refused_challenger_are_dropped_and_the_champions_stay(name: str, trained, cohort: Cohort):
    led(name, trained, "good", "bad")
    compared(name, cohort, 2)
    kept = Cohort.open(cohort.path).map_names()
    assert map_set(name, 1) in kept
    assert not [maps for maps in kept if maps.startswith(map_set(name, 2).removesuffix("/S"))]


@pytest.mark.slow
def test_maps_of_a_refused_challenger_that_cover_other_cases_too_stay(name: str, trained, cohort: Cohort):
    led(name, trained, "good", "bad")
    localize_refined(cohort.path, str(locate_model(f"{name}/2")), ["validation"], LOOP, 32)
    compared(name, cohort, 2)
    opened = Cohort.open(cohort.path)
    assert len(opened.maps(map_set(name, 2))) > len(frozen_cases(name).table)
    opened.drop_maps(map_set(name, 2))


def test_diverged_challenger_is_refused_with_its_reason(name: str, trained, cohort: Cohort):
    led(name, trained, "good", "diverged")
    answer = compared(name, cohort, 2)
    assert answer["decision"] == "refused"
    assert answer["reason"].startswith("the challenger cannot be measured: ")
    assert champion_version(name) == 1


def test_too_few_cases_refuse(name: str, trained, cohort: Cohort):
    led(name, trained, "bad", "good")
    answer = compared(name, cohort, 2, BY_SCORE.model_copy(update={"min_cases": 1000}))
    assert answer["decision"] == "refused"
    assert "the rule needs 1000 cases" in answer["reason"]


def test_changed_frozen_case_stops_the_comparison(name: str, trained, cohort: Cohort, tmp_path: Path):
    ingest(open_source("sim:fundus?cases=20&size=32&seed=3"), tmp_path / "fundus")
    own = Cohort.open(tmp_path / "fundus")
    led(name, trained, "bad", "good")
    case = indices_of(own, freeze(name, own.path, "grade"))[0]
    own.record([], corrections=Corrections(labels={case: {"grade": (own.label("grade")[case] + 1) % 5}}))
    with pytest.raises(PromotionError, match="--freeze COHORT"):
        compared(name, own, 2)
    assert decisions(name) == []


@pytest.mark.slow
@pytest.mark.parametrize("moment", [BEFORE_IT_IS_RECORDED, BEFORE_IT_IS_APPLIED])
def test_killed_comparison_changed_nothing_or_is_completed_by_the_next(name: str, trained, cohort: Cohort, moment: str):
    led(name, trained, "bad", "good")
    killed = elsewhere(f"{DIE}{moment}\n{COMPARE}", name, cohort)
    assert killed.wait() == -signal.SIGKILL
    is_recorded = moment == BEFORE_IT_IS_APPLIED
    assert champion_version(name) == 1
    assert len(decisions(name)) == is_recorded
    answer = compared(name, cohort, 2)
    assert (answer["decision"], answer["reused"]) == ("promoted", is_recorded)
    assert champion_version(name) == 2
    assert len(decisions(name)) == 1


def elsewhere(script: str, name: str, cohort: Cohort) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", script, name, cohort.path]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE)


@pytest.mark.slow
def test_champion_that_changes_during_the_measurements_is_the_one_compared_with(
    name: str, trained, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
):
    led(name, trained, "bad", "good", "fair")
    measure, rolled = comparison.measure, []

    def measure_while_somebody_promotes(*arguments, **named):
        if not rolled:
            rolled.append(promote_by_hand(name, 2, "meanwhile"))
        return measure(*arguments, **named)

    monkeypatch.setattr(comparison, "measure", measure_while_somebody_promotes)
    answer = compared(name, cohort, 3)
    assert (answer["champion"], answer["decision"]) == (2, "refused")
    assert champion_version(name) == 2


@pytest.mark.slow
def test_two_at_once_decide_a_comparison_once(name: str, trained, cohort: Cohort):
    led(name, trained, "bad", "good")
    both = [elsewhere(COMPARE, name, cohort) for _ in range(2)]
    runs = {process.communicate()[0].split()[-1] for process in both}
    assert len(runs) == 1
    assert len(decisions(name)) == 1
    assert champion_version(name) == 2


def test_model_of_another_label_is_refused_in_one_line(name: str, trained, cohort: Cohort):
    led(name, trained, "good", "bad")
    tracking_client().set_tag(freeze(name, cohort.path, "grade").run_id, "target", "stage")
    with pytest.raises(PromotionError, match="learned 'grade', the frozen cases are labelled with 'stage'"):
        compared(name, cohort, 2)


def test_scores_alone_decide_where_nobody_drew_masks(name: str, trained, tmp_path: Path):
    ingest(open_source("sim:fundus?cases=20&size=32&seed=3"), tmp_path / "fundus", fractions=(0.2, 0.2, 0.6))
    own = Cohort.open(tmp_path / "fundus")
    own.record([], corrections=Corrections(masks=dict.fromkeys(range(len(own)))))
    registered(name, trained, "bad")
    answer = compared(name, own, 1, Gate(resamples=100))
    assert answer["verdict"]["metric"] == "auc_referable"
    assert "ap_pooled" not in answer["metrics"]["challenger"]
    assert np.isfinite(answer["metrics"]["challenger"]["mse"])
