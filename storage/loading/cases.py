"""What the data sets of whole cases and of patches share: what is known of a case, its reader, its failures."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from storage.errors import CohortError
from storage.loading.failures import LoadingError, one_line
from storage.reader import OwnReader, Reader

Item = dict[str, Any]
Transform = Callable[[Item], Any]


class CaseRows:
    """What is known of some cases without reading pixels, and in each process a reader of the rest.

    `spacings` (N, axes) float32 mm, `shapes` (N, axes) int64, `names`, `annotated` and `labels` have a row a case.
    """

    def __init__(
        self,
        path: str,
        snapshot: str,
        indices: Sequence[int] | np.ndarray,
        label: str | None,
        lesions: Sequence[str] | None,
    ) -> None:
        self.path = path
        self.reader = OwnReader(path, snapshot)
        self.indices = np.asarray(indices, np.int64)
        reader = self.reader()
        self.dims = reader.dims
        self.lesions = None if lesions is None else self._known(reader, lesions)
        self.labels = None if label is None else reader.label(label).astype(np.float32)[self.indices]
        rows = reader.table.iloc[self.indices]
        self.names = rows["case_id"].to_numpy(object)
        self.annotated = rows["has_masks"].to_numpy(bool)
        self.spacings = rows[[f"spacing_{axis}_mm" for axis in self.dims]].to_numpy(np.float32)
        self.shapes = rows[[f"size_{axis}" for axis in self.dims]].to_numpy(np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def known(self, place: int) -> Item:
        """`label` (where one was named), `spacing` and `case` of an item."""
        item: Item = {"spacing": torch.tensor(self.spacings[place]), "case": int(self.indices[place])}
        return item if self.labels is None else {"label": torch.tensor(self.labels[place]), **item}

    @contextmanager
    def reading(self, place: int) -> Iterator[None]:
        """LoadingError with the case's name where reading it fails."""
        try:
            yield
        except Exception as error:
            line, name = one_line(error), str(self.names[place])
            if not (isinstance(error, CohortError) and f"'{name}'" in line):
                line = f"case '{name}' of {self.path} cannot be read: {line}"
            raise LoadingError(line) from error

    def transformed(self, place: int, transform: Transform, item: Item) -> Any:
        """What `transform` makes of an item; LoadingError with the case's name where it fails."""
        try:
            return transform(item)
        except Exception as error:
            cause = one_line(_first_cause(error))
            raise LoadingError(f"the transform failed on case '{self.names[place]}' of {self.path}: {cause}") from error

    def _known(self, reader: Reader, lesions: Sequence[str]) -> tuple[str, ...]:
        if unknown := sorted(set(lesions) - set(reader.lesions)):
            known = ", ".join(reader.lesions) or "none"
            raise CohortError(f"{self.path} has no lesion class '{unknown[0]}'; it has: {known}")
        return tuple(lesions)


def seed_transform(transform: Transform | None, seed: int) -> None:
    """Seed a transform that knows MONAI's way of being seeded."""
    seeding = getattr(transform, "set_random_state", None)
    if seeding is not None:
        seeding(seed=seed % 2**32)


def _first_cause(error: BaseException) -> BaseException:
    """MONAI wraps what a transform raises in a RuntimeError that names the transform alone."""
    return error if error.__cause__ is None else _first_cause(error.__cause__)
