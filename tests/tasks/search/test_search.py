import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from models.errors import ModelError
from tasks.engine.job import TrainerSettings, TrainingJob
from tasks.errors import TrainingError, TrainingStoppedError
from tasks.reporting import png_of
from tasks.search.figures import search_history, slices
from tasks.search.loop import Attempt, run_search
from tasks.search.report import importance_section, importances, trials_table
from tasks.search.space import Choice, Range, check_space, parsed_space, settings_at, space_of
from tasks.search.study import STATES, best_trial, counts, opened_study

SPACE = space_of(
    {
        "optimiser.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
        "network.width": {"choices": [0.25, 0.5, None]},
        "trainer.batch_size": {"low": 8, "high": 64, "step": 8},
    }
)
BEST_RATE = 1e-3
EPOCHS, WARMUP = 5, 2


def loss(values: dict) -> float:
    """Closed form: 0 at a learning rate of 1e-3, width 0.5 and a batch of 32."""
    rate = math.log10(values["optimiser.learning_rate"] / BEST_RATE) ** 2
    return rate + (values["network.width"] != 0.5) + abs(values["trainer.batch_size"] - 32) / 32


def train(attempt: Attempt) -> float:
    """Epochs that approach the closed form from above."""
    for epoch in range(EPOCHS):
        attempt.report(epoch, loss(attempt.values) + 1 / (1 + epoch))
    return loss(attempt.values)


def quiet(trial, line: str) -> None: ...


def searched(folder: Path, trials: int, trained=train, *, seed: int = 0, mode="min", ended=quiet, **options) -> list:
    with opened_study(folder, mode, seed=seed, warmup=WARMUP) as study:
        run_search(study, SPACE, trials, trained, ended=ended, **options)
        return study.trials


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list:
    """40 trials, undisturbed; a shorter search has the first of them."""
    return searched(tmp_path_factory.mktemp("whole"), 40)


def drawn(trials: list) -> list[dict]:
    return [trial.params for trial in trials]


def test_range_of_whole_numbers_keeps_them_whole_and_a_text_of_a_number_is_one():
    space = space_of(parsed_space(["a=8:64", "b=1e-5:1e-2:log", "c=0:0.5"]))
    assert space.parameters == {
        "a": Range(low=8, high=64),
        "b": Range(low=1e-5, high=1e-2, log=True),
        "c": Range(low=0, high=0.5),
    }
    assert [space.parameters[key].is_whole for key in "abc"] == [True, False, False]


def test_choices_may_be_anything_that_yaml_has():
    [entry] = parsed_space(["network.head=[128], [128, 64], null, sgd, 0.5, true"]).values()
    assert Choice(**entry).choices == ([128], [128, 64], None, "sgd", 0.5, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("width", "KEY=LOW:HIGH"),
        ("=1:2", "KEY=LOW:HIGH"),
        ("width=", "KEY=LOW:HIGH"),
        ("width=1:", "KEY=LOW:HIGH"),
        ("width=1:2:exp", "KEY=LOW:HIGH"),
        ("width=[1,2", "no list of values"),
        ("width=2:1", "low (2) must be below high (1)"),
        ("width=a:b", "'a' is not a number"),
        ("width=0:1:log", "begins above 0"),
        ("width=nan:1", "is not a number"),
        ("width=1,1", "twice"),
    ],
)
def test_wrong_space_is_one_clear_line(text: str, words: str):
    with pytest.raises(ModelError) as error:
        space_of(parsed_space([text]))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"low": 8, "high": 60, "step": 16}, "do not meet 60"),
        ({"low": 0.1, "high": 0.5, "step": 1}, "whole numbers"),
        ({"choices": []}, "at least 1"),
        ({"low": 1}, "high"),
        ({"low": 1, "high": 2, "lgo": True}, "lgo is not a setting"),
        ([1, 2], "neither"),
    ],
)
def test_wrong_entry_of_an_experiment_names_its_key(entry, words: str):
    with pytest.raises(ModelError, match=r"search network\.width") as error:
        space_of({"network.width": entry})
    assert words in str(error.value)


def test_a_key_within_another_is_refused():
    with pytest.raises(ModelError, match=r"network and network\.width"):
        space_of(parsed_space(["network=1,2", "network.width=1,2"]))


def test_dotted_values_become_settings_of_the_system_and_of_the_trainer():
    values = {"network.width": 0.5, "network.head": [8], "trainer.batch_size": 4, "trainer.augmentation.flip": True}
    assert settings_at(values) == (
        {"network": {"width": 0.5, "head": [8]}},
        {"batch_size": 4, "augmentation": {"flip": True}},
    )


def test_search_finds_the_optimum_of_a_closed_form(whole: list):
    complete = [trial for trial in whole if trial.state == TrialState.COMPLETE]
    best = min(complete, key=lambda trial: trial.value)
    assert best.value < 0.2
    assert SPACE.values(best)["network.width"] == 0.5
    assert 10**-3.4 < best.params["optimiser.learning_rate"] < 10**-2.6


def test_largest_value_is_the_best_where_the_monitor_says_so(tmp_path: Path):
    searched(tmp_path, 5, lambda attempt: -loss(attempt.values), mode="max")
    with opened_study(tmp_path, "max", seed=0, warmup=WARMUP) as study:
        assert best_trial(study).value == max(trial.value for trial in study.trials)
        assert counts(study) == {"complete": 5}


def test_pruned_trial_trains_no_further(tmp_path: Path):
    trained: dict[int, int] = {}

    def counted(attempt: Attempt) -> float:
        for epoch in range(EPOCHS):
            trained[attempt.number] = epoch
            attempt.report(epoch, 1.0 + attempt.number)
        return 1.0 + attempt.number

    trials = searched(tmp_path, 7, counted)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5 + ["PRUNED"] * 2
    assert list(trained.values()) == [EPOCHS - 1] * 5 + [WARMUP] * 2


class KilledError(Exception):
    """Stands for the end of the process: the search must not book it."""


def test_interrupted_search_proposes_the_trials_of_an_undisturbed_one(tmp_path: Path, whole: list):
    for fatal in (0, 6, 13):

        def dying(attempt: Attempt, fatal=fatal) -> float:
            for epoch in range(EPOCHS):
                if (attempt.number, epoch) == (fatal, 2):
                    raise KilledError
                attempt.report(epoch, loss(attempt.values) + 1 / (1 + epoch))
            return loss(attempt.values)

        with pytest.raises(KilledError):
            searched(tmp_path / "cut", 16, dying)
    again = searched(tmp_path / "cut", 16)
    assert {trial.state for trial in again} == {TrialState.COMPLETE, TrialState.PRUNED}
    for mine, other in zip(again, whole, strict=False):
        assert (mine.params, mine.state, mine.value) == (other.params, other.state, other.value)
        assert mine.intermediate_values == other.intermediate_values


def test_trial_cut_off_while_its_values_were_drawn_gets_the_same_ones(
    tmp_path: Path, whole: list, monkeypatch: pytest.MonkeyPatch
):

    def dying(*arguments, **options):
        raise KilledError

    searched(tmp_path / "cut", 11)
    with monkeypatch.context() as patch:
        patch.setattr(optuna.trial.Trial, "suggest_int", dying)  # the last of three to be drawn
        with pytest.raises(KilledError):
            searched(tmp_path / "cut", 12)
    with opened_study(tmp_path / "cut", "min", seed=0, warmup=WARMUP) as study:
        assert len(study.trials[-1].params) == 2
    assert drawn(searched(tmp_path / "cut", 12)) == drawn(whole[:12])


def test_trial_killed_between_its_report_and_its_pruning_is_pruned_where_it_would_have_been(
    tmp_path: Path, whole: list
):
    number = next(trial.number for trial in whole if trial.state == TrialState.PRUNED)
    searched(tmp_path / "cut", number)
    with opened_study(tmp_path / "cut", "min", seed=0, warmup=WARMUP) as study:
        trial = study.ask()
        values = SPACE.draw(trial)
        for epoch in range(whole[number].last_step + 1):
            trial.report(loss(values) + 1 / (1 + epoch), epoch)
    again = searched(tmp_path / "cut", number + 1)
    assert again[number].state == TrialState.PRUNED
    assert again[number].intermediate_values == whole[number].intermediate_values


def test_more_trials_later_are_those_of_a_longer_search(tmp_path: Path, whole: list):
    searched(tmp_path, 6)
    trained = []
    searched(tmp_path, 12, lambda attempt: trained.append(attempt.number) or train(attempt))
    assert trained == list(range(6, 12))
    assert drawn(searched(tmp_path, 5)) == drawn(whole[:12])


def test_seeds_and_numbers_propose_different_trials(tmp_path: Path, whole: list):
    other = searched(tmp_path, 3, seed=1)
    assert len({trial.params["optimiser.learning_rate"] for trial in whole + other}) == 43


@pytest.mark.parametrize("error", [TrainingError("out of memory"), ModelError("no such width")])
def test_failing_trial_is_booked_with_its_reason_and_the_search_goes_on(tmp_path: Path, error: Exception):
    def failing(attempt: Attempt) -> float:
        if attempt.number == 1:
            raise error
        return train(attempt)

    lines: list[str] = []
    trials = searched(tmp_path, 3, failing, ended=lambda trial, line: lines.append(line))
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials[1].user_attrs["reason"] == str(error)
    assert f"failed: {error}" in lines[1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_diverged_trial_stops_training_and_fails(tmp_path: Path, value: float):
    def diverging(attempt: Attempt) -> float:
        if attempt.number == 0:
            attempt.report(0, 1.0)
            attempt.report(1, value)
            pytest.fail("training went on")
        return train(attempt)

    trials = searched(tmp_path, 2, diverging)
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE"]
    assert "diverged" in trials[0].user_attrs["reason"]
    assert "epoch 1" in trials[0].user_attrs["reason"]


def test_search_of_which_all_trials_fail_fails(tmp_path: Path):
    def failing(attempt: Attempt) -> float:
        raise TrainingError("out of memory")

    with pytest.raises(TrainingError, match="all 3 trials failed; the first one: out of memory"):
        searched(tmp_path, 3, failing)


def test_stopped_training_ends_the_search_and_its_trial_goes_on_later(tmp_path: Path):
    def stopping(attempt: Attempt) -> float:
        if attempt.number == 1:
            raise TrainingStoppedError("told to")
        return train(attempt)

    with pytest.raises(TrainingStoppedError):
        searched(tmp_path, 3, stopping)
    assert [trial.state.name for trial in searched(tmp_path, 3)] == ["COMPLETE"] * 3


def test_trials_side_by_side_are_all_trained_once(tmp_path: Path):
    together, seen = threading.Barrier(3, timeout=20), []

    def meeting(attempt: Attempt) -> float:
        seen.append(attempt.number)
        together.wait()
        return loss(attempt.values)

    trials = searched(tmp_path, 9, meeting, parallel=3)
    assert sorted(seen) == [trial.number for trial in trials] == list(range(9))
    assert len({trial.params["optimiser.learning_rate"] for trial in trials}) == 9


def test_an_error_that_is_no_failure_stops_all_threads_and_leaves_their_trials_to_the_next_search(tmp_path: Path):
    begun = threading.Barrier(2, timeout=20)

    def breaking(attempt: Attempt) -> float:
        begun.wait()
        if attempt.number == 0:
            raise OSError("disk full")
        for epoch in range(10**6):
            attempt.report(epoch % 5, 1.0)
        pytest.fail("the other thread was not stopped")

    with pytest.raises(OSError, match="disk full"):
        searched(tmp_path, 6, breaking, parallel=2)
    trials = searched(tmp_path, 6, parallel=2)
    assert [trial.state.is_finished() for trial in trials] == [True] * 6


def test_lines_tell_value_best_and_time_left(tmp_path: Path):
    lines: list[str] = []
    trials = searched(tmp_path, 3, ended=lambda trial, line: lines.append(line))
    best = min(trials, key=lambda trial: trial.value)
    assert lines[-1] == (
        f"search: 3/3, trial 2 {trials[2].value:.4g}; best {best.value:.4g} by trial {best.number}; 0 s left"
    )


def test_second_process_on_the_same_search_is_refused_until_the_first_is_gone(tmp_path: Path):
    holding = (
        "import sys, pathlib, time; from tasks.search.study import opened_study\n"
        "with opened_study(pathlib.Path(sys.argv[1]), 'min', seed=0, warmup=2) as study:\n"
        "    study.ask(); print('ready', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", holding, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout
        assert first.stdout.readline() == "ready\n"
        with pytest.raises(TrainingError, match=f"process {first.pid} works on this search already"):
            searched(tmp_path, 1)
    finally:
        first.kill()
        first.wait()
    assert len(searched(tmp_path, 1)) == 1
    assert os.path.exists(tmp_path / "study.db")


def test_page_has_a_row_a_trial_and_ranks_the_setting_that_matters_first(whole: list, tmp_path: Path):
    study = optuna.create_study()
    study.add_trials(whole)
    table = trials_table(study, SPACE)
    assert list(table["ended"]) == [STATES[trial.state] for trial in whole]
    assert set(table["network.width"]) == {0.25, 0.5, "null"}
    assert next(iter(importances(whole))) == "optimiser.learning_rate"
    for figure in (search_history(study, "val/loss"), slices(study, SPACE, "val/loss")):
        assert png_of(figure).startswith(b"\x89PNG")


def test_table_and_figures_of_a_single_trial(tmp_path: Path):
    study = optuna.create_study()
    study.add_trials(searched(tmp_path, 1))
    assert len(trials_table(study, SPACE)) == 1
    assert importance_section(study) == []
    for figure in (search_history(study, "val/loss"), slices(study, SPACE, "val/loss")):
        assert png_of(figure).startswith(b"\x89PNG")


TINY_CONFIG = {"network": {"size": 32, "stem_stride": 1, "block5_valid": False, "width": 0.05, "head": [4]}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimiser.learning_rat=1e-4:1e-2", "learning_rat is not a setting"),
        ("trainer.batch_sise=8,16", "batch_sise is not a setting"),
        ("network.dropout=0:2", "search network.dropout=2"),
        ("optimiser.name=adamw,rmsprop", "search optimiser.name=rmsprop"),
    ],
)
def test_every_end_and_choice_is_tried_against_the_settings(tmp_path: Path, text: str, words: str):
    job = TrainingJob(
        cohort="cohort",
        snapshot="",
        system="iterative-refinement",
        config=TINY_CONFIG,
        target="grade",
        trainer=TrainerSettings(),
        seed=0,
        devices=1,
        folder=tmp_path,
    )
    check_space(SPACE.model_copy(update={"parameters": {"optimiser.learning_rate": Range(low=1e-4, high=1)}}), job)
    with pytest.raises(ModelError) as error:
        check_space(space_of(parsed_space([text])), job)
    assert words in str(error.value)
