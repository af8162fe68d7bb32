"""Patches of a cohort's pictures or volumes as items for torch's data loader, some of them centred on lesions."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from storage.errors import CohortError
from storage.loading.cases import CaseRows, Item, Transform, seed_transform
from storage.reader import Reader

VOXELS_A_CLASS = 1024  # lesion voxels that are remembered of a case, drawn at random
VOXELS_REMEMBERED = 1 << 20  # of all cases together: 12 MB
SLAB_VOXELS = 1 << 24  # of a mask that are looked at at once
PATCHES, VOXELS = 0, 1  # what a seed is for


class CohortPatches(Dataset[Any]):
    """`patches_per_case` patches of each case as of one snapshot, drawn anew each epoch.

    An item is that of `CohortImages` with `image` (C, *patch) and `mask` (1, *patch), and `start`, the int64 index of
    the patch's first voxel in the case. Only the chunks that a patch touches are read. A patch that is larger than the
    case begins at 0 and ends in zeros.

    With `lesions`, a share of `lesion_share` of the patches of annotated cases have in their middle, or as near to it
    as the border allows, a voxel of one of those classes: a class that the case has, each as likely, then one of its
    voxels. All others begin anywhere. A case's masks are read through once, when a process first needs its lesions:
    let workers live on between epochs (`persistent_workers=True`).

    What is drawn depends on (seed, epoch, index) alone, whatever the workers; so does what a `transform` with MONAI's
    `set_random_state` does. `set_epoch` before each epoch reaches living workers too.

    Raises:
        CohortError: the cohort has no such label or lesion class, or other axes than `patch`.
        LoadingError: for an item that cannot be read or transformed; it names the case.
    """

    def __init__(
        self,
        path: str,
        snapshot: str,
        indices: Sequence[int] | np.ndarray,
        label: str | None,
        patch: Sequence[int],
        patches_per_case: int = 1,
        lesions: Sequence[str] | None = None,
        lesion_share: float = 0.5,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        self.cases = CaseRows(path, snapshot, indices, label, lesions)
        self.patch = np.asarray(patch, np.int64)
        self._check(lesion_share)
        self.patches_per_case, self.lesion_share = patches_per_case, lesion_share
        self.transform, self.seed = transform, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._voxels: OrderedDict[int, list[np.ndarray]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.cases) * self.patches_per_case

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_voxels": OrderedDict()}

    def __getitem__(self, index: int) -> Any:
        index = range(len(self))[index]
        place = index // self.patches_per_case
        generator = _generator(self.seed, PATCHES, int(self._epoch), index)
        with self.cases.reading(place):
            item = self._item(place, generator)
        if self.transform is None:
            return item
        seed_transform(self.transform, int(generator.integers(2**32)))
        return self.cases.transformed(place, self.transform, item)

    def drawn(self, index: int, seed: int) -> Item:
        """A patch of the case of item `index` that depends on `seed` alone, without the transform."""
        place = index // self.patches_per_case
        with self.cases.reading(place):
            return self._item(place, _generator(seed, PATCHES))

    def set_epoch(self, epoch: int) -> None:
        """Draw other patches; the same epoch draws the same ones."""
        self._epoch.fill_(epoch)

    def _item(self, place: int, generator: np.random.Generator) -> Item:
        case, reader = int(self.cases.indices[place]), self.cases.reader()
        start = self._start(place, generator)
        inside = np.minimum(self.patch, self.cases.shapes[place])
        image = _padded(reader.patch(case, start.tolist(), inside.tolist()), self.patch)
        item = {"image": image, **self.cases.known(place), "start": torch.tensor(start)}
        if self.cases.lesions is not None:
            mask = reader.mask_patch(case, start.tolist(), inside.tolist(), self.cases.lesions)
            item["mask"] = _padded(mask[None], self.patch)
        return item

    def _start(self, place: int, generator: np.random.Generator) -> np.ndarray:
        last = np.maximum(self.cases.shapes[place] - self.patch, 0)
        anywhere = generator.integers(0, last, endpoint=True)
        on_lesion = generator.random() < self.lesion_share
        if not on_lesion or not self.cases.lesions or not self.cases.annotated[place]:
            return np.asarray(anywhere)
        classes = [voxels for voxels in self._lesion_voxels(place) if len(voxels)]
        if not classes:
            return np.asarray(anywhere)
        voxels = classes[generator.integers(len(classes))]
        centre = voxels[generator.integers(len(voxels))]
        return np.asarray(np.clip(centre - self.patch // 2, 0, last))

    def _lesion_voxels(self, place: int) -> list[np.ndarray]:
        """Some voxels of each class, (n, axes); of the cases asked for last, as many as VOXELS_REMEMBERED allows."""
        if place in self._voxels:
            self._voxels.move_to_end(place)
            return self._voxels[place]
        case, shape = int(self.cases.indices[place]), tuple(self.cases.shapes[place].tolist())
        generator = _generator(self.seed, VOXELS, case)
        self._voxels[place] = [
            drawn_voxels(self.cases.reader(), case, shape, lesion, generator) for lesion in self.cases.lesions or ()
        ]
        while len(self._voxels) > 1 and sum(map(_count, self._voxels.values())) > VOXELS_REMEMBERED:
            self._voxels.popitem(last=False)
        return self._voxels[place]

    def _check(self, lesion_share: float) -> None:
        if len(self.patch) != len(self.cases.dims) or (self.patch < 1).any():
            given, axes = tuple(self.patch.tolist()), ", ".join(self.cases.dims)
            raise CohortError(f"a patch of {given} voxels: {self.cases.path} needs one length for each of {axes}")
        if not 0 <= lesion_share <= 1:
            raise CohortError(f"a lesion share of {lesion_share}: it is the part of all patches, 0 to 1")


def drawn_voxels(
    reader: Reader, case: int, shape: tuple[int, ...], lesion: str, generator: np.random.Generator
) -> np.ndarray:
    """At most VOXELS_A_CLASS voxels of a lesion class, (n, axes) int32, each of them as likely; in memory a slab."""
    drawn, seen = np.empty((0, len(shape)), np.int32), 0
    depth = max(1, SLAB_VOXELS // max(1, int(np.prod(shape[1:]))))
    for first in range(0, shape[0], depth):
        corner, slab = (first, *[0] * (len(shape) - 1)), (min(depth, shape[0] - first), *shape[1:])
        voxels = np.flatnonzero(reader.mask_patch(case, corner, slab, [lesion]))
        total = min(VOXELS_A_CLASS, seen + len(voxels))
        new = int(generator.hypergeometric(len(voxels), seen, total)) if total else 0
        chosen = generator.choice(voxels, new, replace=False, shuffle=False)
        added = np.stack(np.unravel_index(chosen, slab), axis=1) + np.asarray(corner)
        kept = generator.choice(drawn, total - new, replace=False) if seen else drawn
        drawn, seen = np.concatenate([kept, added.astype(np.int32)]), seen + len(voxels)
    return drawn


def _count(classes: list[np.ndarray]) -> int:
    return sum(map(len, classes))


def _generator(seed: int, *purpose: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose))


def _padded(part: np.ndarray, patch: np.ndarray) -> torch.Tensor:
    """`part` (C, *at most patch) as (C, *patch), zeros after it."""
    if part.shape[1:] == tuple(patch):
        return torch.from_numpy(part)
    whole = np.zeros((part.shape[0], *patch), part.dtype)
    whole[tuple(slice(0, length) for length in part.shape)] = part
    return torch.from_numpy(whole)
