"""What goes wrong in a rank is told by its own words, and what can be helped is."""

import socket
import threading

import pytest
import torch

from models.errors import ModelError
from tasks.engine.data import part_size
from tasks.engine.job import TrainerSettings
from tasks.engine.launcher import Node, Outcome
from tasks.errors import TrainingError
from tasks.training.launch import run_job
from tests.tasks.engine.conftest import MakeJob, epochs_of, weights_of

EXACT = {"network": {"dropout": 0.0}}


@pytest.mark.slow
def test_the_failing_rank_is_told_by_its_own_exception(make_job: MakeJob, no_orphans):
    job = make_job("failing", "toy-classifier", {"fail_on_rank": 1}, devices=2)
    with pytest.raises(TrainingError, match="rank 1: ValueError: toy failure"):
        run_job(job)


@pytest.mark.slow
def test_a_batch_that_does_not_fit_says_what_to_lower(make_job: MakeJob, no_orphans):
    job = make_job("large", "toy-classifier", {"memory_limit": 4})
    with pytest.raises(TrainingError, match=r"lower trainer\.batch_size, raise trainer\.accumulate"):
        run_job(job)


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_halved_on_request_and_learns_the_same(make_job: MakeJob):
    fitting = make_job("fitting", "toy-classifier", EXACT, accumulate=2)
    halved = make_job("halved", "toy-classifier", {**EXACT, "memory_limit": 4}, halve_batch=True)
    for job in (fitting, halved):
        run_job(job)
    assert weights_of(halved) == weights_of(fitting)


@pytest.mark.slow
def test_a_batch_of_one_case_cannot_be_halved(make_job: MakeJob):
    job = make_job("hopeless", "toy-classifier", {"memory_limit": 0 + 1}, halve_batch=True, batch_size=3)
    with pytest.raises(TrainingError, match="did not fit into memory"):
        run_job(job)


@pytest.mark.parametrize(
    ("settings", "count", "message"),
    [
        ({"batch_size": 8}, 60, "cannot be divided over 3 processes"),
        ({"batch_size": 12, "accumulate": 4}, 8, "8 training cases are fewer than the 12 parts"),
    ],
)
def test_batches_that_cannot_be_shared_are_refused(settings, count, message):
    with pytest.raises(ModelError, match=message):
        part_size(TrainerSettings(**settings), 3, count)


@pytest.mark.slow
def test_optimisers_that_alternate_take_no_parts(make_job: MakeJob):
    job = make_job("parts", "toy-gan", accumulate=2)
    with pytest.raises(TrainingError, match="its batches cannot come in parts"):
        run_job(job)
    assert {epoch["stage"] for epoch in epochs_of(job)} == {"autoencoder"}


@pytest.mark.parametrize(
    "message",
    ["OutOfMemoryError: CUDA out of memory. Tried", "RuntimeError: DefaultCPUAllocator: can't allocate memory"],
)
def test_memory_is_recognised(message):
    assert Outcome("failed", 0, message).out_of_memory


@pytest.mark.slow
def test_two_nodes_learn_what_two_devices_of_one_learn(make_job: MakeJob, monkeypatch, no_orphans):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # sums over other numbers of threads differ in their last digits
    one = make_job("one", "toy-classifier", EXACT, devices=2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{probe.getsockname()[1]}"
    many = make_job("many", "toy-classifier", EXACT)
    many = many.model_copy(update={"nodes": 2})
    many.file.write_text(many.model_dump_json())
    nodes = [
        threading.Thread(target=run_job, args=(many,), kwargs={"node": Node(rank=rank, rendezvous=meeting)})
        for rank in (0, 1)
    ]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join()
    run_job(one)
    assert weights_of(many) == weights_of(one)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"patch": [16, 16], "patches_per_case": 2, "batch_size": 16}])
def test_a_segmenter_learns_from_masks_whole_or_in_patches(make_job: MakeJob, settings):
    job = make_job("segmenter", "toy-segmenter", max_epochs=8, workers=1, channels_last=True, **settings)
    run_job(job)
    losses = [epoch["val/loss"] for epoch in epochs_of(job)]
    assert losses[-1] < losses[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_in_half_precision(make_job: MakeJob):
    job = make_job("half", "toy-classifier", precision="16", channels_last=True)
    run_job(job)
    assert epochs_of(job)[-1]["val/loss"] < epochs_of(job)[0]["val/loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"precision": "bf16"}, {"compile": True}, {"balance": "loss"}, {"balance": "none"}]
)
def test_what_can_be_set_trains(make_job: MakeJob, settings):
    job = make_job("set", "toy-classifier", EXACT, max_epochs=6, **settings)
    run_job(job)
    assert epochs_of(job)[-1]["train/loss"] < epochs_of(job)[0]["train/loss"]


@pytest.mark.slow
def test_training_stops_early_when_validation_no_longer_gets_better(make_job: MakeJob):
    job = make_job("early", "toy-classifier", {**EXACT, "learning_rate": 1e-9}, max_epochs=30, patience=2)
    run_job(job)
    assert len(epochs_of(job)) < 30
