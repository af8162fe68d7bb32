"""`lesionflow study` on simulated features whose outcomes are planted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.flows.conftest import Command
from tests.flows.test_mistakes import one_line
from tests.models.outcome.patients import simulated

PATIENTS, FEATURES = 90, 12
QUICK = ["--repeats", "2", "--folds", "3", "--workers", "1", "--set", "numbers=[3]", "--set", "inner_folds=2"]
FEW = ["--set", "permutations=4", "--set", "resamples=200", "--set", "penalties=[1.0, 0.1]"]


def written(file: Path, rows: pd.DataFrame, features: list[str]) -> Path:
    """A table as `radiomics` leaves it: with its data dictionary."""
    rows.to_parquet(file)
    dictionary = pd.DataFrame({"name": [*features, "n_pixels"], "family": ["statistics"] * len(features) + ["lesion"]})
    dictionary.to_csv(file.with_suffix(".dictionary.csv"), index=False)
    return file


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn = simulated(PATIENTS, FEATURES, 0, strength=1.2)
    rows = drawn.rows.assign(
        case_id=drawn.rows["patient_id"], split="train", scanner=np.arange(PATIENTS) % 2, age=np.arange(PATIENTS) % 7
    )
    return written(tmp_path_factory.mktemp("features") / "truth.parquet", rows, drawn.features)


@pytest.fixture(scope="module")
def noisier(features: Path) -> Path:
    """Features of the same patients as poor masks would have them, but for two who were not found."""
    rows = pd.read_parquet(features).iloc[2:]
    names = [name for name in rows.columns if name.startswith("f")]
    rows[names] += 3 * np.random.default_rng(1).normal(size=(len(rows), len(names)))
    return written(features.with_name("found.parquet"), rows, names)


@pytest.fixture(scope="module")
def study(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict]:
    def run(*arguments: str | Path) -> dict[str, Any]:
        file = tmp_path_factory.mktemp("study") / "study.json"
        done = command("study", *arguments, *QUICK, *FEW, "--json", file)
        assert done.status == 0, done.err
        return {**json.loads(file.read_text()), "out": done.out}

    return run


@pytest.fixture(scope="module")
def compared(study: Callable[..., dict], features: Path, noisier: Path) -> dict[str, Any]:
    followed = ["--time", "days", "--event", "death"]
    return study(features, "--outcome", "response", "--compare", noisier, *followed)


def test_planted_outcome_is_found_and_noisier_features_are_worse(compared: dict):
    low, high = compared["metrics"]["auc_interval"]
    assert 0.5 < low < compared["metrics"]["auc"] < high
    comparison = compared["comparison"]
    assert comparison["difference"]["auc"] == pytest.approx(compared["metrics"]["auc"] - comparison["metrics"]["auc"])
    assert comparison["difference"]["auc"] > 0
    assert (compared["patients"], compared["unpaired"]) == (PATIENTS - 2, 2)


def test_patients_with_a_value_of_a_label_are_studied_alone(study: Callable[..., dict], features: Path):
    found = study(features, "--outcome", "response", "--set", "where.scanner=1")
    assert found["patients"] == PATIENTS // 2


@pytest.mark.parametrize(
    ("where", "words"),
    [("where.scaner=1", "no label 'scaner'; labels are:"), ("where.scanner=7", "no row of scanner 7; values: 0, 1")],
)
def test_patients_that_are_not_there_are_told(command: Command, features: Path, where: str, words: str):
    done = command("study", features, "--outcome", "response", "--set", where)
    one_line(done, words)


def test_planted_features_are_selected_most(compared: dict):
    assert {row["feature"] for row in compared["selected"][:3]} == {"f0", "f1", "f2"}
    assert compared["permutation"]["p"] == pytest.approx(0.2)


def test_command_prints_what_was_found(compared: dict):
    for words in ("response: 88 patients", "calibration_slope", "log-rank", "report"):
        assert words in compared["out"]


def test_page_shows_every_figure(compared: dict):
    page = Path(compared["report"]).read_text()
    for heading in ("ROC", "Calibration", "Survival of the predicted groups", "Permutation test", "Selected features"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("data:image/png") == 5


def test_predictions_hold_each_patient_once_a_repeat(compared: dict):
    table = pd.read_parquet(compared["predictions"])
    assert len(table) == 2 * (PATIENTS - 2)
    assert table.groupby("repeat")["patient_id"].nunique().tolist() == [PATIENTS - 2] * 2


def test_model_in_mlflow_takes_the_table_of_features(compared: dict, features: Path, workspace_folder: Path):
    import mlflow

    run_id = compared["run_id"]
    tracking = f"sqlite:///{workspace_folder / 'mlflow.db'}"
    folder = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="model", tracking_uri=tracking)
    model = mlflow.pyfunc.load_model(folder)
    rows = pd.read_parquet(features)
    probability = model.predict(rows[[f"f{number}" for number in range(FEATURES)]])[:, 1]
    assert np.corrcoef(probability, rows["response"])[0, 1] > 0.3


def test_same_study_is_reused(study: Callable[..., dict], compared: dict, features: Path, noisier: Path):
    again = study(features, "--outcome", "response", "--compare", noisier, "--time", "days", "--event", "death")
    assert again["reused"]
    assert again["metrics"] == compared["metrics"]


def test_survival_is_predicted(study: Callable[..., dict], features: Path):
    pytest.importorskip("sksurv")
    harmonised = ["--harmonise", "scanner", "--set", "preserve=[age]"]
    answer = study(features, "--time", "days", "--event", "death", *harmonised)
    assert answer["model"] == "cox"
    assert answer["metrics"]["harrell_c"] > 0.6
    assert answer["risk_groups"]["log_rank_p"] < 0.05


def test_mistakes_are_one_line(command: Command, features: Path, tmp_path: Path):
    bare = tmp_path / "bare.parquet"
    pd.read_parquet(features).to_parquet(bare)
    unstable = tmp_path / "stability.csv"
    pd.DataFrame({"name": ["f0"], "icc": [0.1]}).to_csv(unstable, index=False)
    by_class = ["--outcome", "response"]
    mistakes = {
        (features, "--outcome", "respnse"): "response, days, death",
        (features,): "--outcome",
        (features, "--time", "days"): "--event",
        (features, *by_class, "--set", "model=cox"): "logistic, forest",
        (features, *by_class, "--set", "pernalties=3"): "pernalties is not a setting",
        (features, *by_class, "--folds", "60"): "lower --folds",
        (features, *by_class, "--split", "test"): "splits: train",
        (features, *by_class, "--stability", unstable): "no feature has icc",
        (features, "--outcome", "age"): "positive_from",
        (bare, *by_class): "bare.dictionary.csv",
        (tmp_path / "no.parquet", *by_class): "lesionflow radiomics",
        (unstable, *by_class): "no Parquet file",
    }
    for arguments, word in mistakes.items():
        done = command("study", *arguments)
        assert done.status == 2, (arguments, done)
        one_line(done, word)


def test_features_of_a_cohort_are_studied_as_radiomics_writes_them(
    command: Command, study: Callable[..., dict], fundus_cohort: Path, tmp_path: Path
):
    table = tmp_path / "features.parquet"
    done = command("radiomics", fundus_cohort, "--masks", "-o", table)
    assert done.status == 0, done.err
    answer = study(table, "--outcome", "grade", "--set", "positive_from=3", "--set", "differing=highest")
    assert answer["patients"] > 10
    assert not {"n_pixels", "area", "grade"} & {row["feature"] for row in answer["selected"]}
