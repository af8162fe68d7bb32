"""Killed, stopped or out of disk: the same command goes on, and ends where an undisturbed training ends."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from storage.cohort import Cohort
from tasks.engine.checkpoint_files import checkpoints, newest_whole
from tasks.engine.job import TrainingJob
from tasks.errors import TrainingError, TrainingStoppedError
from tasks.training.launch import run_job
from tests.tasks.engine.conftest import MakeJob, described, epochs_of, wait_for, weights_of

EVERY_STEP = {"max_epochs": 12, "checkpoint_minutes": 0.0, "patience": 12, "ema": 0.9}
STAGES = {"max_epochs": 8, "checkpoint_minutes": 0.0}
RUN = """
import sys
from pathlib import Path
from tasks.engine.job import TrainingJob
from tasks.training.launch import run_job
run_job(TrainingJob.model_validate_json(Path(sys.argv[1]).read_text()))
"""


@pytest.fixture(scope="module")
def undisturbed(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The final weights of a training that nothing disturbs, by system; trained once."""
    known: dict[str, str] = {}

    def weights(system: str) -> str:
        if system not in known:
            settings = EVERY_STEP if system == "toy-classifier" else STAGES
            job = described(cohort, tmp_path_factory.mktemp(system) / "run", system, {}, 2, settings)
            run_job(job)
            known[system] = weights_of(job)
        return known[system]

    return weights


@pytest.fixture
def job(make_job: MakeJob) -> TrainingJob:
    return make_job("disturbed", "toy-classifier", devices=2, **EVERY_STEP)


def launcher_of(job: TrainingJob) -> psutil.Process | None:
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "tasks.engine.launcher" in words and str(job.file) in words:
            return process
    return None


def ranks_of(job: TrainingJob) -> list[psutil.Process]:
    """The training processes, by rank."""
    launcher = launcher_of(job)
    children = launcher.children() if launcher else []
    return sorted((child for child in children if "spawn_main" in " ".join(child.cmdline())), key=lambda c: c.pid)


def inside_an_epoch(job: TrainingJob, stage: str = "training", epoch: int = 2) -> bool:
    """Whether the newest checkpoint lies between two steps of an epoch from `epoch` on."""
    found = checkpoints(job.folder / "stages" / stage)
    places = [tuple(map(int, file.name.split("-")[:2])) for file in found[:1]]
    return any(place[0] >= epoch and place[1] for place in places)


class Once:
    """Does something to a training as soon as it is `ready`: by default, inside an epoch; later looks do nothing."""

    def __init__(self, job: TrainingJob, do: Callable[[], object], ready: Callable[[], object] | None = None) -> None:
        self.do, self.done = do, False
        self.ready = ready or (lambda: inside_an_epoch(job))

    def __call__(self) -> None:
        if not self.done:
            wait_for(self.ready)
            self.done = True
            self.do()


@pytest.mark.slow
def test_a_killed_rank_is_started_again_with_the_others(job, undisturbed, no_orphans):
    kill = Once(job, lambda: ranks_of(job)[1].kill())
    run_job(job, kill)
    assert kill.done
    assert weights_of(job) == undisturbed("toy-classifier")
    assert [epoch["epoch"] for epoch in epochs_of(job)] == sorted(epoch["epoch"] for epoch in epochs_of(job))


@pytest.mark.slow
def test_a_killed_launcher_leaves_no_rank_and_the_next_one_goes_on(job, undisturbed, no_orphans):
    kill = Once(job, lambda: launcher_of(job).kill())
    with pytest.raises(TrainingError, match="ended with status -9"):
        run_job(job, kill)
    run_job(job)
    assert weights_of(job) == undisturbed("toy-classifier")


@pytest.mark.slow
def test_all_processes_killed_at_once_and_the_same_job_goes_on(job, undisturbed, no_orphans):
    outside = subprocess.Popen([sys.executable, "-c", RUN, str(job.file)])
    wait_for(lambda: inside_an_epoch(job))
    for process in [psutil.Process(outside.pid), launcher_of(job), *ranks_of(job)]:
        process.suspend()
    for process in [psutil.Process(outside.pid), launcher_of(job), *ranks_of(job)]:
        process.kill()
    assert outside.wait(10) == -signal.SIGKILL
    run_job(job)
    assert weights_of(job) == undisturbed("toy-classifier")


@pytest.mark.slow
def test_the_watching_process_alone_killed_takes_the_training_with_it(job, undisturbed, no_orphans):
    outside = subprocess.Popen([sys.executable, "-c", RUN, str(job.file)])
    wait_for(lambda: inside_an_epoch(job))
    launcher, ranks = launcher_of(job), ranks_of(job)
    outside.kill()
    psutil.wait_procs([launcher, *ranks], timeout=30)
    assert not [process for process in (launcher, *ranks) if process.is_running()]
    run_job(job)
    assert weights_of(job) == undisturbed("toy-classifier")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_a_checkpoint_of_that_step(make_job, number, undisturbed, no_orphans):
    job = make_job("stopped", "toy-classifier", devices=2, **{**EVERY_STEP, "checkpoint_minutes": 60.0})
    folder = job.folder / "stages" / "training"
    stop = Once(job, lambda: launcher_of(job).send_signal(number), ready=lambda: checkpoints(folder))
    with pytest.raises(TrainingStoppedError, match="same command goes on"):
        run_job(job, stop)
    assert newest_whole(folder)
    run_job(job)
    assert weights_of(job) == undisturbed("toy-classifier")


def fill_the_disk(job: TrainingJob, stage: str) -> None:
    """No file of rank 0 may grow to the size of a checkpoint; what it says of that is smaller."""
    room = checkpoints(job.folder / "stages" / stage)[0].stat().st_size * 9 // 10
    ranks_of(job)[0].rlimit(resource.RLIMIT_FSIZE, (room, room))


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_before_it(job, undisturbed, no_orphans):
    limit = Once(job, lambda: fill_the_disk(job, "training"))
    with pytest.raises(TrainingError, match=r"could not be written \(.*\); what was there before is whole"):
        run_job(job, limit)
    folder = job.folder / "stages" / "training"
    assert not list(folder.glob(".*partial"))
    assert torch.load(newest_whole(folder), weights_only=False)["epoch"] >= 2
    run_job(job)
    assert weights_of(job) == undisturbed("toy-classifier")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(job, undisturbed):
    kill = Once(job, lambda: launcher_of(job).kill())
    with pytest.raises(TrainingError):
        run_job(job, kill)
    wait_for(lambda: not ranks_of(job))
    newest = checkpoints(job.folder / "stages" / "training")[0]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert newest_whole(newest.parent) != newest
    run_job(job)
    assert weights_of(job) == undisturbed("toy-classifier")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "adversarial"])
@pytest.mark.parametrize("victim", ["rank", "launcher", "all", "signal", "disk"])
def test_two_stages_with_two_optimisers_survive_the_same(make_job, undisturbed, stage, victim, no_orphans):
    job = make_job("gan", "toy-gan", devices=2, **STAGES)
    actions = {
        "rank": lambda: ranks_of(job)[1].kill(),
        "launcher": lambda: launcher_of(job).kill(),
        "all": lambda: [os.kill(process.pid, signal.SIGKILL) for process in [launcher_of(job), *ranks_of(job)]],
        "signal": lambda: launcher_of(job).terminate(),
        "disk": lambda: fill_the_disk(job, stage),
    }
    disturb = Once(job, actions[victim], ready=lambda: inside_an_epoch(job, stage))
    if victim == "rank":
        run_job(job, disturb)
    else:
        with pytest.raises(TrainingError):
            run_job(job, disturb)
        run_job(job)
    assert disturb.done
    assert weights_of(job) == undisturbed("toy-gan")
    assert Path(job.folder, "stages", "autoencoder", "finished.safetensors").exists()
