"""A training as data: what the Prefect task writes and the training processes read."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from models.augmentation import AugmentationConfig
from models.config import Config, validated


class TrainerSettings(Config):
    """How to train, whatever the system.

    `batch_size` cases make an optimiser step, over all devices together: what is learnt does not depend on how many
    there are. Each device takes its share in `accumulate` parts, one after another.

    `balance` makes the values of the target count equally: by how often a case is drawn (`sampler`), or by a
    `weight` in the batch, of mean 1, that the loss multiplies with (`loss`).
    """

    max_epochs: PositiveInt = 30
    batch_size: PositiveInt = 32
    accumulate: PositiveInt = 1
    balance: Literal["sampler", "loss", "none"] = "sampler"
    augmentation: AugmentationConfig = AugmentationConfig()
    patch: tuple[PositiveInt, ...] | None = None
    patches_per_case: PositiveInt = 1
    workers: NonNegativeInt = 0
    gradient_clip: PositiveFloat | None = 5.0
    precision: Literal["64", "32", "bf16", "16"] = "32"
    patience: PositiveInt | None = None
    ema: float | None = Field(default=None, gt=0, lt=1)
    deterministic: bool = False
    channels_last: bool = False
    compile: bool = False
    checkpoint_minutes: NonNegativeFloat = 10.0
    restarts: NonNegativeInt = 2
    halve_batch: bool = False
    sample_epochs: NonNegativeInt = 6
    stages: dict[str, dict[str, Any]] = Field(default={})

    def of_stage(self, name: str) -> "TrainerSettings":
        """These settings with those of one stage on top."""
        changes = {**self.model_dump(), **self.stages.get(name, {}), "stages": {}}
        return validated(TrainerSettings, changes, where=f"--set trainer.stages.{name}")

    def in_parts(self, accumulate: int) -> "TrainerSettings":
        """These settings with each device's share of a batch in that many parts."""
        return self.model_copy(update={"accumulate": accumulate})


class TrainingJob(Config):
    """Everything a training process needs, as data.

    `cases` names the positions to train and to validate on; None: the labelled cases of those splits.
    """

    cohort: str
    snapshot: str
    system: str
    config: dict[str, Any]
    target: str
    trainer: TrainerSettings
    seed: int
    devices: PositiveInt
    folder: Path
    nodes: PositiveInt = 1
    initial: Path | None = None
    cases: dict[Literal["train", "validation"], tuple[int, ...]] | None = None

    @property
    def file(self) -> Path:
        """Where the job itself lies."""
        return self.folder / "job.json"

    @property
    def world_size(self) -> int:
        """Processes over all nodes."""
        return self.devices * self.nodes
