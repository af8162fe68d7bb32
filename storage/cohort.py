"""A cohort: images or volumes with labels, masks, splits and maps, each state of it a snapshot with an id."""

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
from storage.admission import IDENTITY, Admission, Register, admit, merged_quarantine
from storage.case import Case, Rejected
from storage.engine import Snapshot
from storage.errors import CohortError
from storage.geometry import Geometry
from storage.layout import Corrections, Layout
from storage.maps import Maps, delete_maps, map_names, record_maps
from storage.pixels import Pixels
from storage.splits import FRACTIONS, Fractions, checked_fractions

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Recorded:
    """What became of a batch: `known` cases were there already, `updated` ones got other labels, masks or pixels."""

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
        self._register = Register()
        self._show(snapshot)
        self._pinned = pinned

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        grid: Sequence[int] | None,
        dims: Sequence[str],
        channels: Sequence[str],
        dtype: str,
        lesions: Sequence[str] = (),
        labels: Sequence[str] = (),
        fractions: Fractions = FRACTIONS,
    ) -> "Cohort":
        """An empty cohort of the axes `dims`, ("y", "x") or ("z", "y", "x"); without `grid` each case has its own.

        CohortError where there is one already, or a label has a name the cohort needs itself.
        """
        shared = Layout(
            grid=None if grid is None else tuple(map(int, grid)),
            dims=tuple(dims),
            channels=tuple(channels),
            dtype=str(np.dtype(dtype)),
            lesions=tuple(lesions),
            labels=tuple(labels),
            fractions=checked_fractions(fractions),
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
        return cls(str(path), repository, snapshot or engine.tip(repository, str(path)), pinned=snapshot is not None)

    @classmethod
    def exists(cls, path: str | Path) -> bool:
        """Whether there is a cohort at `path`."""
        if not engine.exists(str(path)):
            return False
        repository = engine.open_repository(str(path))
        newest = engine.tip(repository, str(path))
        return layout.read_layout(engine.read_group(repository, str(path), newest)) is not None

    def __reduce__(self) -> tuple[Any, ...]:
        return Cohort.open, (self.path, self.snapshot)

    def _show(self, snapshot: str) -> None:
        """Turn to `snapshot`."""
        if self._pinned:
            return
        self.snapshot = snapshot
        self._group = engine.read_group(self._repository, self.path, snapshot)
        shared = layout.read_layout(self._group)
        if shared is None:
            raise CohortError(f"there is no cohort at {self.path}: its first ingestion was cut short; run it again")
        self.layout = shared
        for name in ("table", "quarantine", "_pixels"):
            self.__dict__.pop(name, None)

    def __len__(self) -> int:
        return len(self._pixels)

    @property
    def dims(self) -> tuple[str, ...]:
        """The axes of a case: ("y", "x") or ("z", "y", "x")."""
        return self.layout.dims

    @property
    def grid(self) -> tuple[int, ...] | None:
        """The shape that all cases share; None where each has its own."""
        return self.layout.grid

    @property
    def size(self) -> int:
        """Side of the square grid in pixels; CohortError for a cohort of volumes, or of cases of other shapes."""
        if self.grid is None or len(self.grid) != 2 or self.grid[0] != self.grid[1]:
            shown = "volumes" if len(self.dims) == 3 else "pictures of differing shapes"
            raise CohortError(f"{self.path} holds {shown} ({self.shown_grid}); this works on square pictures only")
        return self.grid[0]

    @property
    def shown_grid(self) -> str:
        """The shape of a case in words, such as 3 × 128 × 128."""
        axes = self.dims if self.grid is None else self.grid
        return " × ".join(map(str, (len(self.channels), *axes)))

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names, in the order of the image's first axis."""
        return self.layout.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the images."""
        return np.dtype(self.layout.dtype)

    @property
    def lesions(self) -> tuple[str, ...]:
        """Lesion classes, in the order of the masks' first axis."""
        return self.layout.lesions

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names; each is a column of `table`."""
        return self.layout.labels

    @property
    def fractions(self) -> Fractions:
        """Shares of patients in train, validation and test."""
        return self.layout.fractions

    @property
    def origins(self) -> list[dict[str, Any]]:
        """The sources it was made from: `address`, `options`, and `pseudonyms`, a sign of the key that hashed ids."""
        return list(self._group.attrs.get(layout.ORIGINS, []))  # type: ignore[arg-type]

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row a case, row i = case i: the columns of `storage.layout.COLUMNS` and a column a label."""
        return layout.read_table(self._group, self.layout)

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
    def _pixels(self) -> Pixels:
        return Pixels(self.path, self._group, self.layout)

    def history(self) -> list[Snapshot]:
        """The snapshots that led to this one, newest first."""
        return engine.history(self._repository, self.path, self.snapshot)

    def shape(self, index: int) -> tuple[int, ...]:
        """The grid of a case, (y, x) or (z, y, x)."""
        return self._pixels.shape(index)

    def spacing(self, index: int) -> tuple[float, ...]:
        """Spacing of a case along each axis in mm, NaN where unknown."""
        row = self.table.iloc[int(index)]
        return tuple(float(row[f"spacing_{axis}_mm"]) for axis in self.dims)

    def geometry(self, index: int) -> Geometry:
        """How the grid of a case lies on the voxels of its source, and in the patient."""
        return Geometry.from_json(str(self.table["geometry"].iloc[int(index)]))

    def image(self, index: int) -> np.ndarray:
        """Image of a case, (C, y, x) or (C, z, y, x) in the stored dtype; CohortError where it is damaged."""
        return self._pixels.image(index)

    def images(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Images of some cases of a shared grid, (N, C, y, x) or (N, C, z, y, x)."""
        if self.grid is None:
            raise CohortError(f"the cases of {self.path} have shapes of their own and cannot be stacked")
        stack = np.empty((len(indices), len(self.channels), *self.grid), self.dtype)
        for place, index in enumerate(indices):  # fancy indexing is 10–50× slower: zarr-python #3829
            stack[place] = self.image(index)
        return stack

    def patch(self, index: int, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
        """The part (C, *shape) of an image that begins at `start`; only the chunks it touches are read."""
        return self._pixels.image(index, _box(start, shape))

    def masks(self, index: int) -> np.ndarray:
        """Masks of a case, (L, *grid) bool in the order of `lesions`; all False where nobody annotated it."""
        return self._pixels.masks(index)

    def mask(self, index: int, lesions: Sequence[str] | None = None) -> np.ndarray:
        """Union of the masks of the named lesion classes, by default of all: bool on the grid."""
        return self._pixels.mask(index, self._classes(lesions))

    def mask_patch(
        self, index: int, start: Sequence[int], shape: Sequence[int], lesions: Sequence[str] | None = None
    ) -> np.ndarray:
        """The part of `mask` that begins at `start`, bool of `shape`."""
        return self._pixels.mask(index, self._classes(lesions), _box(start, shape))

    def _classes(self, lesions: Sequence[str] | None) -> list[int]:
        wanted = self.lesions if lesions is None else lesions
        if unknown := sorted(set(wanted) - set(self.lesions)):
            raise CohortError(f"{self.path} has no lesion class '{unknown[0]}'; it has: {_listed(self.lesions)}")
        return [self.lesions.index(lesion) for lesion in wanted]

    def append(self, cases: Sequence[Case], rejected: Sequence[Rejected] = ()) -> str:
        """Take in `cases` and set aside `rejected` in one transaction; the id of the new snapshot."""
        return self.record(cases, rejected).snapshot

    def record(
        self,
        cases: Sequence[Case],
        rejected: Sequence[Rejected] = (),
        corrections: Corrections | None = None,
        settled: Sequence[str] = (),
        origin: Mapping[str, Any] | None = None,
    ) -> Recorded:
        """`append` that also corrects cases, frees `settled` files from quarantine, and tells what it did.

        A case that the cohort has is left alone; one whose bytes it has under another name, or whose name it has with
        other bytes, is set aside. `origin`, how to open its source again, is remembered. Where all is as it was, no
        snapshot is made. CohortError for a case that does not fit the cohort, SourceError for a patient in two splits:
        nothing is then written.
        """
        for case in cases:
            layout.check_fits(case, self.layout)
        better = corrections or Corrections()
        judged: Admission

        def write(group: engine.Group, _: str) -> str | None:
            nonlocal judged
            judged = admit(self._caught_up(group), cases, self.fractions)
            aside = self._set_aside(group, [*rejected, *judged.rejected], [*settled, *(c.file for c in judged.cases)])
            fresh = self._remember(group, origin)
            if not (judged.cases or aside or fresh or better.updated or better.stamps):
                return None
            rows = layout.rows_for(judged.cases, judged.splits, self.layout)
            layout.append_cases(group, judged.cases, rows, self.layout)
            layout.correct(group, better, self.layout)
            return f"{len(rows)} cases added, {better.updated} corrected" + (", quarantine changed" if aside else "")

        snapshot = engine.transact(self._repository, self.path, write)
        self._show(snapshot)
        return Recorded(snapshot, len(judged.cases), judged.known, better.updated, [*rejected, *judged.rejected])

    def _caught_up(self, group: engine.Group) -> Register:
        """The register as of the tip: only rows that others have added since are read."""
        known, count = self._register, engine.array_of(group, "sha256").shape[0]
        newer = engine.read_columns(group, IDENTITY, max(known.rows - 1, 0))
        if known.rows and (known.rows > count or newer["sha256"].iat[0] != known.last):
            known = self._register = Register()  # the branch was set back and grew again
            newer = engine.read_columns(group, IDENTITY)
        known.learn(newer.iloc[1:] if known.rows else newer)
        return known

    def _set_aside(self, group: engine.Group, rejected: Sequence[Rejected], freed: Sequence[str]) -> bool:
        """Bring the quarantine up to date; whether that changed it."""
        aside = engine.subgroup(group, "quarantine")
        if not rejected and not engine.array_of(aside, "file").shape[0]:
            return False
        before = layout.read_quarantine(group)
        after = merged_quarantine(before, rejected, freed)
        if after.to_dict("list") == before.to_dict("list"):
            return False
        engine.rewrite_columns(aside, after)
        return True

    def _remember(self, group: engine.Group, origin: Mapping[str, Any] | None) -> bool:
        """Keep where cases came from; whether that was new."""
        known: Any = group.attrs.get(layout.ORIGINS, [])
        kept = json.loads(json.dumps(origin))
        if not origin or kept in known:
            return False
        group.attrs[layout.ORIGINS] = [*known, kept]
        return True

    def content_digest(self) -> str:
        """SHA-256 over the grid and the sorted cases (id, pixels, masks, split, labels): changes iff the cases do."""
        grid = [self.grid, self.dims, self.channels, str(self.dtype), self.lesions, self.labels]
        columns = ["case_id", "image_digest", "mask_digest", "split", *self.labels]
        rows = sorted(self.table[columns].astype(object).map(str).itertuples(index=False, name=None))
        return hashlib.sha256(json.dumps([grid, rows]).encode()).hexdigest()

    def write_maps(
        self,
        name: str,
        indices: Sequence[int] | np.ndarray,
        saliency: np.ndarray | Sequence[np.ndarray],
        table: pd.DataFrame,
        arrays: Mapping[str, np.ndarray] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> str:
        """Write a system's answers to N cases in one transaction; the id of the new snapshot.

        `saliency` has a row a case on the case's grid, float32, raw; `table` has N rows of numbers and text; `arrays`
        are N rows each, such as a score trajectory (N, T) or inpainted images (N, C, y, x); `attrs` describe the set
        and replace what it had. The first write makes the set `name`, which may hold '/'; a case that has a map gets
        the new one.
        """
        cases = np.asarray(indices, np.int64)
        if len(cases) and not 0 <= cases.min() <= cases.max() < len(self):
            raise CohortError(f"maps for cases {cases.min()} to {cases.max()}, but {self.path} has {len(self)} cases")
        if len(saliency) != len(cases):
            raise CohortError(f"{len(saliency)} maps for {len(cases)} cases of {self.path}")
        for case, given in zip(cases, saliency, strict=True):
            if given.shape != self.shape(int(case)):
                raise CohortError(f"a map of shape {given.shape} for case {case}, which is {self.shape(int(case))}")

        def write(group: engine.Group) -> str:
            record_maps(group, name, cases, saliency, table, dict(arrays or {}), attrs, self.dims, self.grid is None)
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
        """The cohort as a lazy xarray Dataset; the columns of `table` but the labels are its coordinates.

        Cases of differing shapes have no array in common: the Dataset then has the table alone.
        """
        import xarray as xr  # half a second that only its users should wait for

        dataset: xr.Dataset = xr.open_zarr(self._group.store, consolidated=False, chunks=None, zarr_format=3)
        coordinates: xr.Dataset = dataset.set_coords(list(layout.COLUMNS))
        return coordinates


def _box(start: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(int(first), int(first) + int(length)) for first, length in zip(start, shape, strict=True))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
