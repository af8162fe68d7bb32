"""A rank's share of a cohort, batch by batch.

What an epoch draws, in which order and with which random numbers depends on (seed, epoch) alone: not on how many ranks,
loader workers or parts of a batch there are, nor on where a killed training went on.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from models.augmentation import Augmentation, augmentation
from models.config import validated
from models.errors import ModelError
from models.registry import registered
from storage.cohort import Cohort
from storage.errors import CohortError
from storage.loading import CohortImages, CohortPatches, MemoryEstimate, memory_estimate
from tasks.engine.job import TrainerSettings, TrainingJob

SPLITS = ("train", "validation")
Position = Callable[[], tuple[int, int]]


class Draw(NamedTuple):
    """One item of a batch: which case or patch, and the seed of all that is random about it."""

    place: int
    seed: int


class EpochBatches(Sampler[list[Draw]]):
    """This rank's parts of an epoch's batches, from `position` (epoch, part) on.

    An epoch is a row of draws, by `weights` with replacement or a permutation. Batch b is the next `batch_size` of
    them; rank r of W takes of part m of A the draws (m · W + r) · p … + p with p = batch_size / (W · A).
    """

    def __init__(
        self,
        count: int,
        weights: Tensor | None,
        settings: TrainerSettings,
        seed: int,
        position: Position,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.count, self.weights, self.seed, self.position = count, weights, seed, position
        self.rank, self.world_size, self.accumulate = rank, world_size, settings.accumulate
        self.part = part_size(settings, world_size, count)
        self.batches = count // (self.part * world_size * settings.accumulate)

    def __len__(self) -> int:
        return self.batches * self.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, start = self.position()
        draws = self.draws(epoch)
        for number in range(start, len(self)):
            first = (number * self.world_size + self.rank) * self.part
            yield draws[first : first + self.part]

    def draws(self, epoch: int) -> list[Draw]:
        """All draws of an epoch, over all ranks."""
        order_seed, item_seed = np.random.SeedSequence([self.seed, epoch]).spawn(2)
        generator = torch.Generator().manual_seed(int(order_seed.generate_state(1)[0]))
        if self.weights is None:
            places = torch.randperm(self.count, generator=generator)
        else:
            places = torch.multinomial(self.weights, self.count, replacement=True, generator=generator)
        seeds = np.random.default_rng(item_seed).integers(2**32, size=self.count)
        return [Draw(place, seed) for place, seed in zip(places.tolist(), seeds.tolist(), strict=True)]


def part_size(settings: TrainerSettings, world_size: int, count: int) -> int:
    """Cases that a rank takes at once.

    Raises:
        ModelError: the batch cannot be divided, or there are fewer cases than parts.
    """
    parts = world_size * settings.accumulate
    if settings.batch_size % parts:
        raise ModelError(
            f"a batch of {settings.batch_size} cannot be divided over {world_size} processes in {settings.accumulate} "
            f"parts each: let trainer.batch_size be a multiple of {parts}"
        )
    part = min(settings.batch_size, count) // parts
    if not part:
        raise ModelError(f"{count} training cases are fewer than the {parts} parts of a batch")
    return part


class SeededItems(Dataset[Any]):
    """Items by `Draw`: read, augmented with the draw's seed, with a `weight` where the loss balances the labels."""

    def __init__(self, cases: CohortImages | CohortPatches, augment: Augmentation, weights: Tensor | None) -> None:
        self.cases, self.augment, self.weights = cases, augment, weights

    def __getitem__(self, draw: Draw) -> Any:
        if isinstance(self.cases, CohortPatches):
            place, item = draw.place // self.cases.patches_per_case, self.cases.drawn(draw.place, draw.seed)
        else:
            place, item = draw.place, self.cases[draw.place]
        if self.weights is not None:
            item["weight"] = self.weights[place]
        return self.cases.cases.transformed(place, lambda item: self.augment(item, draw.seed), item)


class CohortData(LightningDataModule):
    """A cohort's training and validation cases, this rank's share of them.

    Training items are augmented, float32; validation items are as stored, whole images or the same patches each epoch.
    """

    def __init__(self, job: TrainingJob, settings: TrainerSettings, seed: int, rank: int = 0) -> None:
        super().__init__()
        self.job, self.settings, self.seed, self.rank = job, settings, seed, rank
        self.position: Position = lambda: (0, 0)
        cohort = Cohort.open(job.cohort, job.snapshot)
        keys = registered(job.system).system.inputs
        self.target = job.target if "label" in keys else None
        self.lesions = learnt_lesions(cohort, job) if "mask" in keys else None
        self.in_memory = loading_memory(job, settings).in_memory
        self.indices = {split: training_cases(cohort, job, split) for split in SPLITS}
        self.labels = cohort.table[self.target].to_numpy(float)[self.indices["train"]] if self.target else None
        grid = settings.patch or cohort.grid
        if grid is None:
            raise ModelError(f"the cases of {job.cohort} differ in size: say --set trainer.patch=[z,y,x]")
        image_keys = tuple(key for key in ("image", "mask") if key in keys)
        self.augment = augmentation(settings.augmentation, grid, cohort.dtype, image_keys)

    def batches(self) -> EpochBatches:
        """The order of this rank's training items."""
        patches = self.settings.patches_per_case if self.settings.patch else 1
        weights = None
        if self.settings.balance == "sampler" and self.labels is not None:
            weights = label_weights(self.labels).repeat_interleave(patches)
        count, world = len(self.indices["train"]) * patches, self.job.world_size
        return EpochBatches(count, weights, self.settings, self.seed, lambda: self.position(), self.rank, world)

    def train_dataloader(self) -> DataLoader[Any]:
        """Balanced over the labels where asked, augmented; one loader for all epochs."""
        weights = None
        if self.settings.balance == "loss" and self.labels is not None:
            weights = label_weights(self.labels).float()
        items = SeededItems(self._cases("train"), self.augment, weights)
        return self._loader(items, batch_sampler=self.batches())

    def val_dataloader(self) -> DataLoader[Any]:
        """In order, every W-th case for each of W ranks."""
        cases, world = self._cases("validation"), self.job.world_size
        share = range(self.rank, len(cases), world) if len(cases) >= world else range(len(cases))
        part = part_size(self.settings, world, self.settings.batch_size)
        return self._loader(cases, sampler=list(share), batch_size=part)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Channels last, where asked."""
        if self.settings.channels_last:
            batch["image"] = batch["image"].contiguous(memory_format=channels_last(batch["image"].ndim))
        return batch

    def _cases(self, split: str) -> CohortImages | CohortPatches:
        where = (self.job.cohort, self.job.snapshot, self.indices[split], self.target)
        if not self.settings.patch:
            return CohortImages(*where, lesions=self.lesions, in_memory=self.in_memory)
        count = self.settings.patches_per_case
        return CohortPatches(*where, self.settings.patch, count, lesions=self.lesions, seed=self.seed)

    def _loader(self, items: Dataset[Any], **options: Any) -> DataLoader[Any]:
        workers = self.settings.workers
        return DataLoader(
            items,
            num_workers=workers,
            multiprocessing_context="forkserver" if workers else None,  # forked workers deadlock in icechunk
            persistent_workers=bool(workers),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),  # else a loader shifts torch's own
            **options,
        )


def channels_last(dimensions: int) -> torch.memory_format:
    """The format of a batch or of weights with 4 or 5 axes."""
    return torch.channels_last if dimensions == 4 else torch.channels_last_3d


def training_cases(cohort: Cohort, job: TrainingJob, split: str) -> list[int]:
    """Positions of the cases to train or to validate on, those that lack what the system learns from left out."""
    keys, table = registered(job.system).system.inputs, cohort.table
    chosen = table["split"] == split if job.cases is None else table.index.isin(job.cases[split])  # type: ignore[index]
    if "label" in keys:
        chosen &= table[job.target].notna()
    if "mask" in keys:
        chosen &= table["has_masks"]
    return [int(index) for index in table.index[chosen]]


def learnt_lesions(cohort: Cohort, job: TrainingJob) -> list[str]:
    """The classes whose union is the mask to learn from: those that the system's settings name as `lesions`, or all.

    Raises:
        CohortError: the cohort has no masks, or none of such a class.
    """
    if not cohort.lesions:
        raise CohortError(f"{cohort.path} has no lesion masks, which {job.system} learns from")
    named = getattr(validated(registered(job.system).config, job.config, where=job.system), "lesions", ())
    if unknown := [lesion for lesion in named if lesion not in cohort.lesions]:
        known = ", ".join(cohort.lesions)
        raise CohortError(
            f"{cohort.path} has no masks of {unknown[0]!r}, which {job.system} learns from; it has: {known}. "
            f'Choose by --set lesions=["{cohort.lesions[0]}"].'
        )
    return list(named or cohort.lesions)


def loading_memory(job: TrainingJob, settings: TrainerSettings | None = None) -> MemoryEstimate:
    """What loading takes: each rank of this machine loads all cases; the workers of both loaders live on."""
    settings, cohort = settings or job.trainer, Cohort.open(job.cohort, job.snapshot)
    cases = [case for split in SPLITS for case in training_cases(cohort, job, split)]
    return memory_estimate(
        cohort,
        cases,
        batch_size=max(1, settings.batch_size // (job.world_size * settings.accumulate)),
        workers=2 * settings.workers,
        processes=job.devices,
        lesions="mask" in registered(job.system).system.inputs,
        patch=settings.patch,
    )


def label_weights(labels: np.ndarray) -> Tensor:
    """Weights of mean 1 that make every label value count equally, n / (k · n_label)."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return torch.as_tensor(len(labels) / (len(counts) * counts[inverse]))
