"""How much memory loading takes, told before it starts."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]

from storage.cohort import Cohort
from storage.loading.failures import LoadingError

WORKER_BYTES = 350 << 20  # a spawned worker with torch, zarr and icechunk: 337 MB resident were measured
FLOAT_BYTES = 4  # a transform makes float32 of whatever is stored
UNLIMITED = 1 << 60
CGROUPS = (
    # folder, limit, usage, and in memory.stat what the system can take back
    ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that loading takes in all processes of the machine, beside what the machine has available.

    `images` are those of all cases, with their masks, once a process, which only loading without workers keeps;
    `queues` are the batches that workers have ready, in shared memory; `workers` is what the workers take besides.
    """

    images: int
    queues: int
    workers: int
    available: int
    shared_available: int
    keeps_images: bool

    @property
    def in_memory(self) -> bool:
        """Whether the images should be kept: they take less than half of what is left beside the rest."""
        return self.keeps_images and 2 * self.images < self.available - self.queues - self.workers

    def line(self) -> str:
        """For a person, such as 'images 1.2 GB in memory, 20.0 GB available'."""
        where = "in memory" if self.in_memory else "read from the store"
        beside = self.queues + self.workers
        loading = f", loading takes {shown_bytes(beside)}" if self.workers else ""
        return f"images {shown_bytes(self.images)} {where}{loading}, {shown_bytes(self.available)} available"

    def check(self) -> None:
        """LoadingError where even the workers and their batches do not fit."""
        needed = self.queues + self.workers
        if needed > self.available:
            raise LoadingError(
                f"loading would take {shown_bytes(needed)} ({shown_bytes(self.queues)} of it batches that wait), but "
                f"{shown_bytes(self.available)} are available: lower the number of workers or the batch size"
            )
        if self.workers and self.queues > self.shared_available:
            raise LoadingError(
                f"the batches that wait would take {shown_bytes(self.queues)} of shared memory, but /dev/shm has "
                f"{shown_bytes(self.shared_available)}: raise it (docker run --shm-size), or lower the number of "
                "workers or the batch size"
            )


def memory_needed(cohort: Cohort, cases: int | Sequence[int] | np.ndarray, lesions: bool = False) -> int:
    """Bytes that images, and their masks if `lesions`, take in memory; a number of cases is that of average ones."""
    return round(_voxels(cohort, cases) * (len(cohort.channels) * cohort.dtype.itemsize + int(lesions)))


def memory_estimate(
    cohort: Cohort,
    cases: Sequence[int] | np.ndarray,
    *,
    batch_size: int,
    workers: int = 0,
    prefetch_factor: int = 2,
    processes: int = 1,
    lesions: bool = False,
    patch: Sequence[int] | None = None,
) -> MemoryEstimate:
    """What `processes` loaders on this machine take, each of them with `workers`, of `cases` or patches of them.

    An item counts as float32 of the largest case, and its mask as bool.
    """
    largest = int(np.prod(patch)) if patch is not None else int(_sizes(cohort, cases).max(initial=0))
    item = largest * (len(cohort.channels) * max(FLOAT_BYTES, cohort.dtype.itemsize) + int(lesions))
    return MemoryEstimate(
        images=processes * memory_needed(cohort, cases, lesions),
        queues=processes * batch_size * item * max(1, workers * prefetch_factor),
        workers=processes * workers * WORKER_BYTES,
        available=available_memory(),
        shared_available=_available_shared(),
        keeps_images=not workers and patch is None,
    )


def available_memory() -> int:
    """Bytes that this process can still have: the machine's, or what its control group (a container, a job) leaves."""
    left = (_left(Path(root), *files) for root, *files in CGROUPS)
    return min([int(psutil.virtual_memory().available), *left])


def shown_bytes(count: int) -> str:
    """In the unit that suits, such as '1.2 GB'."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}" if unit != "B" else f"{count} B"


def _left(root: Path, limit: str, usage: str, reclaimable: str) -> int:
    """The least that a limit leaves, of the group of this process and of those around it."""
    group = root / _own_group(root)
    left = UNLIMITED
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            break
        most = _number(folder / limit)
        if most is not None and most < UNLIMITED:
            left = min(left, most - (_number(folder / usage) or 0) + _statistic(folder / "memory.stat", reclaimable))
    return max(0, left)


def _own_group(root: Path) -> str:
    """The path of this process's control group below `root`; '' where it cannot be told or a container hides it."""
    controller = "memory" if root.name == "memory" else ""
    lines = [line.split(":", 2) for line in _own_group_lines()]
    paths = [path.lstrip("/") for _, controllers, path in lines if controller in controllers.split(",")]
    return paths[0] if paths and (root / paths[0]).is_dir() else ""


def _own_group_lines() -> list[str]:
    try:
        return Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max"
        return None


def _statistic(file: Path, name: str) -> int:
    try:
        found = [line.split()[1] for line in file.read_text().splitlines() if line.split()[0] == name]
    except OSError:
        return 0
    return int(found[0]) if found else 0


def _available_shared() -> int:
    try:
        return shutil.disk_usage("/dev/shm").free
    except OSError:
        return UNLIMITED


def _voxels(cohort: Cohort, cases: int | Sequence[int] | np.ndarray) -> float:
    if isinstance(cases, int):
        if cohort.grid is not None:
            return cases * int(np.prod(cohort.grid))
        return cases * float(_sizes(cohort, np.arange(len(cohort))).mean()) if len(cohort) else 0.0
    return float(_sizes(cohort, cases).sum())


def _sizes(cohort: Cohort, cases: Sequence[int] | np.ndarray) -> np.ndarray:
    """Voxels of each case."""
    shapes = cohort.table[[f"size_{axis}" for axis in cohort.dims]].to_numpy(np.int64)
    return np.asarray(shapes[np.asarray(cases, np.int64)].prod(axis=1))
