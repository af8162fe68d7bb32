"""What does a cohort cost, beside plain files? All in one run, in turns; medians.

    python benchmarks/storage.py                       512 photographs of 512 pixels: some minutes on two cores
    python benchmarks/storage.py --growth 1000,10000,100000

ingestion   MB/s of pixels ÷ (the same decoding + numpy.save on the same cores), for PNG files of the grid's own size
            and for JPEG photographs of 12 megapixels; two Dask workers ÷ one, on a cluster that is up
epoch       images/s in random order ÷ numpy.memmap of the same array ÷ a folder of PNG read by MONAI's Dataset
memory      the highest resident size of a process that ingests, and of one that reads an epoch
disk        bytes of the cohort ÷ bytes of the PNG folder
growth      seconds a case of ingestion, and of reading at random, in cohorts of small cases of several sizes
"""

import sys
from pathlib import Path

# run as a script this file would itself be the package `storage`
sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != Path(__file__).parent]

import argparse
import hashlib
import json
import logging
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest import mock

import cv2
import dask
import numpy as np
from distributed import LocalCluster
from PIL import Image
from rich.console import Console
from rich.table import Table

from storage import Case, Cohort, Listed, ingest, open_source
from storage.geometry import plain
from storage.ingestion import begin
from storage.sources.photographs.field_of_view import Box
from storage.sources.photographs.file import decode_photograph, in_channels
from storage.sources.photographs.regridding import regrid_image
from tasks.clusters import DASK, SETTINGS
from tasks.ingestion import ingest_on_cluster

ROOT = Path(__file__).parents[1]
CORES = os.cpu_count() or 1
SMALL = 64  # pixels of a side of the small cases
SAMPLE = 2000  # random reads that a growth figure rests on
Row = tuple[str, str, str]


def main() -> None:
    options = arguments()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = list(run(Path(folder), options))
    table = Table(
        "what", "measured", "ratio", title=f"{options.images} photographs of {options.size} pixels, {CORES} cores"
    )
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)
    if options.json:
        options.json.write_text(
            json.dumps([dict(zip(("what", "measured", "ratio"), row, strict=True)) for row in rows])
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument(
        "--growth", default="1000,10000,100000", help="sizes of the cohorts of small cases; '' for none"
    )
    parser.add_argument("--folder", type=Path, help="where to work; default: the system's temporary folder")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def run(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of the table, as they are measured."""
    photographs, large = folder / "png", folder / "jpeg"
    write_photographs(photographs, options.images, (options.size, options.size), ".png")
    write_photographs(large, options.images // 4, (2848, 4288), ".jpg")
    yield from ingestion("PNG", photographs, folder, options)
    yield from ingestion("JPEG", large, folder / "of-jpeg", options)
    yield from workers(photographs, folder, options)
    yield from epochs(photographs, folder, options)
    yield from memory(photographs, folder, options)
    if options.growth:
        yield from growth(folder, [int(size) for size in options.growth.split(",")])


def write_photographs(folder: Path, count: int, shape: tuple[int, int], suffix: str) -> None:
    """Files that compress about as photographs do: smooth shapes, texture, and sensor noise."""
    folder.mkdir()

    def write(number: int) -> None:
        draw = np.random.default_rng(number)
        image = np.zeros((*shape, 3), np.float32)
        for scale, strength in ((4, 60), (32, 30), (128, 10)):
            coarse = draw.normal(128 / 3, strength, (scale, scale, 3)).astype(np.float32)
            image += cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
        image += draw.normal(0, 1.5, image.shape)
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{number:06d}{suffix}", quality=92)

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(write, range(count)))


def ingestion(kind: str, photographs: Path, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Ingestion ÷ its floor."""
    folder.mkdir(exist_ok=True)
    count = len(list(photographs.iterdir()))
    megabytes = count * options.size**2 * 3 / 1e6

    def works(turn: int) -> dict[str, Callable[[], object]]:
        return {
            "floor": lambda: decode_and_save(photographs, folder / f"floor{turn}", options.size),
            "ingest": lambda: ingest(source_of(photographs, options.size), folder / f"cohort{turn}"),
        }

    seconds = in_turns(works, options.turns, lambda turn: [folder / f"floor{turn}"])
    rate, floor = (megabytes / statistics.median(seconds[what]) for what in ("ingest", "floor"))
    measured = f"{rate:.0f} MB/s, floor {floor:.0f}"
    yield (f"ingestion of {count} {kind} ÷ decoding + numpy.save", measured, ratio(seconds, "floor", "ingest"))


def workers(photographs: Path, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Two worker processes ÷ one, each with one thread."""
    seconds: dict[str, list[float]] = {"one": [], "two": []}
    for turn in range(options.turns):
        for what, count in (("one", 1), ("two", 2)):
            seconds[what].append(seconds_on_cluster(photographs, folder / f"{what}{turn}", options.size, count))
    one, two = (1e3 * statistics.median(seconds[what]) for what in ("one", "two"))
    yield ("two workers ÷ one (Dask, PNG)", f"{one:.0f}, {two:.0f} ms a shard of 16", ratio(seconds, "one", "two"))


def source_of(photographs: Path, size: int) -> Any:
    """The folder, not cut to a field of view."""
    return open_source(str(photographs), source="photographs", size=size, crop=False)


def decode_and_save(photographs: Path, out: Path, size: int) -> None:
    """What ingestion cannot do without: it hashes nothing and checks nothing."""
    out.mkdir()

    def one(file: Path) -> None:
        pixels, _, _ = decode_photograph(file.read_bytes(), 2 * size)
        grid = regrid_image(in_channels(pixels, "rgb"), Box(0, 0, *pixels.shape[:2]), size)
        np.save(out / f"{file.stem}.npy", np.ascontiguousarray(grid.transpose(2, 0, 1)))

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(one, sorted(photographs.iterdir())))


def seconds_on_cluster(photographs: Path, cohort: Path, size: int, count: int) -> float:
    """Of the shards alone, once every worker has read and recorded one: neither the start nor the imports."""
    settings = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.ERROR}
    intake = begin(source_of(photographs, size), cohort, batch=16)
    moments = []
    with (
        dask.config.set(SETTINGS),
        LocalCluster(n_workers=count, **settings) as cluster,
        mock.patch.dict(os.environ, {DASK: cluster.scheduler_address}),
    ):
        ingest_on_cluster(intake, count, lambda done, note: moments.append(time.monotonic()))
    shutil.rmtree(cohort)
    return (moments[-1] - moments[2 * count - 1]) / (len(moments) - 2 * count)


def epochs(photographs: Path, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """A random order of all images, from the cohort, from a memory-mapped array, from PNG files."""
    from monai.data import Dataset
    from monai.transforms import LoadImage

    from storage.loading import CohortImages

    cohort = Cohort.open(folder / "cohort0")
    mapped = np.lib.format.open_memmap(
        folder / "images.npy", "w+", np.uint8, (options.images, 3, options.size, options.size)
    )
    for case in range(options.images):
        mapped[case] = cohort.image(case)
    order = np.random.default_rng(0).permutation(options.images)
    files = [str(file) for file in sorted(photographs.iterdir())]
    from_png = Dataset(files, LoadImage(image_only=True, reader="PILReader"))
    stored = CohortImages(cohort.path, cohort.snapshot, range(options.images), None, in_memory=False)
    kept = CohortImages(cohort.path, cohort.snapshot, range(options.images), None, in_memory=True)
    kept[0]

    def works(turn: int) -> dict[str, Callable[[], object]]:
        return {
            "store": lambda: [stored[place]["image"].sum() for place in order],
            "memory": lambda: [kept[place]["image"].sum() for place in order],
            "memmap": lambda: [mapped[place].sum() for place in order],
            "png": lambda: [from_png[place].sum() for place in order[:128]],
        }

    seconds = in_turns(works, options.turns, lambda turn: [])
    seconds["png"] = [taken * len(order) / len(order[:128]) for taken in seconds["png"]]
    for what, title in (("store", "epoch from the store"), ("memory", "epoch from memory (read once before)")):
        rate = options.images / statistics.median(seconds[what])
        against = f"{ratio(seconds, 'memmap', what)} of memmap; {ratio(seconds, 'png', what)} of PNG by MONAI"
        yield (f"{title}, random order", f"{rate:.0f} images/s", against)
    png_bytes, cohort_bytes = size_of(photographs), size_of(folder / "cohort0")
    yield (
        "size on disk",
        f"{cohort_bytes / 1e6:.0f} MB, PNG {png_bytes / 1e6:.0f} MB",
        f"{cohort_bytes / png_bytes:.2f}",
    )


def memory(photographs: Path, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """The highest resident size, each in a process of its own, beside one that only imports."""
    pixels = options.images * options.size**2 * 3
    imports = "import sys; from storage import Cohort, ingest, open_source; import numpy"
    read = f"c = Cohort.open({str(folder / 'cohort0')!r}); print(sum(int(c.image(i)[0, 0, 0]) for i in range(len(c))))"
    take = (
        f"ingest(open_source({str(photographs)!r}, source='photographs', size={options.size}, crop=False), "
        f"{str(folder / 'again')!r})"
    )
    base = peak(imports)
    for what, code in (("ingestion", take), ("an epoch from the store", read)):
        above = peak(f"{imports}; {code}") - base
        yield (
            f"peak memory of {what}",
            f"{above / 1e6:.0f} MB above the imports' {base / 1e6:.0f}",
            f"{above / pixels:.2f} of all pixels",
        )


def peak(code: str) -> int:
    """Bytes of the highest resident size of a process that runs `code`."""
    tail = "; print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    done = subprocess.run([sys.executable, "-c", code + tail], check=True, capture_output=True, text=True, cwd=ROOT)
    return int(done.stdout.split()[-1]) * 1024


@dataclass(frozen=True)
class SmallCases:
    """A source of `count` noise pictures that cost nothing to make: what is left is the store's own work."""

    count: int
    name: str = "small"
    address: str = "benchmark"
    grid: tuple[int, int] = (SMALL, SMALL)
    dims: tuple[str, str] = ("y", "x")
    channels: tuple[str, ...] = ("grey",)
    labels: tuple[str, ...] = ("grade",)
    lesions: tuple[str, ...] = ("spot",)

    @cached_property
    def _listed(self) -> tuple[Listed, ...]:
        return tuple(
            Listed(f"{number}.png", f"c{number}", f"p{number // 2}", {"grade": number % 5})
            for number in range(self.count)
        )

    def listing(self) -> Sequence[Listed]:
        """A key a case."""
        return self._listed

    def sha256(self, key: Listed) -> str:
        """Of its name."""
        return hashlib.sha256(key.file.encode()).hexdigest()

    def read(self, key: Listed) -> Case:
        """Noise."""
        image = np.random.default_rng(int(key.case_id[1:])).integers(0, 256, (1, SMALL, SMALL), np.uint8)
        masks = {"spot": image[0] > 250}
        geometry = plain((SMALL, SMALL), (1.0, 1.0))
        return Case(key.case_id, key.patient_id, key.file, self.sha256(key), image, dict(key.labels), masks, geometry)


def growth(folder: Path, sizes: Sequence[int]) -> Iterator[Row]:
    """Microseconds a case in cohorts of several sizes."""
    costs: dict[str, list[float]] = {}
    for size in sizes:
        path = folder / f"growth{size}"
        seconds = {"ingest": timed(lambda path=path, size=size: ingest(SmallCases(size), path)) / size}
        seconds["open and read the table"] = timed(lambda path=path: Cohort.open(path).table) / size
        cohort = Cohort.open(path)
        order = np.random.default_rng(0).integers(0, size, SAMPLE)
        seconds["read an image at random"] = (
            timed(lambda cohort=cohort, order=order: [cohort.image(i) for i in order]) / SAMPLE
        )
        seconds["ingest again, nothing new"] = timed(lambda path=path, size=size: ingest(SmallCases(size), path)) / size
        for what, taken in seconds.items():
            costs.setdefault(what, []).append(taken * 1e6)
        shutil.rmtree(path)
    for what, taken in costs.items():
        shown = ", ".join(f"{cost:.0f}" for cost in taken)
        spread = ", ".join(f"{cost / taken[0]:.2f}" for cost in taken)
        yield (f"{what}: {', '.join(map(str, sizes))} cases", f"{shown} µs a case", spread)


def in_turns(
    works: Callable[[int], dict[str, Callable[[], object]]], turns: int, litter: Callable[[int], list[Path]]
) -> dict[str, list[float]]:
    """Seconds of each work, a turn after the other; what a turn wrote and nobody needs is removed."""
    seconds: dict[str, list[float]] = {}
    for turn in range(turns):
        for what, work in works(turn).items():
            seconds.setdefault(what, []).append(timed(work))
        for path in litter(turn):
            shutil.rmtree(path, ignore_errors=True)
    return seconds


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    os.sync()
    started = time.monotonic()
    work()
    return time.monotonic() - started


def ratio(seconds: dict[str, list[float]], dividend: str, divisor: str) -> str:
    """Median and range of a turn's ratio."""
    each = sorted(one / other for one, other in zip(seconds[dividend], seconds[divisor], strict=True))
    return f"{statistics.median(each):.2f} ({each[0]:.2f} … {each[-1]:.2f})"


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
