"""Trainings ahead of the trials: which there are, what waits for what, and that each is done once."""

from pathlib import Path
from typing import Any

import pytest

from tasks.reproduction import ahead
from tasks.reproduction.ahead import generations, train_ahead
from tasks.reproduction.answer import effort
from tasks.reproduction.choice import SEED
from tasks.reproduction.experiment import Experiment
from tasks.reproduction.plan import Plan, Trial

CHOOSE = {"metric": "energy", "among": [{"sign": "positive"}, {"sign": "negative"}]}
ARMS: dict[str, Any] = {
    "scratch": {"system": "s"},
    "same": {"system": "s", "localize": {"saliency": "cam"}, "choose": CHOOSE},
    "tuned": {"system": "s", "initial": "scratch", "trainer": {"max_epochs": 1}},
    "enlarged": {"system": "s", "synthetic": "tuned"},
}


def plan(*chosen: str, seeds: int = 1) -> Plan:
    experiment = Experiment.model_validate({"system": "s", "arms": ARMS, "seeds": seeds})
    return Plan(name="e", preset="small", experiment=experiment, cohort="/c", content="0", chosen=chosen)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch):
    """The keys that were trained together, in their order; a key in `broken` fails."""
    done: list[list[str]] = []
    broken: set[str] = set()

    def arm_training(made: Plan, trial: Trial, models: dict[str, Path]) -> tuple[str, None]:
        return f"{made.training_of(trial.arm)} {trial.seed} {models}", None

    def side_by_side(planned: list[Any], parent: str, parallel: int):
        done.append([f"{one.tags['arm']} {one.tags['seed']}" for one in planned])
        for number, one in reversed(list(enumerate(planned))):
            name = f"{one.tags['arm']} {one.tags['seed']}"
            yield number, ValueError("no") if name in broken else {"model": f"/models/{name}"}

    monkeypatch.setattr(ahead, "arm_training", arm_training)
    monkeypatch.setattr(ahead, "trained_side_by_side", side_by_side)
    return done, broken


def test_arms_with_one_training_and_what_a_choice_needs_are_trained_once_each(batches):
    train_ahead.fn(plan("scratch", "same", seeds=2), "run", 2)
    assert batches[0] == [[f"same {SEED}", "scratch 0", "scratch 1"]]


def test_arm_that_starts_from_another_waits_for_it_even_where_that_one_is_not_asked_for(batches):
    train_ahead.fn(plan("tuned"), "run", 2)
    assert batches[0] == [["scratch 0"], ["tuned 0"]]
    assert [[trial.arm for trial in trials] for trials in generations(plan("tuned"))] == [["scratch"], ["tuned"]]


def test_arm_that_is_trained_on_what_another_makes_waits_for_that_and_what_it_starts_from(batches):
    train_ahead.fn(plan("enlarged", "scratch"), "run", 2)
    assert batches[0] == [["scratch 0"], ["tuned 0"], ["enlarged 0"]]


def test_training_that_fails_takes_with_it_what_starts_from_it_alone(batches):
    batches[1].add("scratch 0")
    train_ahead.fn(plan("scratch", "tuned", seeds=2), "run", 2)
    assert batches[0] == [["scratch 0", "scratch 1"], ["tuned 1"]]


def test_one_at_a_time_leaves_the_trainings_to_the_trials(batches):
    train_ahead.fn(plan("scratch"), "run", 1)
    assert batches[0] == []


def test_effort_counts_a_shared_training_for_the_first_arm_whoever_did_it():
    trial = {"seconds": 5.0, "training_seconds": 1.0, "training": "k", "training_took": 60.0}
    alone = {"seconds": 72.0, "training_seconds": 70.0, "training": "l", "training_took": 68.0}
    assert effort([{"arm": "a", **trial}, {"arm": "b", **trial}, {"arm": "c", **alone}]) == {
        "a": 64.0,
        "b": 4.0,
        "c": 70.0,
    }
