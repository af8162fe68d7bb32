"""Whole cases of a cohort as items for torch's data loader."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from storage.loading.cases import CaseRows, Item, Transform, seed_transform


class CohortImages(Dataset[Any]):
    """Cases of a cohort as of one snapshot.

    An item is `image` (C, *grid) in the stored dtype, `label` float32 scalar (NaN where missing; absent where no label
    is named), `spacing` float32 in mm an axis of the grid (NaN where unknown), `case` its index in the cohort and, if
    `lesions` are named, `mask` (1, *grid) bool, the union of those classes. In a ragged cohort each case has its own
    grid; `padded_batch` collates them. `transform` may change the item; where it has MONAI's `set_random_state` each
    worker seeds it anew, as copies of one generator would draw the same numbers in all of them.

    `in_memory` reads all images and masks once, in the process that iterates without workers. Loader workers read from
    the store: each opens it by itself, and a copy a worker would multiply the memory. A forked worker reads through a
    process of its own (`storage.reader`), so spawned and forkserver ones are the better choice.

    Raises:
        CohortError: the cohort has no such label or lesion class.
        LoadingError: for an item that cannot be read or transformed; it names the case.
    """

    def __init__(
        self,
        path: str,
        snapshot: str,
        indices: Sequence[int] | np.ndarray,
        label: str | None,
        lesions: Sequence[str] | None = None,
        transform: Transform | None = None,
        in_memory: bool = True,
    ) -> None:
        self.cases = CaseRows(path, snapshot, indices, label, lesions)
        self.transform = transform
        self.in_memory = in_memory
        self._pixels: list[np.ndarray] | None = None
        self._masks: list[np.ndarray] | None = None
        self._seeded_by: int | None = None

    def __len__(self) -> int:
        return len(self.cases)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels": None, "_masks": None}

    def __getitem__(self, place: int) -> Any:
        place = range(len(self))[place]
        with self.cases.reading(place):
            item = self._item(place)
        if self.transform is None:
            return item
        self._seed_in_worker()
        return self.cases.transformed(place, self.transform, item)

    def _item(self, place: int) -> Item:
        item = {"image": torch.from_numpy(self._image(place)), **self.cases.known(place)}
        if self.cases.lesions is not None:
            item["mask"] = torch.from_numpy(self._mask(place)[None])
        return item

    def _image(self, place: int) -> np.ndarray:
        if not self.in_memory or get_worker_info() is not None:
            return self.cases.reader().image(int(self.cases.indices[place]))
        if self._pixels is None:
            self._pixels = [self.cases.reader().image(int(case)) for case in self.cases.indices]
        return self._pixels[place].copy()

    def _mask(self, place: int) -> np.ndarray:
        if not self.in_memory or get_worker_info() is not None:
            return self.cases.reader().mask(int(self.cases.indices[place]), self.cases.lesions)
        if self._masks is None:
            self._masks = [self.cases.reader().mask(int(case), self.cases.lesions) for case in self.cases.indices]
        return self._masks[place].copy()

    def _seed_in_worker(self) -> None:
        worker = get_worker_info()
        if worker is not None and self._seeded_by != worker.seed:
            self._seeded_by = worker.seed
            seed_transform(self.transform, worker.seed)
