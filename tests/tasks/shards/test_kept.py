"""Answers of finished shards on disk."""

import os
import time
from functools import partial
from pathlib import Path

import pytest

from tasks.kept import KEPT_DAYS, kept_answers
from tasks.shards import shard_outcomes
from tests.damage import flip
from tests.tasks.shards import work

PARTS = [[0, 1], [2, 3], [4, 5]]
pytestmark = pytest.mark.usefixtures("workspace")


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """Where shards write down that they began."""
    folder = tmp_path / "begun"
    folder.mkdir()
    return folder


def followed(folder: Path, guilty: int = -1) -> list[tuple[list[int], list[int]]]:
    """What each part was answered, with the answers of the step `square` kept."""
    function = partial(work.raising, str(folder), guilty, 99)
    keep = kept_answers("square", "key")
    outcomes = shard_outcomes(function, PARTS, workers=1, keep=keep, apart=True)
    return sorted((one.part, one.answer) for one in outcomes if one.error is None)


def test_kept_shards_are_not_done_again(begun: Path):
    first = followed(begun)
    assert followed(begun) == first
    assert set(work.begun(begun).values()) == {1}


def test_a_damaged_kept_shard_is_done_again(begun: Path):
    first = followed(begun)
    keep = kept_answers("square", "key")
    flip(sorted(keep.folder.iterdir())[0])
    assert followed(begun) == first
    assert sorted(work.begun(begun).values()) == [1, 1, 2]


def test_a_truncated_kept_shard_counts_for_nothing():
    keep = kept_answers("square", "key")
    keep.write([1], "answer")
    [file] = keep.folder.iterdir()
    for length in (0, 5, 31, 32, len(file.read_bytes()) - 1):
        keep.write([1], "answer")
        os.truncate(file, length)
        assert keep.read([1]) is None


def test_of_a_shard_that_was_taken_apart_the_guilty_case_alone_is_tried_again(begun: Path):
    assert [part for part, _ in followed(begun, guilty=3)] == [[0, 1], [2], [4, 5]]
    before = work.begun(begun)
    assert [part for part, _ in followed(begun)] == [[0, 1], [2], [3], [4, 5]]
    assert work.begun(begun) - before == {"3": 1}


def test_nothing_is_left_when_the_answers_are_cleared(begun: Path):
    followed(begun)
    keep = kept_answers("square", "key")
    root = keep.folder.parent.parent
    assert root.exists()
    keep.clear()
    assert not root.exists()


def test_what_nobody_came_back_for_is_swept_and_what_is_younger_stays():
    old, young = kept_answers("square", "old"), kept_answers("square", "young")
    old.write([1], 1)
    young.write([1], 1)
    long_ago = time.time() - (KEPT_DAYS + 1) * 86400
    os.utime(old.folder, (long_ago, long_ago))
    kept_answers("other", "key")
    assert not old.folder.exists()
    assert young.read([1]) == (1,)
