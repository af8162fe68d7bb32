"""What is learnt depends on the job alone: not on processes, parts of a batch, loader workers, or interruptions."""

import math

import pytest
from safetensors.torch import load_file

from tasks.engine.data import EpochBatches
from tasks.engine.job import TrainerSettings, TrainingJob
from tasks.training.launch import run_job
from tests.tasks.engine.conftest import MakeJob, epochs_of, weights_of

EXACT = {"network": {"dropout": 0.0}}


def drawn(world_size: int, rank: int, accumulate: int, start: int = 0, epoch: int = 1) -> list[list[tuple[int, int]]]:
    settings = TrainerSettings(batch_size=12, accumulate=accumulate)
    batches = EpochBatches(50, None, settings, 7, lambda: (epoch, start), rank, world_size)
    return [[tuple(draw) for draw in part] for part in batches]


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 1), (3, 1), (1, 4), (2, 3)])
def test_ranks_and_parts_share_the_batches_of_one_process(world_size, accumulate):
    whole = [set(batch) for batch in drawn(1, 0, 1)]
    ranks = [drawn(world_size, rank, accumulate) for rank in range(world_size)]
    for number, batch in enumerate(whole):
        parts = [rank[number * accumulate + part] for rank in ranks for part in range(accumulate)]
        assert sum(map(len, parts)) == len(batch) == 12
        assert set().union(*map(set, parts)) == batch


def test_an_epoch_that_goes_on_inside_draws_what_was_left():
    assert drawn(2, 1, 3, start=5) == drawn(2, 1, 3)[5:]
    assert drawn(1, 0, 1, epoch=2) != drawn(1, 0, 1, epoch=1)


def assert_equal_losses(first: list[dict], second: list[dict], tolerance: float) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        for name in ("train/loss", "val/loss"):
            assert math.isclose(one[name], other[name], rel_tol=tolerance, abs_tol=tolerance), name


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_the_same_batches(make_job: MakeJob, no_orphans):
    one = make_job("one", "toy-classifier", EXACT, precision="64")
    two = make_job("two", "toy-classifier", EXACT, devices=2, precision="64")
    assert_learn_the_same(one, two)
    assert weights_of(one) != weights_of(two)  # sums in another order: if equal to the bit, one of them was not run


@pytest.mark.slow
def test_parts_of_a_batch_and_loading_workers_change_nothing(make_job: MakeJob, no_orphans):
    one = make_job("one", "toy-classifier", EXACT, precision="64")
    in_parts = make_job("parts", "toy-classifier", EXACT, accumulate=4, workers=1, precision="64")
    assert_learn_the_same(one, in_parts)


def assert_learn_the_same(first: TrainingJob, second: TrainingJob) -> None:
    """Losses and weights to 1e-5."""
    for job in (first, second):
        run_job(job)
    assert_equal_losses(epochs_of(first), epochs_of(second), 1e-5)
    expected, found = (load_file(job.folder / "model" / "model.safetensors") for job in (first, second))
    for name, weight in found.items():
        assert (weight - expected[name]).abs().max() < 1e-5, name
