"""One measured training: by the engine, or by the bare loop, each in processes of its own."""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.training_rank import FROM_STORE
from models.registry import OWN_SYSTEMS, build
from storage import Cohort, ingest, open_source
from tasks.engine.epoch_log import PROGRESS, read_epochs
from tasks.engine.job import TrainerSettings, TrainingJob
from tasks.reuse import write_json
from tasks.training.launch import run_job

ROOT = Path(__file__).parents[1]
VALIDATION = 4  # cases: validation is none of what is measured


@dataclass(frozen=True)
class Plan:
    """What is trained: `cases` of `size` pixels, in `epochs` of which the first `warm` do not count."""

    name: str
    size: int
    settings: dict[str, Any]
    batch: int
    cases: int
    epochs: int
    system: str = "iterative-refinement"
    warm: int = 1

    def changed(self, **changes: Any) -> "Plan":
        """Another plan."""
        return Plan(**{**self.__dict__, **changes})


@dataclass(frozen=True)
class Measured:
    """Seconds of an optimiser step, share of them waiting for data, seconds from the start to the first step's end."""

    step: float
    batch: int
    waiting: float = 0.0
    start: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        """Of all processes together."""
        return self.batch / self.step


Work = Callable[[], Measured]
Row = tuple[str, str, str]


@dataclass(frozen=True)
class Bench:
    """Where the cohorts and the trainings lie, and how often a work has its turn."""

    folder: Path
    turns: int

    def cohort(self, plan: Plan) -> Cohort:
        """Simulated fundus photographs, enough for the plan."""
        path, count = self.folder / f"fundus{plan.size}", plan.cases + VALIDATION
        ingest(open_source(f"sim:fundus?cases={count}&size={plan.size}&seed=1"), path)
        return Cohort.open(path)

    def job(self, plan: Plan, devices: int = 1, **trainer: Any) -> TrainingJob:
        """The plan as a job in a folder of its own."""
        cohort, folder = self.cohort(plan), self.folder / f"run{time.monotonic_ns()}"
        settings = {"max_epochs": plan.epochs, "batch_size": plan.batch, "sample_epochs": 0, **trainer}
        train, every = tuple(range(plan.cases)), range(plan.cases + VALIDATION)
        job = TrainingJob(
            cohort=str(cohort.path),
            snapshot=cohort.snapshot,
            system=plan.system,
            config=build(plan.system, plan.settings).config.model_dump(mode="json"),
            target="grade",
            trainer=TrainerSettings(**settings),
            seed=0,
            devices=devices,
            folder=folder,
            cases={"train": train, "validation": tuple(every[-VALIDATION:])},
        )
        write_json(job.file, job.model_dump(mode="json"))
        return job

    def engine(
        self,
        plan: Plan,
        devices: int = 1,
        threads: int | None = 1,
        from_store: bool = False,
        leave: Callable[[TrainingJob], dict[str, Any]] = lambda job: {},
        watch: Callable[[TrainingJob], None] = lambda job: None,
        **trainer: Any,
    ) -> Measured:
        """Train by the engine; `leave` sees the run's folder before it is removed."""
        job = self.job(plan, devices, **trainer)
        started, shown = time.monotonic(), threading.Thread(target=first_step, args=(job, moment := []), daemon=True)
        shown.start()
        run_job(job, lambda: watch(job), environment=environment(threads, from_store))
        epochs = read_epochs(job.folder)[plan.warm :]
        rate, waiting = (
            statistics.median(epoch[name] for epoch in epochs) for name in ("images_per_second", "waiting")
        )
        more = leave(job)
        shutil.rmtree(job.folder)
        return Measured(plan.batch / rate, plan.batch, waiting, moment[0] - started, more)

    def bare(
        self, plan: Plan, processes: int = 1, threads: int | None = 1, apart: bool = False, **trainer: Any
    ) -> Measured:
        """Train by the bare loop; `apart`: in processes that do not speak to each other."""
        job = self.job(plan, processes, **trainer)
        started, answers = time.time(), [job.folder / f"answer{rank}.json" for rank in range(processes)]
        command = [sys.executable, "-m", "benchmarks.training_bare", str(job.file)]
        meeting = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        ranks = []
        for rank, answer in enumerate(answers):
            around = os.environ | environment(threads, False) | meeting | {"RANK": str(rank)}
            ranks.append(subprocess.Popen([*command, str(answer), *["--apart"] * apart], env=around, cwd=ROOT))
        if failed := [rank.args for rank in ranks if rank.wait()]:
            raise SystemExit(f"the bare loop failed: {failed[0]}")
        told = [json.loads(answer.read_text()) for answer in answers if answer.exists()]
        weights = (job.folder / "bare").read_bytes()
        shutil.rmtree(job.folder)
        step = statistics.mean(statistics.median(one["steps"][plan.warm :]) for one in told)
        return Measured(step, plan.batch, start=told[0]["first"] - started, more={**told[0], "weights": weights})


def environment(threads: int | None, from_store: bool) -> dict[str, str]:
    """What the training processes are told: a number of threads keeps them on the CPU."""
    told = {OWN_SYSTEMS: "benchmarks.training_rank,benchmarks.training_gan", "PYTHONPATH": str(ROOT)}
    if threads:
        told |= {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    return {**told, **({FROM_STORE: "yes"} if from_store else {}), "OMP_WAIT_POLICY": "PASSIVE"}


def first_step(job: TrainingJob, moment: list[float]) -> None:
    """Note when the engine first says where it is, which it does at the end of its first step."""
    while not (job.folder / PROGRESS).exists() and job.folder.exists():
        time.sleep(0.01)
    moment.append(time.monotonic())


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def in_turns(works: dict[str, Work], turns: int) -> dict[str, list[Measured]]:
    """Each work `turns` times, one after the other."""
    measured: dict[str, list[Measured]] = {name: [] for name in works}
    for turn in range(turns):
        for name, work in works.items():
            measured[name].append(work())
            last = measured[name][-1]
            print(f"turn {turn + 1} of {turns}: {name}: {1000 * last.step:.1f} ms a step", file=sys.stderr, flush=True)
    return measured


def ratio(dividend: list[float], divisor: list[float]) -> str:
    """Median and range of a turn's ratio."""
    each = sorted(one / other for one, other in zip(dividend, divisor, strict=True))
    return f"{statistics.median(each):.2f} ({each[0]:.2f} … {each[-1]:.2f})"


def steps(runs: list[Measured]) -> list[float]:
    """Seconds of a step, each turn."""
    return [run.step for run in runs]
