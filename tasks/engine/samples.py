"""What the system answers for a few validation cases as it learns, and for all of them when it has."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from models.system import Stage, System
from storage.cohort import Cohort
from storage.loading import CohortImages
from tasks.engine.averaging import WeightAverage
from tasks.engine.job import TrainingJob

CASES = 4
VALIDATION = "validation.npz"


class Samples(Callback):
    """Rank 0 predicts a few validation cases at some epochs: `samples/<stage>-<epoch>.npz`."""

    def __init__(
        self, job: TrainingJob, system: System, stage: str, epochs: int, average: WeightAverage | None, cases: list[int]
    ) -> None:
        self.folder, self.stage, self.average = job.folder / "samples", stage, average
        self.system = system
        count = min(job.trainer.sample_epochs, epochs)
        self.epochs = set(np.linspace(0, epochs - 1, count).round().astype(int).tolist()) if count else set()
        target = job.target if "label" in system.inputs else None
        self.items = CohortImages(job.cohort, job.snapshot, spread(job, cases), target)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Stage) -> None:
        """Predict, if this is one of the epochs."""
        if not (trainer.is_global_zero and trainer.current_epoch in self.epochs and len(self.items)):
            return
        batch = default_collate([self.items[place] for place in range(len(self.items))])
        shown = {key: value.numpy() for key, value in batch.items() if key in ("case", "image", "label")}
        predicted = self._predicted(batch, pl_module.device)
        shown |= {f"predicted_{key}" if key in shown else key: value.numpy() for key, value in predicted.items()}
        write_arrays(self.folder / f"{self.stage}-{trainer.current_epoch:04d}.npz", shown)

    def _predicted(self, batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        modes = {module: module.training for module in self.system.modules()}
        moved = {key: value.to(device) for key, value in batch.items()}
        with self.average.in_use() if self.average else nullcontext():
            predicted = self.system.to(device).eval().predict_step(moved, 0)
        for module, training in modes.items():
            module.training = training
        return {key: value.detach().float().cpu() for key, value in predicted.items()}


def spread(job: TrainingJob, cases: list[int]) -> list[int]:
    """A few of `cases`, from the lowest label to the highest."""
    table = Cohort.open(job.cohort, job.snapshot).table.iloc[cases]
    if job.target in table:
        table = table.sort_values(job.target, kind="stable")
    places = np.linspace(0, len(cases) - 1, min(CASES, len(cases))).round().astype(int)
    return [int(table.index[place]) for place in places]


def write_arrays(file: Path, arrays: dict[str, Any]) -> None:
    """Arrays in one file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(file)


def predict_validation(job: TrainingJob, system: System, cases: list[int], device: torch.device) -> None:
    """`validation.npz`: label and score of each validation case, where the system has a score."""
    target = job.target if "label" in system.inputs else None
    items = CohortImages(job.cohort, job.snapshot, cases, target, in_memory=False)
    loader = DataLoader(items, batch_size=job.trainer.batch_size if Cohort.open(job.cohort).grid else 1)
    parts: list[dict[str, np.ndarray]] = []
    system = system.to(device).eval()
    with torch.no_grad():
        for batch in loader:
            score = system.score(batch["image"].to(device))
            if score is None:
                return
            label = batch.get("label", torch.full((len(score),), torch.nan))
            parts.append({"case": batch["case"].numpy(), "label": label.numpy(), "score": score.float().cpu().numpy()})
    write_arrays(job.folder / VALIDATION, {key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
