"""Settings that an experiment leaves to a choice: made on validation, with a training of their own, before a figure."""

from typing import Any

import pytest

from tasks.reproduction import choice
from tasks.reproduction.choice import SEED, settled
from tasks.reproduction.experiment import Experiment
from tasks.reproduction.plan import Plan, Trial

LOCALIZE = {"method": "saliency", "saliency": "grad_cam", "settings": {"sign": "positive"}}
AMONG = [{"saliency_settings": {"layer": layer}} for layer in ("early", "middle", "late")]


def plan(values: list[float | None], monkeypatch: pytest.MonkeyPatch, seen: list[tuple[Plan, Trial]]) -> Plan:
    """A plan of two arms, one with a choice whose candidates come out as `values`."""

    def run_trial(made: Plan, trial: Trial, parent: str) -> dict[str, Any]:
        seen.append((made, trial))
        return {"metrics": {"energy": values[int(trial.arm.rpartition("_")[2])]}}

    monkeypatch.setattr(choice, "run_trial", run_trial)
    arms = {"a": {"system": "s", "localize": LOCALIZE, "choose": {"metric": "energy", "among": AMONG}}}
    experiment = Experiment.model_validate({"system": "s", "arms": {**arms, "b": {"system": "s"}}})
    return Plan(name="e", preset="small", experiment=experiment, cohort="/c", content="0", chosen=("a", "b"))


def test_best_candidate_lies_on_the_arms_own_settings(monkeypatch: pytest.MonkeyPatch):
    made, choices = settled(plan([0.1, 0.3, 0.2], monkeypatch, []), "run")
    arm = made.experiment.arms["a"]
    assert arm.localize.settings == {
        "sign": "positive",
        "saliency": "grad_cam",
        "saliency_settings": {"layer": "middle"},
    }
    assert arm.choose is None
    assert choices["a"]["chosen"] == AMONG[1]
    assert [one["value"] for one in choices["a"]["among"]] == [0.1, 0.3, 0.2]


def test_candidates_are_tried_on_validation_with_a_training_of_their_own(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[Plan, Trial]] = []
    before = plan([0.1, 0.3, 0.2], monkeypatch, seen)
    made, _ = settled(before, "run")
    assert [(tried.split, trial.seed) for tried, trial in seen] == [("validation", SEED)] * 3
    assert [trial.arm for _, trial in seen] == ["a_choice_0", "a_choice_1", "a_choice_2"]
    assert {tried.training_of(trial.arm) for tried, trial in seen} == {before.training_of("a")}
    assert made.split == "test"
    assert SEED not in [trial.seed for trial in made.trials]


def test_candidate_without_a_finite_value_is_never_taken(monkeypatch: pytest.MonkeyPatch):
    _, choices = settled(plan([None, float("nan"), 0.0], monkeypatch, []), "run")
    assert choices["a"]["chosen"] == AMONG[2]
    assert choices["a"]["among"][1]["value"] is None


def test_first_of_equals_is_taken(monkeypatch: pytest.MonkeyPatch):
    assert settled(plan([0.2, 0.2, 0.1], monkeypatch, []), "run").choices["a"]["chosen"] == AMONG[0]


def test_arm_that_is_not_wanted_is_not_tried(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[Plan, Trial]] = []
    made = plan([0.1, 0.3, 0.2], monkeypatch, seen).model_copy(update={"chosen": ("b",)})
    assert settled(made, "run").choices == {}
    assert seen == []


def test_what_was_chosen_makes_another_trial(monkeypatch: pytest.MonkeyPatch):
    [one, other] = (settled(plan(values, monkeypatch, []), "run").plan for values in ([0.1, 0.3, 0.2], [0.1, 0.2, 0.3]))
    trial = Trial(arm="a", seed=0)
    assert one.trial_key(trial) != other.trial_key(trial)
    assert one.trial_key(Trial(arm="b", seed=0)) == other.trial_key(Trial(arm="b", seed=0))
