"""When a stage's checkpoints are written, which are kept, and which weights it hands on."""

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.errors import ModelError
from models.system import Stage, System
from tasks.engine.averaging import WeightAverage
from tasks.engine.checkpoint_files import FINISHED, checkpoints, digest_named, replacing, write_weights
from tasks.engine.interruption import Agreement, StoppedError, StopSignal
from tasks.errors import TrainingError


def load_weights(system: System, file: Path) -> None:
    """Give a system the weights that a stage left.

    Raises:
        TrainingError: the file is damaged or of another system.
    """
    try:
        system.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise TrainingError(f"{file} cannot be used: {str(error).splitlines()[0]}") from error


class WholeFiles(TorchCheckpointIO):
    """Lightning's writing of checkpoints, whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write to `path`, which a digest in the name then tells apart from anything else."""
        unnamed = Path(path)
        with replacing(unnamed) as partial:
            torch.save(checkpoint, partial)
        unnamed.replace(digest_named(unnamed))


class Checkpoints(Callback):
    """Writes a stage's checkpoints: at the end of each epoch, every `minutes` in between, and when told to stop."""

    def __init__(
        self,
        folder: Path,
        system: System,
        monitor: str | None,
        mode: str,
        minutes: float,
        average: WeightAverage | None = None,
    ) -> None:
        self.folder, self.system, self.monitor, self.mode = folder, system, monitor, mode
        self.seconds, self.average = 60 * minutes, average
        self.best: dict[str, Any] = {"score": None, "epoch": None, "file": None}
        self.stop = StopSignal()
        self.written = time.monotonic()
        self.agreement: Agreement

    def on_train_start(self, trainer: Trainer, pl_module: Stage) -> None:
        """Listen to signals, after Lightning has taken them."""
        self.agreement = Agreement(trainer.world_size)
        self.stop.listen()
        # Lightning's own agreement on SIGTERM would make every step of a GPU wait for the host.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Between two optimiser steps; at an epoch's last one validation comes first."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if (progress.current.ready % trainer.accumulate_grad_batches) or progress.is_last_batch:
            return
        due, stop = self.agreement.on(time.monotonic() - self.written >= self.seconds, self.stop.came)
        if due or stop:
            self._write(trainer, trainer.current_epoch, progress.current.ready)
        if stop:
            raise StoppedError

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Stage) -> None:
        """Keep the weights if they are the best so far, and all that is needed to go on."""
        if self.monitor is not None:
            self._keep_best(trainer, self.monitor)
        self._write(trainer, trainer.current_epoch + 1, 0)
        _, stop = self.agreement.on(False, self.stop.came)
        if stop:
            raise StoppedError

    def on_train_end(self, trainer: Trainer, pl_module: Stage) -> None:
        """Nothing is under way between the ranks after this."""
        self.agreement.close()

    def finish(self, trainer: Trainer) -> None:
        """The system gets the weights of the stage's best epoch, or of its last; they are what it hands on."""
        if trainer.is_global_zero:
            if self.best["file"]:
                load_weights(self.system, self.folder / self.best["file"])
                write_weights(self.folder / FINISHED, self.system.state_dict())
            else:
                self._save_weights(self.folder / FINISHED)
            self._prune(keep=1)
            for file in self.folder.glob("best-*.safetensors"):
                file.unlink()
        trainer.strategy.barrier("finished")
        load_weights(self.system, self.folder / FINISHED)

    def state_dict(self) -> dict[str, Any]:
        """Which epoch was the best so far."""
        return dict(self.best)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.best = dict(state_dict)

    def _keep_best(self, trainer: Trainer, monitor: str) -> None:
        if monitor not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise ModelError(f"the best epoch is told by {monitor}, which is not logged; logged: {logged}")
        score = float(trainer.callback_metrics[monitor])
        if not math.isfinite(score) or not self._is_better(score):
            return
        self.best = {"score": score, "epoch": trainer.current_epoch, "file": None}
        if trainer.is_global_zero:
            file = self.folder / "best"
            self._save_weights(file)
            named = digest_named(file).with_suffix(".safetensors")
            file.replace(named)
            self.best["file"] = named.name
        self.best["file"] = trainer.strategy.broadcast(self.best["file"])

    def _is_better(self, score: float) -> bool:
        best = self.best["score"]
        return best is None or (score < best if self.mode == "min" else score > best)

    def _save_weights(self, file: Path) -> None:
        with self.average.in_use() if self.average else nullcontext():
            write_weights(file, self.system.state_dict())

    def _write(self, trainer: Trainer, epoch: int, batch: int) -> None:
        trainer.save_checkpoint(self.folder / f"{epoch:05d}-{batch:07d}.ckpt")
        self.written = time.monotonic()
        if trainer.is_global_zero:
            self._prune(keep=2)

    def _prune(self, keep: int) -> None:
        """Keep the newest checkpoints and the newest between two epochs, and the best weights that they speak of."""
        found = checkpoints(self.folder)
        whole_epochs = [file for file in found if not int(file.name.split("-")[1])]
        kept = {*found[:keep], *whole_epochs[:1]}
        for file in set(found) - kept:
            file.unlink()
        bests = sorted(self.folder.glob("best-*.safetensors"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in bests[2:]:
            if file.name != self.best["file"]:
                file.unlink()
