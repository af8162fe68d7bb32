"""What one training process runs: torch, Lightning, MONAI and Zarr alone; Prefect and MLflow are next door.

The launcher (`tasks.training`) writes a job file; every rank reads it, trains with Lightning's Trainer, and leaves in
the run's folder `epochs.jsonl` (a line an epoch), `checkpoints/{last,best}.ckpt` and `model/`.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import record
from torch.utils.data import DataLoader, WeightedRandomSampler

from models.augmentation import AugmentationConfig, augmentation
from models.config import Config
from models.registry import build
from storage.cohort import Cohort
from storage.loading import CohortImages, MemoryEstimate, explained_failures, memory_estimate
from tasks.model_files import load_initial, save_model

BEST = "best"
PR_SET_PDEATHSIG = 1


class TrainerSettings(Config):
    """How to train, whatever the system."""

    max_epochs: PositiveInt = 30
    batch_size: PositiveInt = 32
    balance: bool = True
    augmentation: AugmentationConfig = AugmentationConfig()
    workers: int = Field(default=0, ge=0)
    gradient_clip: float | None = 5.0


class TrainingJob(Config):
    """Everything a rank needs, as data."""

    cohort: str
    snapshot: str
    system: str
    config: dict[str, Any]
    target: str
    trainer: TrainerSettings
    seed: int
    devices: PositiveInt
    folder: Path
    initial: Path | None = None


@record
def train_rank(job_file: str) -> None:
    """Train the job's system on this rank's share; rank 0 writes the model folder."""
    die_with_launcher()
    job = TrainingJob.model_validate_json(Path(job_file).read_text())
    seed_everything(job.seed, verbose=False)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.devices))
    system = build(job.system, job.config)
    if job.initial:
        load_initial(system, job.initial)
    best = ModelCheckpoint(
        dirpath=job.folder / "checkpoints",
        filename=BEST,
        monitor="val/loss",
        save_last=True,
        enable_version_counter=False,
    )
    trainer = Trainer(
        accelerator="auto",
        devices=job.devices,
        max_epochs=job.trainer.max_epochs,
        gradient_clip_val=job.trainer.gradient_clip,
        callbacks=[best, EpochLog(job.folder / "epochs.jsonl")],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        default_root_dir=job.folder,
    )
    last = job.folder / "checkpoints" / "last.ckpt"
    with explained_failures():
        trainer.fit(system, CohortData(job), ckpt_path=last if last.exists() else None, weights_only=False)
    if trainer.is_global_zero:
        write_model(job, Path(best.best_model_path))


class CohortData(LightningDataModule):
    """A cohort's training and validation cases.

    The loader is made anew each epoch from (seed, epoch), so a resumed run sees the batches of an undisturbed one.
    """

    def __init__(self, job: TrainingJob) -> None:
        super().__init__()
        self.job = job
        cohort = Cohort.open(job.cohort, job.snapshot)
        self.size = cohort.size
        self.cases = {split: labelled_cases(cohort, job.target, split) for split in ("train", "validation")}
        self.in_memory = loading_memory(job).in_memory
        self.training = self._images("train")
        self.validation = self._images("validation")

    def train_dataloader(self) -> DataLoader[Any]:
        """Balanced over the labels where asked, augmented."""
        settings, epoch = self.job.trainer, self.trainer.current_epoch if self.trainer else 0
        seed = int(np.random.SeedSequence([self.job.seed, epoch]).generate_state(1)[0])
        self.training.transform = augmentation(settings.augmentation, self.size, seed)
        generator = torch.Generator().manual_seed(seed)
        weights = label_weights(self.cases["train"][1]) if settings.balance else torch.ones(len(self.training))
        sampler = WeightedRandomSampler(
            weights.tolist(), len(weights), replacement=settings.balance, generator=generator
        )
        # from which the loader seeds its workers; without workers it would only shift torch's own generator
        of_workers = torch.Generator().manual_seed(seed) if settings.workers else None
        full = len(weights) >= settings.batch_size
        return self._loader(self.training, sampler=sampler, drop_last=full, generator=of_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """As they are, in order."""
        return self._loader(self.validation, shuffle=False)

    def _images(self, split: str) -> CohortImages:
        cases = self.cases[split][0]
        return CohortImages(self.job.cohort, self.job.snapshot, cases, self.job.target, in_memory=self.in_memory)

    def _loader(self, images: CohortImages, **options: Any) -> DataLoader[Any]:
        workers = self.job.trainer.workers
        context = "forkserver" if workers else None  # forked workers deadlock in icechunk
        return DataLoader(
            images,
            batch_size=self.job.trainer.batch_size,
            num_workers=workers,
            multiprocessing_context=context,
            pin_memory=torch.cuda.is_available(),
            **options,
        )


def labelled_cases(cohort: Cohort, target: str, split: str) -> tuple[list[int], np.ndarray]:
    """Positions and labels of the split's cases whose target is known."""
    table = cohort.table
    chosen = table[(table["split"] == split) & table[target].notna()]
    return chosen.index.tolist(), chosen[target].to_numpy(float)


def loading_memory(job: TrainingJob) -> MemoryEstimate:
    """What loading takes: each rank of this machine loads all cases; workers of both splits live at an epoch's end."""
    cohort = Cohort.open(job.cohort, job.snapshot)
    cases = [case for split in ("train", "validation") for case in labelled_cases(cohort, job.target, split)[0]]
    settings = job.trainer
    return memory_estimate(
        cohort, cases, batch_size=settings.batch_size, workers=2 * settings.workers, processes=job.devices
    )


def label_weights(labels: np.ndarray) -> Tensor:
    """Sampling weights that make every label value equally frequent, 1 / n_label."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return torch.as_tensor(1.0 / counts[inverse])


class EpochLog(Callback):
    """One JSON line an epoch: what the system logged, the learning rate, the seconds."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.started = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Append the epoch; validation has run by then."""
        if not trainer.is_global_zero:
            return
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        seconds = time.monotonic() - self.started
        line = {"epoch": trainer.current_epoch, "seconds": seconds, "learning_rate": rate, **values}
        with self.file.open("a") as opened:
            opened.write(json.dumps(line) + "\n")


def write_model(job: TrainingJob, checkpoint: Path) -> None:
    """The best epoch's weights as a model folder."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)
    about = {"target": job.target, "seed": job.seed, "epoch": state["epoch"], "snapshot": job.snapshot}
    save_model(job.folder / "model", job.system, job.config, state["state_dict"], **about)


def die_with_launcher() -> None:
    """Ask Linux to end this process when its parent ends, so that a killed launcher leaves no orphans."""
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6", use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
