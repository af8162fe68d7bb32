"""The engine on GPUs: how fast, how busy the devices are, what half precision and more devices bring."""

import os
import statistics
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.training_runs import Bench, Measured, Plan, Row, in_turns, ratio, steps
from tasks.engine.epoch_log import read_epochs
from tasks.engine.job import TrainingJob
from tasks.experiments import merged, preset

BATCHES = 50  # an epoch: what is still under way on the device at its end hardly counts


def gpu(bench: Bench, quick: bool) -> Iterator[Row]:
    """Nothing without a device."""
    if not torch.cuda.is_available():
        yield ("GPU", "none here: not measured", "")
        return
    yield from vgg_at_512(bench, 2 if quick else BATCHES)
    yield from gan(bench, 2 if quick else BATCHES)


def vgg_at_512(bench: Bench, batches: int) -> Iterator[Row]:
    """The paper's network and size on one device, by the bare loop, in single and in half precision."""
    settings = merged(preset("iterative-refinement", "paper")["settings"], {"network": {"size": 512}})
    plan = Plan("VGG-16, 512 pixels, batch 16", 512, settings, batch=16, cases=16 * batches, epochs=3)
    workers = workers_of(1)
    works = {
        "bare": lambda: bench.bare(plan, threads=None, workers=workers),
        "fp32": lambda: watched(bench, plan, workers=workers),
        "bf16": lambda: watched(bench, plan, workers=workers, precision="bf16"),
    }
    runs = in_turns(works, bench.turns)
    yield (
        f"GPU: a step of the engine ÷ the bare loop, {plan.name}",
        told(runs["fp32"]),
        ratio(steps(runs["fp32"]), steps(runs["bare"])),
    )
    yield (
        f"GPU: images/s in bf16 ÷ fp32, {plan.name}",
        told(runs["bf16"]),
        ratio(steps(runs["fp32"]), steps(runs["bf16"])),
    )


def gan(bench: Bench, batches: int) -> Iterator[Row]:
    """Three networks with a gradient penalty, 16 images a device, on one device and on all."""
    devices = torch.cuda.device_count()

    def work(count: int) -> Callable[[], Measured]:
        batch = 16 * count
        plan = Plan(f"{batch} images of 128 pixels", 128, {}, batch, batch * batches, epochs=3, system="benchmark-gan")
        return lambda: watched(bench, plan, devices=count, workers=workers_of(count))

    runs = in_turns({str(count): work(count) for count in sorted({1, devices})}, bench.turns)
    yield ("GPU: generator, critic and classifier, 128 pixels, batch 16, one device", told(runs["1"]), "")
    if devices > 1:
        rates = [[run.images_per_second for run in runs[name]] for name in (str(devices), "1")]
        yield (
            f"GPU: the same on {devices} devices, batch {16 * devices} ÷ one",
            told(runs[str(devices)]),
            ratio(*rates),
        )


def watched(bench: Bench, plan: Plan, devices: int = 1, **trainer: Any) -> Measured:
    """A training whose devices are looked at between the end of its first epoch and that of its last."""
    looks: list[float] = []

    def look(job: TrainingJob) -> None:
        if 0 < len(read_epochs(job.folder)) < plan.epochs:
            looks.append(busy(devices))

    run = bench.engine(plan, devices, threads=None, leave=lambda job: {"busy": looks}, watch=look, **trainer)
    return run


def busy(devices: int) -> float:
    """Per cent of the last moment in which a kernel ran, the mean over the first `devices` devices."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    shown = subprocess.run([*command, *([f"--id={visible}"] if visible else [])], capture_output=True, check=True)
    return statistics.mean([float(line) for line in shown.stdout.decode().splitlines()][:devices])


def told(runs: list[Measured]) -> str:
    """Images/s, how busy the device was, and how long the steps waited for data."""
    rate = statistics.median(run.images_per_second for run in runs)
    waits = statistics.median(100 * run.waiting for run in runs)
    looks = [look for run in runs for look in run.more["busy"]]
    shown = f"{statistics.mean(looks):.0f} % busy" if looks else "too short to see how busy"
    return f"{rate:.1f} images/s, {shown}, {waits:.0f} % waiting for data"


def workers_of(devices: int) -> int:
    """Loader workers a process."""
    return min(8, (os.cpu_count() or 1) // devices)
