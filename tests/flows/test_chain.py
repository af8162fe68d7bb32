"""The verbs one after the other on a small simulated cohort, as a user types them."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from storage.cohort import Cohort
from tests.flows.conftest import TINY_NETWORK, Command

LOOP = ["--set", "max_iterations=2", "--set", "stop_score=-10"]


@pytest.fixture(scope="module")
def localized(command: Command, fundus_cohort: Path, trained_model: Path) -> dict:
    answer = fundus_cohort.parent / "localize.json"
    done = command("localize", fundus_cohort, "--model", trained_model, *LOOP, "--json", answer)
    assert done.status == 0, done.err
    return json.loads(answer.read_text())


def test_ingesting_again_adds_nothing(command: Command, fundus_cohort: Path, tmp_path: Path):
    before = Cohort.open(fundus_cohort).content_digest()
    answer = tmp_path / "again.json"
    source = "sim:fundus?cases=40&size=64&seed=1"
    done = command("ingest", source, fundus_cohort, "--json", answer)
    assert done.status == 0
    counts = json.loads(answer.read_text())
    assert (counts["added"], counts["known"]) == (0, 40)
    assert Cohort.open(fundus_cohort).content_digest() == before


def test_training_again_hands_back_the_same_model(command: Command, fundus_cohort: Path, trained_model: Path, tmp_path):
    answer = tmp_path / "train.json"
    arguments = ["train", "iterative-refinement", fundus_cohort, "--epochs", "2", *TINY_NETWORK, "--json", answer]
    assert command(*arguments, "--set", "network.block5_valid=false").status == 0
    again = json.loads(answer.read_text())
    assert again["reused"]
    assert Path(again["model"]) == trained_model


def test_every_case_gets_a_raw_map_a_trajectory_and_a_stop_reason(fundus_cohort: Path, localized: dict):
    cohort = Cohort.open(fundus_cohort)
    refined, initial = (cohort.maps(name) for name in localized["maps"])
    assert sorted(refined.indices) == list(range(40))
    assert set(refined.table["stop_reason"]) <= {"score", "cap", "empty_mask"}
    case = int(refined.table["iterations"].idxmax())
    assert refined.saliency(case).min() >= 0
    assert (refined.saliency(case) >= initial.saliency(case) - 1e-6).all()  # S = s_0 + nonnegative terms
    assert refined.array("inpainted", case).shape == (3, 64, 64)
    assert refined.array("scores", case)[0] == pytest.approx(refined.table.at[case, "score"])


def test_localizing_again_makes_no_new_map_and_other_settings_replace_them(
    command: Command, fundus_cohort: Path, trained_model: Path, localized: dict, tmp_path: Path
):
    answer = tmp_path / "again.json"
    assert command("localize", fundus_cohort, "--model", trained_model, *LOOP, "--json", answer).status == 0
    assert json.loads(answer.read_text())["new"] == 0
    other = ["--set", "max_iterations=1", "--set", "stop_score=-10"]
    assert command("localize", fundus_cohort, "--model", trained_model, *other, "--json", answer).status == 0
    assert json.loads(answer.read_text())["new"] == 40
    assert command("localize", fundus_cohort, "--model", trained_model, *LOOP).status == 0


def test_evaluation_gives_every_method_with_intervals_and_paired_differences(
    command: Command, fundus_cohort: Path, trained_model: Path, localized: dict, tmp_path: Path
):
    answer = tmp_path / "evaluate.json"
    plain = ["--method", "saliency", "--saliency", "gradient"]
    assert command("localize", fundus_cohort, "--model", trained_model, *plain).status == 0
    maps = ["--maps", "S", "--maps", "s_0", "--maps", "gradient"]
    done = command("evaluate", fundus_cohort, *maps, "--resamples", "100", "--json", answer)
    assert done.status == 0, done.err
    result = json.loads(answer.read_text())
    assert list(result["methods"]) == ["S", "s_0", "gradient"]
    for metrics in result["methods"].values():
        low, high = metrics["ap_pooled_interval"]
        assert 0 <= low <= metrics["ap_pooled"] <= high <= 1
    assert list(result["differences"]) == ["S - s_0", "S - gradient"]
    assert math.isfinite(result["classifier"]["mse"])
    assert Path(result["report"]).read_text().count("data:image/png;base64") >= 2
    assert "ap_pooled" in done.out


@pytest.mark.parametrize("regions", [["--masks"], ["--maps", "S"]])
def test_radiomics_of_true_and_of_found_lesions_is_a_table_with_a_dictionary(
    command: Command, fundus_cohort: Path, localized: dict, regions: list[str], tmp_path: Path
):
    out = tmp_path / "features.parquet"
    done = command("radiomics", fundus_cohort, *regions, "--split", "test", "-o", out)
    assert done.status == 0, done.err
    table, dictionary = pd.read_parquet(out), pd.read_csv(out.with_suffix(".dictionary.csv"))
    assert set(dictionary["name"]) <= set(table.columns)
    cohort = Cohort.open(fundus_cohort).table.set_index("case_id")
    assert set(cohort.loc[table["case_id"], "split"]) == {"test"}
    again = command("radiomics", fundus_cohort, *regions, "--split", "test", "-o", out)
    assert again.out == done.out


def test_info_tells_cases_labels_and_maps(command: Command, fundus_cohort: Path, localized: dict):
    shown = command("info", fundus_cohort).out
    assert "cases        40" in shown
    assert localized["maps"][0] in shown


def test_localization_that_breaks_off_goes_on_with_the_cases_that_are_left(
    command: Command, fundus_cohort: Path, trained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tasks import localization

    def breaking(*arguments, **options):
        for count, result in enumerate(whole(*arguments, **options)):
            if count == 20:
                raise ConnectionError("the machine went away")
            yield result

    whole, other = localization.refine, ["--set", "decay=0.5", *LOOP]
    monkeypatch.setattr(localization, "SHARD", 8)
    monkeypatch.setattr(localization, "refine", breaking)
    with pytest.raises(ConnectionError):
        command("localize", fundus_cohort, "--model", trained_model, *other)
    monkeypatch.setattr(localization, "refine", whole)
    answer = tmp_path / "rest.json"
    assert command("localize", fundus_cohort, "--model", trained_model, *other, "--json", answer).status == 0
    assert json.loads(answer.read_text())["new"] == 40 - 16
