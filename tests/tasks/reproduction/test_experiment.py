"""Experiment files: what lies on what, and mistakes in one line that names the field."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from models.errors import ModelError
from tasks.experiments import experiment_names, preset
from tasks.reproduction.experiment import Experiment, loaded_experiment, title
from tasks.reproduction.plan import source_address

TOY: dict[str, Any] = {
    "system": "iterative-refinement",
    "source": {"simulated": "fundus", "cases": 40, "size": 64},
    "settings": {"network": {"width": 0.5, "dropout": 0.1}},
    "trainer": {"max_epochs": 9, "batch_size": 8},
    "presets": {
        "small": {
            "source": {"cases": 20},
            "settings": {"network": {"width": 0.25}},
            "trainer": {"max_epochs": 3},
            "seeds": 2,
            "arms": {"b": {"trainer": {"max_epochs": 1}}},
        },
        "paper": None,
    },
    "search": {},
    "arms": {"a": {}, "b": {"settings": {"network": {"dropout": 0.3}}, "trainer": {"max_epochs": 2}}},
    "metric": "ap_minmax",
}


@pytest.fixture
def written(tmp_path: Path):
    def write(changes: dict[str, Any]) -> str:
        file = tmp_path / "toy.yaml"
        file.write_text(yaml.safe_dump({**TOY, **changes}, sort_keys=False))
        return str(file)

    return write


def loaded(path: str, changes: dict[str, Any] | None = None, preset: str = "small") -> Experiment:
    return loaded_experiment(path, preset, changes or {})


def test_preset_lies_on_the_file_and_the_arm_on_both(written):
    found = loaded(written({}))
    assert found.source == {"simulated": "fundus", "cases": 20, "size": 64}
    assert found.seeds == 2
    assert found.arms["a"].settings == {"network": {"width": 0.25, "dropout": 0.1}}
    assert found.arms["b"].settings == {"network": {"width": 0.25, "dropout": 0.3}}
    assert found.arms["a"].trainer == {"max_epochs": 3, "batch_size": 8}
    assert found.arms["b"].trainer == {"max_epochs": 1, "batch_size": 8}


def test_empty_preset_is_the_file_itself(written):
    found = loaded(written({}), preset="paper")
    assert (found.source["cases"], found.seeds, found.arms["b"].trainer["max_epochs"]) == (40, 3, 2)


def test_changes_of_the_command_lie_on_top(written):
    found = loaded(written({}), {"source": {"cases": 5}, "arms": {"b": {"trainer": {"max_epochs": 7}}}})
    assert (found.source["cases"], found.arms["b"].trainer["max_epochs"]) == (5, 7)
    assert found.arms["a"].trainer["max_epochs"] == 3


def test_arm_of_another_system_lies_on_that_systems_own_preset(written):
    arms = {"a": {"system": "iterative-refinement", "trainer": {"batch_size": 4}}}
    presets = {"small": {}}
    found = loaded(written({"system": "no-matter", "settings": {"x": 1}, "presets": presets, "arms": arms}))
    own = preset("iterative-refinement", "small")
    assert found.arms["a"].settings == own["settings"]
    assert found.arms["a"].trainer == {**own["trainer"], "batch_size": 4}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"armes": {}}, ("armes is not a setting",)),
        ({"arms": {}, "presets": {"small": {}}}, ("arms", "at least 1")),
        ({"arms": {"A-1": {}}}, ("arms.A-1", "pattern")),
        ({"arms": {"a": {"system": "nope"}}, "presets": {"small": {}}}, ("'nope'", "there are")),
        ({"arms": {"a": {"localize": {"method": "magic"}}}, "presets": {"small": {}}}, ("arms.a.localize.method",)),
        ({"arms": {"a": {"settngs": {}}}, "presets": {"small": {}}}, ("arms.a.settngs is not a setting",)),
        ({"metric": "auc"}, ("metric", "'auc'", "ap_pooled")),
        ({"protocol": "both"}, ("protocol", "transductive")),
        ({"reported": {"c": 0.1}}, ("reported", "no arm 'c'", "a, b")),
        ({"expect": ["a > c"]}, ("expect", "a > c", "no arm 'c'")),
        ({"expect": ["a >> b"]}, ("expect", "'a >> b' is no rule")),
        ({"expect": ["a.auc > b"]}, ("no metric 'auc'",)),
        ({"apart": ["rim"], "metric": "energy_disc"}, ("metric", "'energy_disc'", "with _rim")),
        ({"reported": {"a": {"auc": 0.1}}}, ("reported", "no metric 'auc'")),
        (
            {"arms": {"a": {"choose": {"metric": "energy_rim", "among": [{}, {}]}}}, "presets": {"small": {}}},
            ("arms.a.choose", "no metric 'energy_rim'"),
        ),
        (
            {
                "arms": {"a": {"choose": {"metric": "energy", "among": [{}, {}]}}},
                "protocol": "transductive",
                "presets": {"small": {}},
            },
            ("arms.a.choose", "split validation"),
        ),
        ({"gains": [{"arm": "a", "over": "c", "metric": "energy"}]}, ("gains", "no arm 'c'")),
        ({"arms": {"a": {"initial": "b"}, "b": {"initial": "a"}}}, ("arms.a.initial", "a → b → a", "circle")),
        ({"arms": {"a": {"initial": "c"}, "b": {}}}, ("arms.a.initial", "no arm 'c'")),
        ({"arms": {"a": {"synthetic": "b"}, "b": {"initial": "a"}}}, ("arms.a.synthetic", "a → b → a", "circle")),
        ({"arms": {"a": {"synthetic": "c"}, "b": {}}}, ("arms.a.synthetic", "no arm 'c'")),
        (
            {"arms": {"a": {}, "b": {"synthetic": "a"}}, "protocol": "transductive", "presets": {"small": {}}},
            ("arms.b.synthetic", "split train"),
        ),
        ({"shown": ["kid"]}, ("shown", "no metric 'kid'")),
        ({"seeds": 0, "presets": {"small": {}}}, ("seeds", "greater than 0")),
        ({"presets": {"tiny": {}}}, ("no preset 'small'", "tiny")),
    ],
)
def test_mistake_is_one_line_that_names_file_and_field(written, changes, words):
    path = written(changes)
    with pytest.raises(ModelError) as refused:
        loaded(path)
    message = str(refused.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("content", "words"), [("- a\n- b", "no experiment"), ("a: [", "not YAML"), (None, "cannot be read")]
)
def test_file_that_is_no_experiment_is_told_in_one_line(tmp_path, content, words):
    file = tmp_path / "broken.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ModelError, match=words):
        loaded(str(file))


def test_experiment_without_arms_names_those_that_have():
    with pytest.raises(ModelError, match=r"no arms to reproduce; experiments that have: .*iterative-refinement"):
        loaded("demo")


def test_class_of_lesions_that_is_judged_apart_has_metrics_of_its_own(written):
    changes = {"apart": ["rim"], "metric": "energy_rim", "expect": ["a.ap_pooled_rim > b"]}
    assert loaded(written(changes)).metric == "energy_rim"


def test_figures_that_a_system_has_of_its_own_can_be_expected(written):
    arms = {"made": {"system": "patho-gan"}, "b": {}}
    changes = {"arms": arms, "apart": ["rim"], "metric": "pathology_loss", "shown": ["kid", "milliseconds"]}
    found = loaded(written({**changes, "expect": ["made.low_energy_rim > made.real_low_energy_rim"]}))
    assert [(one.arm, one.metric) for one in found.rules[0].quantities] == [
        ("made", "low_energy_rim"),
        ("made", "real_low_energy_rim"),
    ]


@pytest.mark.parametrize("preset_name", ["small", "paper"])
@pytest.mark.parametrize("name", experiment_names("arms"))
def test_every_experiment_of_the_project_can_be_loaded(name, preset_name):
    found = loaded_experiment(name, preset_name, {})
    assert found.expect
    assert found.rules


def test_simulator_and_folder_become_what_ingest_is_given():
    assert source_address({"simulated": "fundus", "cases": 5, "size": 64}) == ("sim:fundus?cases=5&size=64", {})
    folder = {"address": "photos", "kind": "photographs", "labels": "grades.csv"}
    assert source_address(folder) == ("photos", {"source": "photographs", "labels": "grades.csv"})
    assert source_address({"simulated": "skin", "skin": "isic/images"})[0] == "sim:skin?skin=isic/images"
    with pytest.raises(ModelError, match="neither simulated nor address"):
        source_address({"cases": 5})


def test_title_is_the_name_of_the_file():
    assert (title("gdc"), title("mine/gdc-2.yaml")) == ("gdc", "gdc-2")
