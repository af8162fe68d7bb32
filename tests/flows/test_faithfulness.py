"""`evaluate --model`: maps tested against the model that made them; and `--only-lesions`."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storage.cohort import Cohort
from tests.flows.conftest import Command

LOOP = ["--set", "max_iterations=2", "--set", "stop_score=-10"]
NAMED = ["--maps", "gradient", "--maps", "S"]


@pytest.fixture(scope="module")
def evaluated(command: Command, fundus_cohort: Path, trained_model: Path) -> dict:
    model, answer = ["--model", trained_model], fundus_cohort.parent / "faithful.json"
    plain = ["--method", "saliency", "--saliency", "gradient"]
    assert command("localize", fundus_cohort, *model, *plain).status == 0
    assert command("localize", fundus_cohort, *model, *LOOP).status == 0
    done = command("evaluate", fundus_cohort, *NAMED, *model, "--resamples", "100", "--json", answer)
    assert done.status == 0, done.err
    assert "Faithfulness to the model" in done.out
    assert "S: no randomisation test, not made by a saliency method alone" in done.out
    return json.loads(answer.read_text())


def test_every_map_set_gets_deletion_insertion_and_road_with_intervals(evaluated: dict):
    for metrics in evaluated["methods"].values():
        for key in ("deletion", "insertion", "road"):
            low, high = metrics[f"{key}_interval"]
            assert low <= metrics[key] <= high


def test_maps_of_a_saliency_method_alone_are_put_to_the_randomisation_test(evaluated: dict):
    gradient, loop = evaluated["methods"].values()
    assert gradient["randomised_rank"] < 0.9
    assert gradient["randomised_ssim"] < 0.99
    assert "randomised_rank" not in loop
    assert evaluated["faithfulness"]["left_out"]["S"].endswith("iterative-refinement")
    assert evaluated["faithfulness"]["layers_randomised"][-1] == 1


def test_the_difference_of_two_map_sets_has_what_both_have(evaluated: dict):
    difference = evaluated["differences"]["gradient - S"]
    gradient, loop = evaluated["methods"].values()
    assert difference["deletion"] == pytest.approx(gradient["deletion"] - loop["deletion"])
    assert "randomised_rank" not in difference


def test_curves_begin_and_end_with_the_same_images_for_every_map_set(evaluated: dict):
    gradient, loop = evaluated["faithfulness"]["curves"].values()
    for key in ("deletion", "insertion"):
        assert gradient[key][0] == pytest.approx(loop[key][0], abs=1e-4)
        assert gradient[key][-1] == pytest.approx(loop[key][-1], abs=1e-4)
    assert gradient["deletion"][0] == pytest.approx(gradient["insertion"][-1], abs=1e-4)


def test_the_report_shows_the_curves(evaluated: dict):
    page = Path(evaluated["report"]).read_text()
    assert "Faithfulness to the model" in page
    assert "S was not put to the randomisation test" in page


def test_without_a_model_nothing_is_said_of_faithfulness(
    command: Command, fundus_cohort: Path, evaluated: dict, tmp_path: Path
):
    answer = tmp_path / "plain.json"
    assert command("evaluate", fundus_cohort, *NAMED, "--resamples", "100", "--json", answer).status == 0
    plain = json.loads(answer.read_text())
    assert "faithfulness" not in plain
    assert "model" not in plain
    for name, metrics in plain["methods"].items():
        assert "deletion" not in metrics
        assert metrics["ap_pooled"] == evaluated["methods"][name]["ap_pooled"]


def test_maps_of_another_model_are_refused(command: Command, fundus_cohort: Path, trained_model: Path, evaluated: dict):
    cohort = Cohort.open(fundus_cohort)
    cases = cohort.table.index[cohort.table["split"] == "test"].tolist()
    table = pd.DataFrame({"score": np.zeros(len(cases))})
    maps = np.zeros((len(cases), 64, 64), np.float32)
    cohort.write_maps("someone/elses", cases, maps, table, attrs={"model": "0123", "target": "grade"})
    done = command("evaluate", fundus_cohort, "--maps", "elses", "--model", trained_model, "--resamples", "100")
    assert done.status != 0
    assert "the maps elses were made by model version 0123" in done.err


def test_only_lesions_leaves_out_the_cases_without_one(
    command: Command, fundus_cohort: Path, evaluated: dict, tmp_path: Path
):
    file = tmp_path / "answer.json"
    answers = []
    for option in ([], ["--only-lesions"]):
        arguments = [*NAMED, "--split", "all", "--resamples", "100", "--json", file]
        done = command("evaluate", fundus_cohort, *arguments, *option)
        assert done.status == 0, done.err
        answers.append(json.loads(file.read_text()))
    every, lesions = answers
    cohort = Cohort.open(fundus_cohort)
    assert lesions["cases"] == sum(cohort.masks(case).any() for case in range(40)) < every["cases"] == 40
    for name, metrics in lesions["methods"].items():
        assert metrics["energy"] == pytest.approx(every["methods"][name]["energy"])
        assert metrics["ap_pooled"] >= every["methods"][name]["ap_pooled"]
    assert lesions["classifier"] == every["classifier"]
    assert "evaluated" not in every
