"""A row a case: images, masks or maps, stacked in one array where they share a grid, else an array each.

A stacked array is `name` (case, …). Ragged rows are the group `name` with an array for each row that was written,
called by its number. Blocks of about a megabyte make a patch of a volume cheap; a picture is one block.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from storage import engine

BLOCK_BYTES = 1 << 20
RAGGED = "ragged"


class Rows(Protocol):
    """The rows of one kind, in the order of the cases."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """What they hold."""

    def shape(self, row: int) -> tuple[int, ...]:
        """Of a row."""

    def read(self, row: int, region: tuple[slice, ...] = ()) -> np.ndarray:
        """A row, or the part of it that `region` names axis by axis."""

    def append(self, first: int, values: Sequence[np.ndarray | None]) -> None:
        """Write `values` from row `first` on, which is the first one that is not there; None leaves a row empty."""

    def write(self, row: int, value: np.ndarray) -> None:
        """Replace a row."""


class Stacked:
    """Rows of one shape in one array."""

    def __init__(self, array: engine.Array) -> None:
        self._array = array

    @property
    def dtype(self) -> np.dtype[Any]:
        """What they hold."""
        return np.dtype(self._array.dtype)

    def shape(self, row: int) -> tuple[int, ...]:
        """The same for every row."""
        return tuple(self._array.shape[1:])

    def read(self, row: int, region: tuple[slice, ...] = ()) -> np.ndarray:
        """A row, or a part of it."""
        return np.asarray(self._array[(int(row), *region)])  # type: ignore[index]

    def append(self, first: int, values: Sequence[np.ndarray | None]) -> None:
        """Write `values` after the rows that are there; an empty row is zeros, which take no room."""
        if not values:
            return
        empty = np.zeros(self._array.shape[1:], self.dtype)
        self._array.resize((first + len(values), *self._array.shape[1:]))
        self._array[first:] = np.stack([empty if value is None else value for value in values])

    def write(self, row: int, value: np.ndarray) -> None:
        """Replace a row."""
        self._array[int(row)] = value


class Ragged:
    """Rows of any shape, an array each."""

    def __init__(self, group: engine.Group) -> None:
        self._group = group
        kind: Any = group.attrs[RAGGED]
        self._dtype: np.dtype[Any] = np.dtype(kind["dtype"])
        self._dims = tuple(kind["dims"])

    @property
    def dtype(self) -> np.dtype[Any]:
        """What they hold."""
        return self._dtype

    def has(self, row: int) -> bool:
        """Whether the row was written."""
        return str(int(row)) in self._group

    def shape(self, row: int) -> tuple[int, ...]:
        """Of a row that was written."""
        return tuple(engine.array_of(self._group, str(int(row))).shape)

    def read(self, row: int, region: tuple[slice, ...] = ()) -> np.ndarray:
        """A row, or a part of it."""
        return np.asarray(engine.array_of(self._group, str(int(row)))[region or ...])

    def append(self, first: int, values: Sequence[np.ndarray | None]) -> None:
        """Write the rows that there are."""
        for row, value in enumerate(values, first):
            if value is not None:
                self.write(row, value)

    def write(self, row: int, value: np.ndarray) -> None:
        """Write a row, of any shape; what was there is gone."""
        name = str(int(row))
        if name in self._group:
            del self._group[name]
        blocks = _blocks(value.shape, self._dims, self._dtype.itemsize)
        engine.add_array(self._group, name, np.asarray(value, self._dtype), self._dims, blocks)


def add_stacked(group: engine.Group, name: str, shape: Sequence[int], dtype: str, dims: Sequence[str]) -> None:
    """Empty rows of one shape, (channel, y, x) or (channel, z, y, x)."""
    engine.add_rows(group, name, tuple(shape), dtype, tuple(dims), (1, *_blocks(shape, dims, np.dtype(dtype).itemsize)))


def add_ragged(group: engine.Group, name: str, dtype: str, dims: Sequence[str]) -> None:
    """Empty rows of any shape."""
    group.create_group(name).attrs[RAGGED] = {"dtype": str(np.dtype(dtype)), "dims": list(dims)}


def rows_of(group: engine.Group, name: str) -> Stacked | Ragged:
    """The rows `name` of a group; KeyError where there are none."""
    ragged = engine.child_group(group, name)
    return Stacked(engine.array_of(group, name)) if ragged is None else Ragged(ragged)


def _blocks(shape: Sequence[int], dims: Sequence[str], itemsize: int) -> tuple[int, ...]:
    """The shape of a block: a picture whole, a volume halved along its longest axis until it is small."""
    block = [max(1, length) for length in shape]
    if "z" not in dims:
        return tuple(block)
    depth = list(dims).index("z")
    block[:depth] = [1] * depth
    while int(np.prod(block)) * itemsize > BLOCK_BYTES:
        longest = int(np.argmax(block))
        block[longest] = -(-block[longest] // 2)
    return tuple(block)
