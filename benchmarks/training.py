"""What does the training engine cost beside a bare PyTorch loop? All in one run, in turns; medians.

    python benchmarks/training.py                      all of it: most of an hour on two cores
    python benchmarks/training.py --sections step      one or some of: step, vgg, waiting, parallel, extras, gpu
    python benchmarks/training.py --quick              every line of it once, on next to nothing: figures mean nothing

step      seconds of an optimiser step inside the engine ÷ those of a bare loop with the same network, batches, loss,
          optimiser, clipping and schedule, one thread each; what a training and a checkpoint cost besides
vgg       the same for VGG-16 of full width at 224 pixels, batch 4
waiting   share of the time in which a step waits for images in memory, or from the store with and without workers
parallel  images/s of two processes, and of two threads, ÷ those of one, for the engine and for the bare loop
extras    what averaging, half precision, compilation and others add to a step
gpu       images/s and how busy the devices are; where there are any
"""

import sys
from pathlib import Path

# run as a script this file's folder would hold the package `storage`
sys.path[0] = str(Path(__file__).parents[1])

# ruff: noqa: E402
import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load

from benchmarks.training_gpu import gpu
from benchmarks.training_runs import Bench, Measured, Plan, Row, in_turns, ratio, steps
from tasks.engine.checkpoints import WholeFiles
from tasks.engine.job import TrainingJob
from tasks.experiments import merged, preset

QUICK = {"size": 64, "batch": 4, "cases": 12, "epochs": 3}


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bench = Bench(Path(folder), 1 if options.quick else options.turns)
        rows = [row for name in options.sections for row in SECTIONS[name](bench, options.quick)]
    title = f"{os.cpu_count()} cores, torch {torch.__version__}, load {os.getloadavg()[1]:.1f} at the end"
    table = Table("what", "measured", "ratio", title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)
    if options.json:
        options.json.write_text(
            json.dumps([dict(zip(("what", "measured", "ratio"), row, strict=True)) for row in rows])
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=lambda text: text.split(","), default=list(SECTIONS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to work; default: the system's temporary folder")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def small(quick: bool) -> Plan:
    """The preset that trains on two cores."""
    size = QUICK["size"] if quick else 128
    settings = merged(preset("iterative-refinement", "small")["settings"], {"network": {"size": size}})
    plan = Plan(f"preset small, {size} pixels, batch 32", size, settings, batch=32, cases=256, epochs=5)
    return plan.changed(**QUICK) if quick else plan


def vgg16(quick: bool) -> Plan:
    """Configuration D as published at 224 pixels: 134 million weights."""
    settings = merged(
        preset("iterative-refinement", "paper")["settings"],
        {"network": {"size": 224, "stem_stride": 1, "block5_valid": False}},
    )
    plan = Plan("VGG-16, 224 pixels, batch 4", 224, settings, batch=4, cases=16, epochs=3)
    if not quick:
        return plan
    narrow = {"network": {"size": QUICK["size"], "width": 0.1, "head": [16]}}
    return plan.changed(**QUICK, settings=merged(settings, narrow))


def step_of_small(bench: Bench, quick: bool) -> Iterator[Row]:
    """The small network, where the engine's own work weighs most."""
    yield same_training(bench, small(quick))
    yield from step(bench, small(quick))


def step_of_vgg(bench: Bench, quick: bool) -> Iterator[Row]:
    """The paper's network, where checkpoints weigh most."""
    yield from step(bench, vgg16(quick))


def same_training(bench: Bench, plan: Plan) -> Row:
    """Whether both do the same work: their weights after an epoch, without what is drawn inside a step."""
    plan = plan.changed(settings=merged(plan.settings, {"network": {"dropout": 0.0}}), epochs=2)
    bare = load(bench.bare(plan).more["weights"])
    trained = bench.engine(plan, leave=last_weights).more
    parts = [
        (trained[f"{name}"] - weight).abs().max() / weight.abs().max().clamp(1e-12) for name, weight in bare.items()
    ]
    count = plan.epochs * (plan.cases // plan.batch)
    return (
        f"weights after {count} steps, engine − bare loop, {plan.name}",
        f"{float(max(parts)):.0e} of the largest",
        "",
    )


def last_weights(job: TrainingJob) -> dict[str, Any]:
    """The system's, of the newest checkpoint."""
    return dict(torch.load(newest_checkpoint(job), weights_only=False)["state_dict"])


def newest_checkpoint(job: TrainingJob) -> Path:
    return max(job.folder.glob("stages/*/*.ckpt"))


def step(bench: Bench, plan: Plan) -> Iterator[Row]:
    """A step and the start of a training ÷ the bare loop's; a checkpoint ÷ a bare one."""
    kept = bench.folder / f"{plan.size}.ckpt"

    def keep(job: TrainingJob) -> dict[str, Any]:
        shutil.copyfile(newest_checkpoint(job), kept)
        return {}

    runs = in_turns({"engine": lambda: bench.engine(plan, leave=keep), "bare": lambda: bench.bare(plan)}, bench.turns)
    ours, floor = (1000 * statistics.median(steps(runs[name])) for name in ("engine", "bare"))
    measured = f"{ours:.1f} ms, bare {floor:.1f}"
    yield (f"a step of the engine ÷ the bare loop, {plan.name}", measured, ratio(*map(steps, runs.values())))
    ours, floor = (statistics.median(run.start for run in runs[name]) for name in ("engine", "bare"))
    starts = ([run.start for run in runs[name]] for name in runs)
    yield (f"start to the end of the first step, {plan.name}", f"{ours:.1f} s, bare {floor:.1f}", ratio(*starts))
    yield checkpoint(kept, bench, plan)


def checkpoint(file: Path, bench: Bench, plan: Plan) -> Row:
    """The engine's way of writing one ÷ torch.save and fsync."""
    content, megabytes = torch.load(file, weights_only=False), file.stat().st_size / 1e6
    folder = bench.folder / "checkpoints"
    folder.mkdir()
    writers: dict[str, Callable[[], None]] = {
        "engine": lambda: WholeFiles().save_checkpoint(content, folder / "00000-0000000.ckpt"),
        "bare": lambda: save_and_sync(content, folder / "bare.ckpt"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in writers}
    for _ in range(bench.turns):
        for name, write in writers.items():
            os.sync()
            started = time.perf_counter()
            write()
            seconds[name].append(time.perf_counter() - started)
    shutil.rmtree(folder)
    ours, floor = (statistics.median(seconds[name]) for name in writers)
    measured = f"{megabytes:.0f} MB in {ours:.2f} s: {megabytes / ours:.0f} MB/s, bare {megabytes / floor:.0f}"
    return (f"writing a checkpoint ÷ torch.save + fsync, {plan.name}", measured, ratio(*seconds.values()))


def save_and_sync(content: dict[str, Any], file: Path) -> None:
    with file.open("wb") as opened:
        torch.save(content, opened)
        opened.flush()
        os.fsync(opened.fileno())


def waiting(bench: Bench, quick: bool) -> Iterator[Row]:
    """Share of the time of an epoch between a step's end and the next one's start."""
    plan = small(quick)
    works = {
        "in memory, no worker": lambda: bench.engine(plan),
        "from the store, no worker": lambda: bench.engine(plan, from_store=True),
        "from the store, 2 workers": lambda: bench.engine(plan, workers=2),
    }
    for name, runs in in_turns(works, bench.turns).items():
        shares = sorted(100 * run.waiting for run in runs)
        rate = statistics.median(run.images_per_second for run in runs)
        spread = f"{statistics.median(shares):.1f} % ({shares[0]:.1f} … {shares[-1]:.1f})"
        yield (f"share of an epoch waiting for data, {name}, {plan.name}", f"{rate:.1f} images/s", spread)


def parallel(bench: Bench, quick: bool) -> Iterator[Row]:
    """Two of something ÷ one of it, in images/s of the same global batch."""
    plan = small(quick)
    works = {
        "engine": lambda: bench.engine(plan),
        "engine, two processes": lambda: bench.engine(plan, devices=2),
        "engine, two threads": lambda: bench.engine(plan, threads=2),
        "bare": lambda: bench.bare(plan),
        "bare, two processes (DDP)": lambda: bench.bare(plan, processes=2),
        "bare, two processes that do not speak": lambda: bench.bare(plan, processes=2, apart=True),
        "bare, two threads": lambda: bench.bare(plan, threads=2),
    }
    runs = in_turns(works, bench.turns)
    for name in works:
        one = name.split(",")[0]
        if name != one:
            rates = [statistics.median(run.images_per_second for run in runs[which]) for which in (name, one)]
            measured = f"{rates[0]:.1f} images/s, one {rates[1]:.1f}"
            yield (
                f"{name} ÷ one process with one thread, {plan.name}",
                measured,
                ratio(steps(runs[one]), steps(runs[name])),
            )
    yield reduction(runs["bare, two processes (DDP)"])


def reduction(runs: list[Measured]) -> Row:
    """What summing the gradients over two processes takes when nothing else runs, beside a step's time."""
    count = runs[0].more["gradient_bytes"]
    seconds = [run.more["reduction"] for run in runs]
    median = statistics.median(seconds)
    measured = f"{count / 1e6:.1f} MB in {1000 * median:.1f} ms: {count / median / 1e6:.0f} MB/s"
    return ("summing the gradients of two processes (gloo) ÷ a step of theirs", measured, ratio(seconds, steps(runs)))


def extras(bench: Bench, quick: bool) -> Iterator[Row]:
    """A step with one more thing ÷ a plain one; the second epoch compiles, too, after the first validation."""
    plan = small(quick)
    plan = plan.changed(warm=2, epochs=plan.epochs + 1)
    settings: dict[str, dict[str, Any]] = {
        "plain": {},
        "moving average of the weights": {"ema": 0.99},
        "bf16": {"precision": "bf16"},
        "channels last": {"channels_last": True},
        "torch.compile, warm": {"compile": True},
        "accumulate 4": {"accumulate": 4},
        "checkpoint every step": {"checkpoint_minutes": 0},
    }
    works = {name: lambda one=one: bench.engine(plan, **one) for name, one in settings.items()}
    runs = in_turns(works, bench.turns)
    plain = steps(runs["plain"])
    for name in settings:
        median = 1000 * statistics.median(steps(runs[name]))
        yield (f"a step: {name}, {plan.name}", f"{median:.1f} ms", ratio(steps(runs[name]), plain))


SECTIONS: dict[str, Callable[[Bench, bool], Iterator[Row]]] = {
    "step": step_of_small,
    "vgg": step_of_vgg,
    "waiting": waiting,
    "parallel": parallel,
    "extras": extras,
    "gpu": gpu,
}


if __name__ == "__main__":
    main()
