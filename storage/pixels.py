"""The images and masks of a cohort, read case by case; what a checksum finds wrong is told by the case's name."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from storage import engine
from storage.errors import CohortError
from storage.layout import Layout
from storage.rows import Ragged, Rows, rows_of

Box = tuple[slice, ...]


class Pixels:
    """Images and masks as they were at one snapshot, whose root is `group`."""

    def __init__(self, path: str, group: engine.Group, layout: Layout) -> None:
        self._path, self._group, self._layout = path, group, layout

    @cached_property
    def _images(self) -> Rows:
        return rows_of(self._group, "image")

    @cached_property
    def _masks(self) -> Rows:
        return rows_of(self._group, "mask")

    @cached_property
    def _names(self) -> engine.Array:
        return engine.array_of(self._group, "case_id")

    def __len__(self) -> int:
        return int(self._names.shape[0])

    def shape(self, index: int) -> tuple[int, ...]:
        """The grid of a case."""
        return self._layout.grid or self._images.shape(self._checked(index))[1:]

    def image(self, index: int, box: Box = ()) -> np.ndarray:
        """Image of a case, (C, *grid), or the `box` of it."""
        return self._read(self._images, index, (slice(None), *box))

    def masks(self, index: int, box: Box = ()) -> np.ndarray:
        """Masks of a case, (L, *grid) bool, or the `box` of them; all False where nobody annotated it."""
        box = box or tuple(slice(0, length) for length in self.shape(index))
        if not self._has_masks(index):
            return np.zeros((len(self._layout.lesions), *(axis.stop - axis.start for axis in box)), bool)
        return self._read(self._masks, index, (slice(None), *box))

    def mask(self, index: int, classes: Sequence[int], box: Box = ()) -> np.ndarray:
        """Union of the masks of some lesion classes, bool; of volumes no other class is read."""
        if "z" not in self._layout.dims or not self._has_masks(index):
            return np.asarray(self.masks(index, box)[list(classes)].any(axis=0))
        box = box or tuple(slice(0, length) for length in self.shape(index))
        union = np.zeros([axis.stop - axis.start for axis in box], bool)
        for lesion in classes:
            union |= self._read(self._masks, index, (slice(lesion, lesion + 1), *box))[0]
        return union

    def _has_masks(self, index: int) -> bool:
        return bool(self._layout.lesions) and not (isinstance(self._masks, Ragged) and not self._masks.has(index))

    def _checked(self, index: int) -> int:
        if not 0 <= int(index) < len(self):
            raise IndexError(f"there is no case {index} in {self._path}, which has {len(self)} cases")
        return int(index)

    def _read(self, rows: Rows, index: int, region: Box) -> np.ndarray:
        row = self._checked(index)
        try:
            return rows.read(row, region)
        except Exception as error:  # zarr, numcodecs and icechunk each have their own
            name = str(self._names[row])
            raise CohortError(
                f"case '{name}' is damaged in {self._path} ({engine.first_line(error)}); "
                f"`lesionflow check {self._path} --repair` reads it again from its source"
            ) from error
