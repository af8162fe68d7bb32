"""Which trials there are, what makes two of them the same, and what a failed one does to the others."""

from typing import Any

import pytest

from models.errors import ModelError
from storage.errors import CohortError
from tasks.errors import TrainingError, TrainingStoppedError
from tasks.reproduction import loop, several
from tasks.reproduction.experiment import Experiment
from tasks.reproduction.loop import Pace, run_trials
from tasks.reproduction.plan import Plan, Trial, chosen_arms, command_line
from tasks.reproduction.several import each_experiment

ARMS = {"a": {"system": "s"}, "b": {"system": "s", "initial": "a"}, "c": {"system": "s"}}


def plan(chosen: tuple[str, ...] = ("a", "b"), **changes: Any) -> Plan:
    content = {"system": "s", "arms": ARMS, "seeds": 2, **changes}
    experiment = Experiment.model_validate(content)
    return Plan(name="e", preset="small", experiment=experiment, cohort="/c", content="0", chosen=chosen)


def keys(made: Plan) -> dict[tuple[str, int], str]:
    return {(trial.arm, trial.seed): made.trial_key(trial) for trial in made.trials}


def test_all_arms_of_a_seed_come_before_the_next_seed():
    assert [(trial.arm, trial.seed) for trial in plan().trials] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_chosen_arms_keep_the_order_of_the_experiment():
    experiment = plan().experiment
    assert chosen_arms(experiment, ["c", "a"]) == ("a", "c")
    assert chosen_arms(experiment, []) == ("a", "b", "c")
    with pytest.raises(ModelError, match="no arm 'd'; there are: a, b, c"):
        chosen_arms(experiment, ["d"])


def test_arm_that_is_there_for_others_has_no_trial_of_its_own():
    experiment = plan(arms={**ARMS, "a": {"system": "s", "judged": False}}).experiment
    assert chosen_arms(experiment, []) == ("b", "c")
    with pytest.raises(ModelError, match="no arm 'a'; there are: b, c"):
        chosen_arms(experiment, ["a"])


def test_more_arms_and_seeds_and_rules_leave_trials_as_they_are():
    before = keys(plan())
    after = keys(plan(("a", "b", "c"), seeds=3, expect=["a > c"], reported={"a": 0.1}, metric="froc_mean"))
    assert before.items() <= after.items()
    assert len(after) == 9


def test_arm_is_another_trial_where_what_it_starts_from_has_changed():
    before = keys(plan())
    after = keys(plan(arms={**ARMS, "a": {"system": "s", "settings": {"width": 2}}}))
    assert not set(before.values()) & set(after.values())
    alone = keys(plan(arms={**ARMS, "b": {"system": "s", "initial": "a", "settings": {"width": 2}}}))
    assert {arm for arm, _ in before if before[arm, 0] != alone[arm, 0]} == {"b"}


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "transductive"},
        {"evaluated": "lesions"},
        {"target": "stage"},
        {"lesions": ["EX"]},
        {"apart": ["EX"]},
        {"by": "scanner"},
    ],
)
def test_other_protocol_is_another_trial(changes):
    assert not set(keys(plan()).values()) & set(keys(plan(**changes)).values())


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch):
    """Trials that answer at once, or raise what is set for their (arm, seed)."""
    errors: dict[tuple[str, int], Exception] = {}

    def run_trial(made: Plan, trial: Trial, parent: str) -> dict[str, Any]:
        if error := errors.get((trial.arm, trial.seed)):
            raise error
        return {
            "arm": trial.arm,
            "seed": trial.seed,
            "metrics": {"ap_pooled": 0.5},
            "seconds": 1.0,
            "training_seconds": 0.5,
        }

    monkeypatch.setattr(loop, "run_trial", run_trial)
    return errors


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TrainingError("out of\nmemory"), "out of"),
        (CohortError("no mask"), "no mask"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_failed_trial_leaves_the_others_alone(answers, capsys, error, reason):
    answers["a", 0] = error
    found = run_trials(plan(), "run")
    assert found.failed == [{"arm": "a", "seed": 0, "reason": reason}]
    assert [(done["arm"], done["seed"]) for done in found.done] == [("b", 0), ("a", 1), ("b", 1)]
    assert f"reproduce: a, seed 0 failed: {reason}" in capsys.readouterr().err


def test_signal_ends_them_all(answers):
    answers["a", 0] = TrainingStoppedError("stopped")
    with pytest.raises(TrainingStoppedError):
        run_trials(plan(), "run")


def test_nothing_but_failures_is_an_error_with_the_first_reason(answers):
    answers.update({(arm, seed): TrainingError(f"{arm}{seed}") for arm in "ab" for seed in range(2)})
    with pytest.raises(TrainingError, match="all 4 trials failed; the first one: a0"):
        run_trials(plan(), "run")


def test_progress_counts_the_trials(answers, capsys):
    run_trials(plan(), "run")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "reproduce: 1 of 4: a, seed 0"
    assert lines[1] == "reproduce: a, seed 0: ap_pooled 0.500, 1.0 s"
    assert lines[6].startswith("reproduce: 4 of 4: b, seed 1; about 0:00:0")


def test_time_left_counts_a_training_once_for_the_arms_that_share_it():
    """a and c train the same, b goes on from a; seed 0 is done but for c, whose maps take as long as others' do."""
    made, pace = plan(("a", "b", "c")), Pace()
    assert pace.left(made, made.trials) is None
    pace.note(made, {"arm": "a", "seed": 0, "seconds": 110.0, "training_seconds": 100.0})
    assert pace.left(made, made.trials[1:3]) == 100 + 10 + 10  # b has its own training, as long as the one seen
    pace.note(made, {"arm": "b", "seed": 0, "seconds": 50.0, "training_seconds": 20.0})
    assert pace.left(made, made.trials[2:3]) == 20
    assert pace.left(made, made.trials[3:]) == (100 + 10) + (20 + 30) + 20


def test_command_line_says_all_that_was_asked_for():
    found = command_line("gdc", "paper", 2, ["gd"], "/c", {"trainer": {"max_epochs": 3}, "metric": "ap_pooled"})
    assert found == (
        "lesionflow reproduce gdc --preset paper --seeds 2 --arm gd --cohort /c "
        '--set trainer.max_epochs=3 --set metric="ap_pooled"'
    )


def test_all_experiments_go_on_after_one_that_fails(monkeypatch: pytest.MonkeyPatch, capsys):
    def reproduce(name: str, *arguments: Any) -> dict[str, Any]:
        if name == "a":
            raise TrainingError("no luck")
        return {"experiment": name, "asked": arguments, "failed": []}

    monkeypatch.setattr(several, "experiment_names", lambda section: ["a", "b"])
    answer = each_experiment(reproduce, "small", 2)
    assert answer == {
        "experiments": {"b": {"experiment": "b", "asked": ("small", 2), "failed": []}},
        "failed": [{"experiment": "a", "reason": "no luck"}],
    }
    assert "reproduce: experiment 2 of 2: b" in capsys.readouterr().err
