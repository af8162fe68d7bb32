"""A cohort: images of one size with their labels, masks, splits and maps, each state of it a snapshot with an id."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from storage import engine, layout
from storage.admission import Admission, admit, merged_quarantine
from storage.case import Case, Rejected
from storage.engine import Snapshot
from storage.errors import CohortError
from storage.layout import Layout
from storage.maps import Maps, delete_maps, map_names, record_maps
from storage.splits import FRACTIONS, Fractions, checked_fractions

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Recorded:
    """What became of a batch: `known` cases were there already, `updated` ones got other labels."""

    snapshot: str
    added: int
    known: int
    updated: int
    rejected: list[Rejected]


class Cohort:
    """A cohort as it was at one snapshot.

    After a write through this object it shows the new state, unless it was opened at a snapshot of the past.
    """

    def __init__(self, path: str, repository: engine.Repository, snapshot: str, pinned: bool = False) -> None:
        self.path = path
        self._repository = repository
        self._pinned = False
        self._show(snapshot)
        self._pinned = pinned

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        size: int,
        channels: Sequence[str],
        dtype: str,
        lesions: Sequence[str] = (),
        labels: Sequence[str] = (),
        fractions: Fractions = FRACTIONS,
        source: str = "",
    ) -> "Cohort":
        """An empty cohort; CohortError where there is one already, or a label has a name the cohort needs itself."""
        shared = Layout(
            size=int(size),
            channels=tuple(channels),
            dtype=str(np.dtype(dtype)),
            lesions=tuple(lesions),
            labels=tuple(labels),
            fractions=checked_fractions(fractions),
            source=source,
        )

        def write(group: engine.Group, _: str) -> str:
            if layout.read_layout(group) is not None:
                raise CohortError(f"there is a cohort at {path} already")
            layout.lay_out(group, shared)
            return "an empty cohort"

        engine.create(str(path), write)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path, snapshot: str | None = None) -> "Cohort":
        """The cohort at `path`, as it is or as it was at `snapshot`; CohortError where there is none."""
        if not engine.exists(str(path)):
            raise CohortError(f"there is no cohort at {path}; `lesionflow ingest SOURCE {path}` makes one")
        repository = engine.open_repository(str(path))
        return cls(str(path), repository, snapshot or engine.tip(repository), pinned=snapshot is not None)

    @classmethod
    def exists(cls, path: str | Path) -> bool:
        """Whether there is a cohort at `path`."""
        if not engine.exists(str(path)):
            return False
        repository = engine.open_repository(str(path))
        return layout.read_layout(engine.read_group(repository, str(path), engine.tip(repository))) is not None

    def __reduce__(self) -> tuple[Any, ...]:
        return Cohort.open, (self.path, self.snapshot)

    def _show(self, snapshot: str, table: pd.DataFrame | None = None) -> None:
        """Turn to `snapshot`, whose table may be known."""
        if self._pinned:
            return
        self.snapshot = snapshot
        self._group = engine.read_group(self._repository, self.path, snapshot)
        shared = layout.read_layout(self._group)
        if shared is None:
            raise CohortError(f"there is no cohort at {self.path}: its first ingestion was cut short; run it again")
        self._layout = shared
        for name in ("table", "quarantine", "_images", "_masks"):
            self.__dict__.pop(name, None)
        if table is not None:
            self.__dict__["table"] = table

    def __len__(self) -> int:
        return len(self.table)

    @property
    def size(self) -> int:
        """Side of the square grid in pixels."""
        return self._layout.size

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names, in the order of the image's first axis."""
        return self._layout.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the images."""
        return np.dtype(self._layout.dtype)

    @property
    def lesions(self) -> tuple[str, ...]:
        """Lesion classes, in the order of the masks' first axis."""
        return self._layout.lesions

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names; each is a column of `table`."""
        return self._layout.labels

    @property
    def fractions(self) -> Fractions:
        """Shares of patients in train, validation and test."""
        return self._layout.fractions

    @property
    def source(self) -> str:
        """The address of the source it was first made from."""
        return self._layout.source

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row a case, row i = case i: ids, split, file, SHA-256, spacing, crop, `has_masks`, and a column a label."""
        return layout.read_table(self._group, self._layout)

    def label(self, name: str) -> np.ndarray:
        """A label of all cases, float64, NaN where missing; CohortError for an unknown one."""
        if name not in self.labels:
            raise CohortError(f"{self.path} has no label '{name}'; it has: {_listed(self.labels)}")
        return self.table[name].to_numpy(np.float64)

    @cached_property
    def quarantine(self) -> pd.DataFrame:
        """The files that were set aside, a row each: file, sha256, reason."""
        return layout.read_quarantine(self._group)

    @cached_property
    def _images(self) -> engine.Array:
        return engine.array_of(self._group, "image")

    @cached_property
    def _masks(self) -> engine.Array:
        return engine.array_of(self._group, "mask")

    def history(self) -> list[Snapshot]:
        """The snapshots that led to this one, newest first."""
        return engine.history(self._repository, self.snapshot)

    def image(self, index: int) -> np.ndarray:
        """Image of a case, (C, H, W) in the stored dtype."""
        return np.asarray(self._images[int(index)])

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Images of some cases, (N, C, H, W)."""
        stack = np.empty((len(indices), len(self.channels), self.size, self.size), self.dtype)
        for place, index in enumerate(indices):  # fancy indexing is 10–50× slower: zarr-python #3829
            stack[place] = self.image(index)
        return stack

    def masks(self, index: int) -> np.ndarray:
        """Masks of a case, (L, H, W) bool in the order of `lesions`; all False where nobody annotated it."""
        if not self.lesions:
            return np.zeros((0, self.size, self.size), bool)
        return np.asarray(self._masks[int(index)])

    def mask(self, index: int, lesions: Sequence[str] | None = None) -> np.ndarray:
        """Union of the masks of the named lesion classes, by default of all: (H, W) bool."""
        wanted = self.lesions if lesions is None else lesions
        if unknown := sorted(set(wanted) - set(self.lesions)):
            raise CohortError(f"{self.path} has no lesion class '{unknown[0]}'; it has: {_listed(self.lesions)}")
        return np.asarray(self.masks(index)[[self.lesions.index(lesion) for lesion in wanted]].any(axis=0))

    def append(self, cases: Sequence[Case], rejected: Sequence[Rejected] = ()) -> str:
        """Take in `cases` and set aside `rejected` in one transaction; the id of the new snapshot."""
        return self.record(cases, rejected).snapshot

    def record(
        self,
        cases: Sequence[Case],
        rejected: Sequence[Rejected] = (),
        relabelled: Mapping[int, Mapping[str, float]] | None = None,
        settled: Sequence[str] = (),
    ) -> Recorded:
        """`append` that also corrects labels, frees `settled` files from quarantine, and tells what it did.

        A case that the cohort has is left alone; one whose bytes it has under another name, or whose name it has with
        other bytes, is set aside. Where all is as it was, no snapshot is made. CohortError for a case that does not
        fit the cohort, SourceError for a patient in two splits: nothing is then written.
        """
        for case in cases:
            layout.check_fits(case, self._layout)
        corrections = relabelled or {}
        judged: Admission
        table: pd.DataFrame

        def write(group: engine.Group, base: str) -> str | None:
            nonlocal judged, table
            before = self.table if base == self.snapshot else layout.read_table(group, self._layout)
            judged = admit(before, cases, self.fractions)
            rows = layout.rows_of(judged.cases, judged.splits, self._layout)
            table = layout.with_labels(
                pd.concat([before, rows], ignore_index=True) if len(rows) else before, corrections
            )
            aside = layout.read_quarantine(group)
            freed = [*settled, *(case.file for case in judged.cases)]
            still = merged_quarantine(aside, [*rejected, *judged.rejected], freed)
            if not len(rows) and not corrections and still.to_dict("list") == aside.to_dict("list"):
                return None
            layout.append_cases(group, judged.cases, rows, self._layout)
            layout.write_labels(group, corrections)
            engine.rewrite_columns(engine.subgroup(group, "quarantine"), still)
            return f"{len(rows)} cases added, {len(corrections)} corrected, {len(still)} files in quarantine"

        snapshot = engine.transact(self._repository, self.path, write)
        self._show(snapshot, table)
        return Recorded(snapshot, len(judged.cases), judged.known, len(corrections), [*rejected, *judged.rejected])

    def content_digest(self) -> str:
        """SHA-256 over the grid and the sorted cases (id, SHA-256, split, labels): it changes iff the cases do."""
        grid = [self.size, self.channels, str(self.dtype), self.lesions, self.labels]
        columns = ["case_id", "sha256", "split", *self.labels]
        rows = sorted(self.table[columns].astype(object).map(str).itertuples(index=False, name=None))
        return hashlib.sha256(json.dumps([grid, rows]).encode()).hexdigest()

    def write_maps(
        self,
        name: str,
        indices: Sequence[int] | np.ndarray,
        saliency: np.ndarray,
        table: pd.DataFrame,
        arrays: Mapping[str, np.ndarray] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> str:
        """Write a system's answers to N cases in one transaction; the id of the new snapshot.

        `saliency` is (N, H, W) float32, raw; `table` has N rows of numbers and text; `arrays` are N rows each, such as
        a score trajectory (N, T) or inpainted images (N, C, H, W); `attrs` describe the set and replace what it had.
        The first write makes the set `name`, which may hold '/'; a case that has a map gets the new one.
        """
        cases = np.asarray(indices, np.int64)
        if len(cases) and not 0 <= cases.min() <= cases.max() < len(self):
            raise CohortError(f"maps for cases {cases.min()} to {cases.max()}, but {self.path} has {len(self)} cases")
        if saliency.shape != (len(cases), self.size, self.size):
            raise CohortError(
                f"maps of shape {saliency.shape} for {len(cases)} cases of {self.size}×{self.size} pixels"
            )

        def write(group: engine.Group) -> str:
            record_maps(group, name, cases, saliency, table, dict(arrays or {}), attrs)
            return f"{len(cases)} maps of {name}"

        return self._change(write)

    def map_names(self) -> list[str]:
        """The names of the sets of maps."""
        return map_names(self._group)

    def maps(self, name: str) -> Maps:
        """A set of maps; CohortError where there is none of this name."""
        if name not in self.map_names():
            raise CohortError(f"{self.path} has no maps '{name}'; it has: {_listed(self.map_names())}")
        return Maps(name, self._group)

    def drop_maps(self, name: str) -> str:
        """Remove a set of maps; the snapshots of the past keep it."""
        self.maps(name)

        def write(group: engine.Group) -> str:
            delete_maps(group, name)
            return f"maps of {name} dropped"

        return self._change(write)

    def _change(self, write: Callable[[engine.Group], str]) -> str:
        """Commit a change that is not one of cases."""
        snapshot = engine.transact(self._repository, self.path, lambda group, _: write(group))
        self._show(snapshot)
        return snapshot

    def to_xarray(self) -> "xr.Dataset":
        """The cohort as a lazy xarray Dataset; the columns of `table` but the labels are its coordinates."""
        import xarray as xr  # half a second that only its users should wait for

        dataset: xr.Dataset = xr.open_zarr(self._group.store, consolidated=False, chunks=None, zarr_format=3)
        coordinates: xr.Dataset = dataset.set_coords(list(layout.COLUMNS))
        return coordinates


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
