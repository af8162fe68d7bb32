"""From a cohort to batches of tensors: a torch data set that is safe in workers and reads the store once."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from storage.cohort import Cohort

Item = dict[str, Any]


def memory_needed(cohort: Cohort, cases: int, lesions: bool = False) -> int:
    """Bytes that `cases` images, and their masks if `lesions`, take in memory."""
    pixels = cohort.size**2
    return cases * pixels * (len(cohort.channels) * cohort.dtype.itemsize + int(lesions))


class CohortImages(Dataset[Item]):
    """Cases of a cohort as of one snapshot.

    An item is `image` (C, H, W) in the stored dtype, `label` float32 scalar (NaN where missing), `case` its index in
    the cohort and, if `lesions` are named, `mask` (H, W) bool, the union of those classes; `transform` may change it.

    `in_memory` reads all images once, in the process that iterates without workers. Loader workers read from the store:
    each opens it by itself, and a copy a worker would multiply the memory. They must be spawned, as a forked one
    deadlocks in the engine: `DataLoader(..., num_workers=2, multiprocessing_context="spawn")`.
    """

    def __init__(
        self,
        path: str,
        snapshot: str,
        indices: Sequence[int] | np.ndarray,
        label: str,
        lesions: Sequence[str] | None = None,
        transform: Callable[[Item], Item] | None = None,
        in_memory: bool = True,
    ) -> None:
        self.path, self.snapshot = path, snapshot
        self.indices = np.asarray(indices, np.int64)
        self.lesions = None if lesions is None else tuple(lesions)
        self.transform = transform
        self.in_memory = in_memory
        self._cohort: Cohort | None = None
        self._pixels: np.ndarray | None = None
        self._labels = self._open().label(label).astype(np.float32)[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cohort": None, "_pixels": None}

    def __getitem__(self, place: int) -> Item:
        case = int(self.indices[place])
        item: Item = {
            "image": torch.from_numpy(self._image(place).copy()),
            "label": torch.tensor(self._labels[place]),
            "case": case,
        }
        if self.lesions is not None:
            item["mask"] = torch.from_numpy(self._open().mask(case, self.lesions))
        return item if self.transform is None else self.transform(item)

    def _image(self, place: int) -> np.ndarray:
        if not self.in_memory or get_worker_info() is not None:
            return self._open().image(int(self.indices[place]))
        if self._pixels is None:
            self._pixels = self._open().images(self.indices)
        return np.asarray(self._pixels[place])

    def _open(self) -> Cohort:
        if self._cohort is None:
            self._cohort = Cohort.open(self.path, self.snapshot)
        return self._cohort
