"""Shards that raise, whose workers die, that are too many: in this process and on a local cluster."""

import time
from functools import partial
from pathlib import Path

import pytest

from tasks.shards import HOPELESS, IN_FLIGHT, RETRIES, Outcome, WholeJobError, map_shards, shard_outcomes
from tests.tasks.shards import work

PARTS = [[0, 1], [2, 3], [4, 5], [6, 7]]
EVERYWHERE = pytest.mark.parametrize("workers", [1, 2], ids=["here", "on a cluster"])
ALWAYS = 99


def answers(outcomes: list[Outcome]) -> dict[int, int]:
    """What every item that could be done was answered."""
    done = [outcome for outcome in outcomes if outcome.error is None]
    return {item: answer for outcome in done for item, answer in zip(outcome.part, outcome.answer, strict=True)}


def squares_of(parts: list[list[int]]) -> dict[int, int]:
    return {item: item**2 for part in parts for item in part}


@EVERYWHERE
def test_a_shard_that_raises_at_first_is_tried_again_and_succeeds(tmp_path: Path, workers: int):
    function = partial(work.raising, str(tmp_path), 3, RETRIES)
    outcomes = list(shard_outcomes(function, PARTS, workers=workers))
    assert answers(outcomes) == squares_of(PARTS)
    assert work.begun(tmp_path) == {"0-1": 1, "2-3": 1 + RETRIES, "4-5": 1, "6-7": 1}


@EVERYWHERE
def test_a_shard_that_always_fails_is_reported_in_one_line_and_the_rest_goes_on(tmp_path: Path, workers: int):
    outcomes = list(shard_outcomes(partial(work.raising, str(tmp_path), 3, ALWAYS), PARTS, workers=workers))
    [lost] = [outcome for outcome in outcomes if outcome.error is not None]
    assert (lost.position, lost.part, lost.reason) == (1, [2, 3], "3 is no good")
    assert answers(outcomes) == squares_of([PARTS[0], *PARTS[2:]])
    assert work.begun(tmp_path)["2-3"] == 1 + RETRIES


@EVERYWHERE
def test_of_a_shard_taken_apart_the_guilty_case_alone_is_reported(tmp_path: Path, workers: int):
    function = partial(work.raising, str(tmp_path), 3, ALWAYS)
    outcomes = list(shard_outcomes(function, PARTS, workers=workers, apart=True))
    assert [(one.position, one.part) for one in outcomes if one.error is not None] == [(1, [3])]
    assert answers(outcomes) == {item: square for item, square in squares_of(PARTS).items() if item != 3}


def test_a_worker_killed_midway_changes_no_answer(tmp_path: Path):
    outcomes = list(shard_outcomes(partial(work.killing, str(tmp_path), 5, 1), PARTS, workers=2))
    assert answers(outcomes) == squares_of(PARTS)
    assert work.begun(tmp_path)["4-5"] == 2


@pytest.mark.slow
def test_a_case_that_always_kills_its_worker_is_reported_alone(tmp_path: Path):
    parts = [[0], [1, 2], [3], [4]]
    outcomes = list(shard_outcomes(partial(work.killing, str(tmp_path), 2, ALWAYS), parts, workers=2, apart=True))
    [lost] = [outcome for outcome in outcomes if outcome.error is not None]
    assert lost.part == [2]
    assert "worker process was killed" in lost.reason
    assert answers(outcomes) == squares_of([[0], [1], [3], [4]])


@EVERYWHERE
def test_an_error_that_no_shard_can_help_ends_the_work(workers: int):
    with pytest.raises(WholeJobError, match="no space left"):
        list(shard_outcomes(work.on_a_full_disk, [[0], [2], [3]], workers=workers))


def test_where_nothing_but_failures_comes_from_the_start_on_the_work_ends(tmp_path: Path):
    parts = [[0]] * (2 * HOPELESS)
    with pytest.raises(ValueError, match="0 is no good"):
        list(shard_outcomes(partial(work.raising, str(tmp_path), 0, 10 * HOPELESS), parts, workers=1))
    assert sum(work.begun(tmp_path).values()) == HOPELESS * (1 + RETRIES)


def test_few_shards_are_on_their_way_however_many_there_are(tmp_path: Path):
    outcomes = shard_outcomes(partial(work.squares, str(tmp_path)), [[item] for item in range(200)], workers=2)
    next(outcomes)
    time.sleep(1)
    assert len(work.begun(tmp_path)) <= 2 * IN_FLIGHT + 1
    outcomes.close()


def test_plain_shards_give_position_and_answer_and_raise_the_first_error(tmp_path: Path):
    function = partial(work.raising, str(tmp_path), 9, ALWAYS)
    assert sorted(map_shards(function, PARTS)) == [(place, [a * a, b * b]) for place, (a, b) in enumerate(PARTS)]
    with pytest.raises(ValueError, match="9 is no good"):
        list(map_shards(function, [[9]]))
