# ruff: noqa: E402
"""What do many shards cost beside their work? All in one run, in turns; medians.

    python benchmarks/orchestration.py             100,000 simulated cases: about half an hour on two cores
    python benchmarks/orchestration.py --quick     10,000: some minutes

driver      shards of a function that hands back a small row a case and does nothing else: by `tasks.shards` in this
            process and on two workers, with and without kept answers, ÷ a bare loop ÷ Dask's bare `client.map`
memory      the highest resident size of the client with 10,000 and with 100,000 cases
bookkeeping what localisation and radiomics do beside their work, in a cohort of 16 × 16 pixels a case
"""

import sys
from pathlib import Path

# run as a script this folder's `storage.py` would be the package `storage`
sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).parent]
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from dask.config import set as dask_settings
from distributed import Client, LocalCluster
from rich.console import Console
from rich.table import Table

from benchmarks.timing import spread, timed
from storage import Case, Cohort, Listed, ingest
from storage.geometry import plain
from tasks.clusters import DASK, LOCAL, SETTINGS
from tasks.kept import Kept
from tasks.shards import shard_outcomes, shards
from tasks.workspace import VARIABLE

ROOT = Path(__file__).parents[1]
SHARD, WORKERS, SIDE = 64, 2, 16
Row = tuple[str, str, str]


def main() -> None:
    options = arguments()
    cases = options.cases or (10_000 if options.quick else 100_000)
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = list(run(Path(folder), cases, options.turns))
    title = f"{cases:,} cases in shards of {SHARD}; load {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    table = Table("what", "measured", "ratio", title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)
    if options.json:
        options.json.write_text(json.dumps({"title": title, "rows": rows}, indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, help="default: 100,000, with --quick 10,000")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, help="where to work; default: the system's temporary folder")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run(folder: Path, cases: int, turns: int) -> Iterator[Row]:
    """The rows of the table, as they are measured."""
    yield from driver(folder, cases, turns)
    yield from memory(folder, cases)
    yield from bookkeeping(folder, cases)


def small_rows(part: Sequence[int]) -> list[tuple[int, float]]:
    """A row a case, and no work."""
    return [(case, case / 2) for case in part]


def driver(folder: Path, cases: int, turns: int) -> Iterator[Row]:
    """Milliseconds a shard of each way to do all of them; the cluster is up and has done some before."""
    parts = list(shards(range(cases), SHARD))
    seconds: dict[str, list[float]] = {}
    with ExitStack() as stack:
        stack.enter_context(dask_settings(SETTINGS))
        cluster = stack.enter_context(LocalCluster(n_workers=WORKERS, **LOCAL))
        client = stack.enter_context(Client(cluster))
        client.gather(client.map(small_rows, parts[:100], pure=False))
        for turn in range(turns):
            for what, work in works(parts, cluster, client, folder / f"kept{turn}").items():
                seconds.setdefault(what, []).append(timed(work))
            shutil.rmtree(folder / f"kept{turn}")
    for what, taken in seconds.items():
        each = [1e3 * one / len(parts) for one in taken]
        shown = f"{spread(each, 3)} ms a shard, {statistics.median(each) / SHARD:.4f} ms a case"
        against = "Dask's map" if "workers" in what else "a bare loop"
        base = seconds["Dask's map, two workers" if "workers" in what else "a bare loop"]
        yield (what, shown, f"{spread([a / b for a, b in zip(taken, base, strict=True)], 2)} of {against}")


def works(parts: list[list[int]], cluster: Any, client: Client, folder: Path) -> dict[str, Callable[[], object]]:
    """Each way to do all shards."""

    def here(keep: Kept | None = None) -> None:
        for outcome in shard_outcomes(small_rows, parts, workers=1, keep=keep):
            assert outcome.error is None

    def on_workers(keep: Kept | None = None) -> None:
        with mock.patch.dict(os.environ, {DASK: cluster.scheduler_address}):
            for outcome in shard_outcomes(small_rows, parts, keep=keep):
                assert outcome.error is None

    def bare() -> None:
        for part in parts:
            small_rows(part)

    def mapped() -> None:
        client.gather(client.map(small_rows, parts, pure=False))

    return {
        "a bare loop": bare,
        "the driver in this process": here,
        "the same, answers kept": partial(here, Kept(folder / "here")),
        "the same again, all answers there": partial(here, Kept(folder / "here")),
        "Dask's map, two workers": mapped,
        "the driver, two workers": on_workers,
        "the driver, two workers, answers kept": partial(on_workers, Kept(folder / "workers")),
    }


CLIENT = """
import sys
from pathlib import Path
from tasks.kept import Kept
from tasks.shards import shard_outcomes, shards

def small_rows(part):
    return [(case, case / 2) for case in part]

if __name__ == "__main__":
    parts = list(shards(range(int(sys.argv[1])), int(sys.argv[2])))
    for outcome in shard_outcomes(small_rows, parts, workers=2, keep=Kept(Path(sys.argv[3]))):
        pass
    print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


def memory(folder: Path, cases: int) -> Iterator[Row]:
    """The client's highest resident size, with a tenth of the cases and with all; its scheduler is in it."""
    sizes = [peak(folder, count) for count in (cases // 10, cases)]
    shown = " and ".join(f"{size / 1e6:.0f} MB" for size in sizes)
    yield (f"memory of the client, {cases // 10:,} and {cases:,} cases", shown, f"{sizes[1] / sizes[0]:.2f}")


def peak(folder: Path, cases: int) -> int:
    """Bytes of the highest resident size of a process that hands out shards of `cases`."""
    client = folder / "client.py"
    client.write_text(CLIENT)
    command = [sys.executable, str(client), str(cases), str(SHARD), str(folder / f"kept-{cases}")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
    return int(done.stdout.split()[-1]) * 1024


@dataclass(frozen=True)
class TinyCases:
    """A source of `count` noise pictures that cost nothing to make."""

    count: int
    name: str = "tiny"
    address: str = "benchmark"
    grid: tuple[int, int] = (SIDE, SIDE)
    dims: tuple[str, str] = ("y", "x")
    channels: tuple[str, ...] = ("grey",)
    labels: tuple[str, ...] = ("grade",)
    lesions: tuple[str, ...] = ("spot",)

    @cached_property
    def _listed(self) -> tuple[Listed, ...]:
        return tuple(Listed(f"{n}.png", f"c{n}", f"p{n // 2}", {"grade": n % 5}) for n in range(self.count))

    def listing(self) -> Sequence[Listed]:
        """A key a case."""
        return self._listed

    def sha256(self, key: Listed) -> str:
        """Of its name."""
        return hashlib.sha256(key.file.encode()).hexdigest()

    def read(self, key: Listed) -> Case:
        """Noise."""
        image = np.random.default_rng(int(key.case_id[1:])).integers(0, 256, (1, SIDE, SIDE), np.uint8)
        geometry, masks = plain((SIDE, SIDE), (1.0, 1.0)), {"spot": image[0] > 250}
        return Case(key.case_id, key.patient_id, key.file, self.sha256(key), image, dict(key.labels), masks, geometry)


def bookkeeping(folder: Path, cases: int) -> Iterator[Row]:
    """Milliseconds a case of all that is done once a run, and of the first and the last shards' writes."""
    from tasks.localization import prepare
    from tasks.maps import maps_digest, selected_cases

    path = folder / "cohort"
    yield ("making the cohort", f"{1e3 * timed(lambda: ingest(TinyCases(cases), path)) / cases:.3f} ms a case", "")
    writes = timed_writes(path, cases)
    tenth = max(1, len(writes) // 10)
    first, last = (statistics.median(part) for part in (writes[:tenth], writes[-tenth:]))
    shown = f"{1e3 * first:.0f} ms a shard at first, {1e3 * last:.0f} at last, {last * 1e3 / SHARD:.2f} ms a case"
    yield (f"writing maps, {SHARD} a transaction", shown, f"{last / first:.2f} of the first")
    steps: dict[str, Callable[[], object]] = {
        "opening, reading the table": lambda: Cohort.open(path).table,
        "choosing cases": lambda: selected_cases(Cohort.open(path), ["train", "validation", "test"]),
        "content digest": lambda: Cohort.open(path).content_digest(),
        "what is left to localise": lambda: prepare(Cohort.open(path), ["toy/1/S"], {"made": "by"}, list(range(cases))),
        "digest of the maps": lambda: maps_digest(Cohort.open(path), ["toy/1/S"]),
    }
    for what, step in steps.items():
        taken = [timed(step) for _ in range(3)]
        yield (what, f"{spread([1e3 * one / cases for one in taken], 4)} ms a case", "")


def timed_writes(path: Path, cases: int) -> list[float]:
    """Seconds of each transaction of a shard's maps, as localisation writes them."""
    cohort = Cohort.open(path, Cohort.open(path).snapshot)
    saliency = np.random.default_rng(0).random((SHARD, SIDE, SIDE), np.float32)
    seconds = []
    for part in shards(range(cases), SHARD):
        table = pd.DataFrame({"score": np.zeros(len(part)), "stop_reason": ["score"] * len(part)})
        started = time.monotonic()
        cohort.write_maps("toy/1/S", part, saliency[: len(part)], table, attrs={"made": "by"})
        seconds.append(time.monotonic() - started)
    return seconds


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as workspace, mock.patch.dict(os.environ, {VARIABLE: workspace}):
        main()
