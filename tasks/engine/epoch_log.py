"""What a training tells while it runs: a line an epoch, and where it is just now."""

import json
import os
import time
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from models.system import Stage
from tasks.engine.job import TrainerSettings, TrainingJob
from tasks.reuse import write_json

EPOCHS, PROGRESS = "epochs.jsonl", "progress.json"
EVERY_SECONDS = 0.5


class EpochLog(Callback):
    """Rank 0 appends to `epochs.jsonl` what the stage logged, its speed, and how long it waited for data.

    After a resumption an epoch may stand there twice: the later line counts.
    """

    def __init__(self, job: TrainingJob, settings: TrainerSettings, stage: str, number: int, stages: int) -> None:
        self.folder, self.settings = job.folder, settings
        self.about: dict[str, Any] = {"stage": stage, "stage_number": number + 1, "stages": stages}
        self.step_offset = steps_before(self.folder, stage)
        self.started = self.waited = self.left_batch = self.shown = 0.0
        self.first = self.seen = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Stage) -> None:
        """Start the clock."""
        self.started = self.left_batch = time.monotonic()
        self.waited, self.seen = 0.0, 0

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """What passed since the last batch was waiting for data."""
        now = time.monotonic()
        if not self.started:  # resumed inside an epoch
            self.started = self.left_batch = now
        self.waited += now - self.left_batch

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Say where the training is."""
        self.left_batch = time.monotonic()
        self.seen += 1
        if trainer.is_global_zero and self.left_batch - self.shown >= EVERY_SECONDS:
            self.shown = self.left_batch
            self._show(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Stage) -> None:
        """Append the epoch; validation has run by then."""
        metrics = trainer.callback_metrics  # on every rank: what is logged is averaged over them as it is read
        if not trainer.is_global_zero:
            return
        training = self.left_batch - self.started
        line = {
            "stage": self.about["stage"],
            "epoch": trainer.current_epoch,
            "step": self.step_offset + (trainer.current_epoch + 1) * self._steps(trainer),
            "seconds": time.monotonic() - self.started,
            "images_per_second": self._rate(trainer, training),
            "waiting": self.waited / training if training else 0.0,
            **learning_rates(trainer),
            **{name: float(value) for name, value in metrics.items()},
        }
        append_line(self.folder / EPOCHS, json.dumps(line))

    def _show(self, trainer: Trainer) -> None:
        batches, epochs = int(trainer.num_training_batches), self.settings.max_epochs
        batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        done = (trainer.current_epoch + batch / batches) / epochs
        elapsed = self.left_batch - self.started
        epoch_seconds = elapsed / max(self.seen, 1) * batches
        state = {
            **self.about,
            "epoch": trainer.current_epoch,
            "epochs": epochs,
            "batch": batch // self.settings.accumulate,
            "batches": self._steps(trainer),
            "done": (self.about["stage_number"] - 1 + done) / self.about["stages"],
            "images_per_second": self._rate(trainer, elapsed),
            "seconds_left": epoch_seconds * epochs * (1 - done + self.about["stages"] - self.about["stage_number"]),
        }
        write_json(self.folder / PROGRESS, state)

    def _rate(self, trainer: Trainer, seconds: float) -> float:
        cases = self.seen * trainer.world_size * self.part(trainer)
        return cases / seconds if seconds > 0 else 0.0

    def part(self, trainer: Trainer) -> int:
        """Cases of one rank's part of a batch."""
        batches: Any = trainer.train_dataloader
        return int(batches.batch_sampler.part)

    def _steps(self, trainer: Trainer) -> int:
        return int(trainer.num_training_batches) // self.settings.accumulate


def learning_rates(trainer: Trainer) -> dict[str, float]:
    """`learning_rate` of the first optimiser, `learning_rate/1` … of the others."""
    rates = [optimiser.param_groups[0]["lr"] for optimiser in trainer.optimizers]
    return {f"learning_rate/{n}" if n else "learning_rate": float(rate) for n, rate in enumerate(rates)}


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """The epochs a run has finished, in order; of one run twice (killed before its checkpoint) the later."""
    file = folder / EPOCHS
    lines = file.read_text().splitlines() if file.exists() else []
    whole = filter(None, map(_parsed, lines))
    known = {(epoch["stage"], epoch["epoch"]): epoch for epoch in whole}
    return sorted(known.values(), key=lambda epoch: epoch["step"])


def steps_before(folder: Path, stage: str) -> int:
    """Optimiser steps of the stages that came before."""
    return max((epoch["step"] for epoch in read_epochs(folder) if epoch["stage"] != stage), default=0)


def append_line(file: Path, line: str) -> None:
    """Add a line; one that was cut off before it (by a kill, a full disk) stays a line of its own."""
    with file.open("a+b") as opened:
        if opened.tell():
            opened.seek(-1, os.SEEK_END)
        cut_off = opened.read(1) not in (b"", b"\n")
        opened.write(b"\n" * cut_off + line.encode() + b"\n")


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(line))
    except ValueError:
        return None
