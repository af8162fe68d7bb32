"""The tables of an answer, and the page made of kept ones."""

import copy
from typing import Any

import pytest

from tasks.reproduction.document import PAGE, document, kept_answers
from tasks.reproduction.tables import arm_table, choice_table, failure_line, gain_table, rule_table

ANSWER: dict[str, Any] = {
    "system": "s",
    "experiment": "toy",
    "preset": "small",
    "command": "lesionflow reproduce toy --preset small --seeds 3",
    "date": "2026-01-02",
    "device": "abacus",
    "seeds": 3,
    "seconds": 12.5,
    "metric": "ap_minmax",
    "arms": {
        "a": {
            "ap_minmax": {"mean": 0.4, "interval": [0.3, 0.5], "seeds": 3},
            "energy": {"mean": 0.1, "interval": None},
        },
        "b": {"ap_minmax": {"mean": 0.1, "interval": None, "seeds": 1}},
    },
    "reported": {"a": 0.397},
    "reported_on": "the paper's own cases",
    "expect": [
        {
            "rule": "a >= 3 * b",
            "holds": True,
            "by": "interval",
            "left": 0.4,
            "right": 0.3,
            "margin": 0.1,
            "interval": [0.05, 0.15],
        },
        {"rule": "a > c", "holds": None, "reason": "no figures of c"},
    ],
    "gains": [
        {
            "arm": "a",
            "over": "b",
            "metric": "energy",
            "reported": 0.112,
            "spread": 0.02,
            "mean": 0.05,
            "interval": [-0.01, 0.11],
            "by_seed": {0: {"relative": 0.05, "difference": 0.02, "interval": [-0.01, 0.05]}},
        }
    ],
    "failed": [{"arm": "c", "seed": 0, "reason": "out of memory"}],
    "protocol": "transductive",
    "evaluated": "lesions",
    "split": "all",
    "lesions": ["biomarker"],
    "source": {"simulated": "skin", "cases": 8},
    "cohort_cases": 8,
    "cases": 4,
    "patients": 4,
    "snapshot": "S1",
    "epochs": {"a": 2, "b": 3},
    "seconds_by_arm": {"a": 10.0, "b": 2.5},
    "trials": [{}, {}, {}],
    "trainings": {"k1": ["a seed 0", "b seed 0"], "k2": ["a seed 1"]},
    "git_commit": "abc",
    "versions": {"torch": "2"},
}


def test_person_who_marked_the_cases_too_has_a_row_with_intervals_over_patients():
    second = {"ap_minmax": 0.6, "ap_minmax_interval": [0.5, 0.7], "accuracy": 0.9, "accuracy_interval": [0.8, 1.0]}
    table = arm_table({**ANSWER, "observers": {"second": second}}).set_index("arm")
    assert table.at["second", "ap_minmax, ours"] == "0.600 [0.500, 0.700]"
    assert table.at["second", "paper"] == "–"
    assert table.at["a", "ap_minmax, ours"] == "0.400 [0.300, 0.500]"


def test_the_table_has_the_metrics_that_the_experiment_shows():
    shown = arm_table({**ANSWER, "shown": ["energy"]})
    assert list(shown.columns) == ["arm", "ap_minmax, ours", "paper", "energy"]


def test_arms_stand_beside_the_papers_figures_and_failed_ones_are_not_left_out():
    assert arm_table(ANSWER).to_dict("list") == {
        "arm": ["a", "b", "c"],
        "ap_minmax, ours": ["0.400 [0.300, 0.500]", "0.100", "–"],
        "paper": ["0.397", "–", "–"],
        "energy": ["0.100", "–", "–"],
    }


def test_each_metric_that_the_paper_reports_stands_beside_its_figure():
    answer = {**ANSWER, "metric": "energy", "reported": {"a": {"energy": 0.2, "ap_minmax": 0.397}, "b": 0.3}}
    assert arm_table(answer).to_dict("list") == {
        "arm": ["a", "b", "c"],
        "energy, ours": ["0.100", "–", "–"],
        "paper": ["0.200", "0.300", "–"],
        "ap_minmax, ours": ["0.400 [0.300, 0.500]", "0.100", "–"],
        "paper, ap_minmax": ["0.397", "–", "–"],
    }


def test_choice_shows_all_candidates_and_the_one_taken():
    among = [{"settings": {"of": {"layer": "x"}}, "value": 0.25}, {"settings": {"of": {"layer": "y"}}, "value": None}]
    answer = {**ANSWER, "choices": {"a": {"metric": "energy", "among": among, "chosen": {"of": {"layer": "x"}}}}}
    assert choice_table(answer).to_dict("list") == {
        "arm": ["a", "a"],
        "settings": ["of.layer x", "of.layer y"],
        "chosen by": ["energy", "energy"],
        "on validation": ["0.250", "–"],
        "taken": ["yes", ""],
    }
    assert "| a | of.layer x | energy | 0.250 | yes |" in document([answer])
    assert choice_table(ANSWER).empty


def test_rules_say_whether_they_hold_by_interval():
    assert rule_table(ANSWER)["holds"].tolist() == ["yes, by interval", "– (no figures of c)"]
    assert rule_table(ANSWER)["left − right"].tolist() == ["0.100 [0.050, 0.150]", "–"]


def test_gains_are_in_percent_with_the_papers_beside():
    [row] = gain_table(ANSWER).to_dict("records")
    assert row["ours"] == "+5.0 % [-1.0, +11.0]"
    assert row["paper"] == "+11.2 ± 2.0 %"
    assert row["seed 0"] == "+0.020 [-0.010, +0.050]"


def test_failures_are_one_line():
    assert failure_line({**ANSWER, "failed": []}) == ""
    assert failure_line(ANSWER).startswith("failed: c with seed 0: out of memory; the rest is done")
    several = {"experiments": {"toy": ANSWER}, "failed": [{"experiment": "other", "reason": "no source"}]}
    assert failure_line(several).startswith("failed: other: no source (and 1 more); ")


def test_page_has_a_section_an_experiment_and_preset_with_device_date_and_command():
    other = copy.deepcopy(ANSWER) | {"preset": "paper"}
    page = document([ANSWER, other])
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert headings == ["## toy, preset paper, on abacus", "## toy, preset small, on abacus"]
    assert "`lesionflow reproduce toy --preset small --seeds 3` on 2026-01-02." in page
    assert "| a | 0.400 [0.300, 0.500] | 0.397 | 0.100 |" in page
    assert "trained and evaluated on the same cases" in page
    assert "out of memory" in page


def test_kept_page_is_what_the_files_give():
    assert PAGE.read_text() == document(kept_answers()), "run `make reproductions`"


@pytest.mark.parametrize("answer", kept_answers(), ids=lambda answer: f"{answer['experiment']}-{answer['preset']}")
def test_kept_answers_have_every_arm_with_its_mean_interval_and_seeds(answer):
    """An arm of another kind, such as a classifier beside a generator, has other figures of those shown."""
    shown = [answer["metric"], *answer.get("shown", [])]
    for metrics in answer["arms"].values():
        figures = [metrics[name] for name in shown if name in metrics]
        assert figures
        assert all({"mean", "interval", "seeds"} <= figure.keys() for figure in figures)
    assert any(answer["metric"] in metrics for metrics in answer["arms"].values())
