# ruff: noqa: E402
"""How fast is radiomics of a cohort, beside the library it calls and beside pyradiomics? In turns; medians.

    python benchmarks/radiomics.py                                a few minutes on two cores
    python benchmarks/radiomics.py --pyradiomics VENV/bin/python  the same with a row for pyradiomics

cohort       lesions a second of the step behind `lesionflow radiomics` on two Dask workers that are up: reading the
             cohort, the features of IBSI, answers kept on disk, the Parquet file
z-rad        the same lesions from memory by z-rad's own pipeline, in as many processes at the same time
pyradiomics  the same lesions from memory by pyradiomics 3, one process, against z-rad's and ours in one process

Every lesion is one ball-like region in a volume of 64³. pyradiomics wants an environment of its own:
`python3.11 -m venv VENV; VENV/bin/pip install 'numpy<2' setuptools wheel versioneer cython`, then
`VENV/bin/pip install --no-build-isolation pyradiomics`.
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
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest import mock

import numpy as np
import psutil
from dask.config import set as dask_settings
from distributed import Client, LocalCluster
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from benchmarks.timing import spread, timed
from models.radiomics import VolumeRadiomicsConfig, features_of_case
from storage import Case, Cohort, Listed, ingest
from storage.geometry import plain
from tasks.clusters import DASK, LOCAL, SETTINGS
from tasks.kept import Kept
from tasks.measuring import Regions
from tasks.radiomics import kept_tables, measure_shards, table_schema, write_features
from tasks.workspace import VARIABLE

SIDE, SPACING, WORKERS = 64, 2.0, 2
CONFIG = VolumeRadiomicsConfig()
PYRADIOMICS = """
import logging, sys, time
import numpy as np, SimpleITK as sitk
from radiomics.featureextractor import RadiomicsFeatureExtractor
logging.getLogger("radiomics").setLevel(logging.CRITICAL)
stored = np.load(sys.argv[1])
extractor = RadiomicsFeatureExtractor(binCount=32)
def images(n):
    for array in (stored["images"][n], stored["masks"][n].astype(np.uint8)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((2.0, 2.0, 2.0))
        yield image
pairs = [tuple(images(n)) for n in range(len(stored["images"]))]
extractor.execute(*pairs[0])
started = time.perf_counter()
for pair in pairs:
    found = extractor.execute(*pair)
print(time.perf_counter() - started, sum(name.startswith("original_") for name in found))
"""
Row = tuple[str, str, str]


def main() -> None:
    options = arguments()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = list(run(Path(folder), options))
    title = f"{options.lesions} lesions in 64³; load {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    table = Table("what", "lesions/s; processor time a lesion", "ratio of speeds; of processor time", title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)
    if options.json:
        options.json.write_text(json.dumps({"title": title, "rows": rows}, indent=1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lesions", type=int, default=384)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--cohort-only", action="store_true", help="leave out what runs in one process")
    parser.add_argument("--pyradiomics", type=Path, help="a Python that can import pyradiomics")
    parser.add_argument("--folder", type=Path, help="where to work; default: the system's temporary folder")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def lesion(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A volume (64, 64, 64) float32 and a ball-like lesion of 1,000 to 10,000 voxels in it."""
    random = np.random.default_rng(number)
    grid = np.stack(np.meshgrid(*[np.arange(SIDE) - SIDE / 2] * 3, indexing="ij"))
    rough = 2 * ndimage.gaussian_filter(random.normal(size=(SIDE,) * 3), 2) / 0.07
    mask = np.sqrt((grid**2).sum(axis=0)) + rough * 0.5 < random.uniform(7, 13)
    labels, _ = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    texture = ndimage.gaussian_filter(random.normal(size=(SIDE,) * 3), 1)
    return (100 + 300 * texture).astype(np.float32), labels == labels[(SIDE // 2,) * 3]


@dataclass(frozen=True)
class Lesions:
    """A source of `count` volumes with a lesion each."""

    count: int
    name: str = "lesions"
    address: str = "benchmark"
    grid: tuple[int, int, int] = (SIDE, SIDE, SIDE)
    dims: tuple[str, str, str] = ("z", "y", "x")
    channels: tuple[str, ...] = ("CT",)
    labels: tuple[str, ...] = ()
    lesions: tuple[str, ...] = ("tumour",)

    @cached_property
    def _listed(self) -> tuple[Listed, ...]:
        return tuple(Listed(f"{n}.nii", f"c{n:04}", f"p{n:04}", {}) for n in range(self.count))

    def listing(self) -> Sequence[Listed]:
        """A key a case."""
        return self._listed

    def sha256(self, key: Listed) -> str:
        """Of its name."""
        return hashlib.sha256(key.file.encode()).hexdigest()

    def read(self, key: Listed) -> Case:
        """Texture and a lesion."""
        image, mask = lesion(int(key.case_id[1:]))
        geometry = plain(image.shape, (SPACING,) * 3)
        named = (key.case_id, key.patient_id, key.file, self.sha256(key))
        return Case(*named, image[None], {}, {"tumour": mask}, geometry)


def run(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of the table, as they are measured."""
    ingest(Lesions(options.lesions), folder / "cohort")
    cases = [lesion(number) for number in range(options.lesions)]
    works: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        stack.enter_context(dask_settings(SETTINGS))
        cluster = stack.enter_context(LocalCluster(n_workers=WORKERS, **LOCAL))
        client = stack.enter_context(Client(cluster))
        pool = stack.enter_context(ProcessPoolExecutor(WORKERS))
        stack.enter_context(mock.patch.dict(os.environ, {DASK: cluster.scheduler_address}))
        client.run(ours_in_memory, *cases[0])
        works["cohort, two workers"] = lambda: timed(lambda: measured_cohort(folder))
        works["z-rad, two processes"] = lambda: timed(lambda: list(pool.map(bare_many, halves(cases))))
        busy: dict[str, list[float]] = {}
        if not options.cohort_only:
            works |= alone(folder, cases, options.pyradiomics)
        measured_cohort(folder)
        list(pool.map(bare_many, [cases[:1]] * WORKERS))
        seconds: dict[str, list[float]] = {}
        for _ in range(options.turns):
            for what, work in works.items():
                before = processor_seconds()
                seconds.setdefault(what, []).append(work())
                busy.setdefault(what, []).append(processor_seconds() - before)
    yield from compared(seconds, busy, options.lesions)


def alone(
    folder: Path, cases: list[tuple[np.ndarray, np.ndarray]], pyradiomics: Path | None
) -> dict[str, Callable[[], float]]:
    """What runs in one process, from memory."""
    works: dict[str, Callable[[], float]] = {
        "ours from memory, one process": lambda: timed(lambda: [ours_in_memory(*case) for case in cases]),
        "z-rad, one process": lambda: timed(lambda: [bare(*case) for case in cases]),
    }
    if pyradiomics:
        stored = folder / "lesions.npz"
        np.savez(stored, images=[image for image, _ in cases], masks=[mask for _, mask in cases])
        works["pyradiomics, one process"] = lambda: by_pyradiomics(pyradiomics, stored)
    return works


def processor_seconds() -> float:
    """What this process and those below it have used: a busy machine makes a second longer, and this hardly."""
    me = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in [me, *me.children(recursive=True)])


def compared(seconds: dict[str, list[float]], busy: dict[str, list[float]], lesions: int) -> Iterator[Row]:
    """Speeds and processor time, each against what it is to be compared with in the same turn."""
    against = {
        "cohort, two workers": "z-rad, two processes",
        "ours from memory, one process": "z-rad, one process",
        "pyradiomics, one process": "ours from memory, one process",
    }
    for what, taken in seconds.items():
        shown, ratio = spread([lesions / one for one in taken], 2), ""
        # pyradiomics runs in a process that is gone when it is done, with all it has used
        used = "" if "pyradiomics" in what else f"; {spread([1e3 * one / lesions for one in busy[what]], 0)} ms"
        if base := against.get(what):
            ratio = f"{spread(quotients(seconds[base], taken), 2)} of {base}"
            ratio += f"; {spread(quotients(busy[base], busy[what]), 2)}" if used else ""
        yield (what, shown + used, ratio)


def quotients(numbers: list[float], by: list[float]) -> list[float]:
    """Turn by turn."""
    return [a / b for a, b in zip(numbers, by, strict=True)]


def measured_cohort(folder: Path) -> None:
    """The step behind `lesionflow radiomics` from the cohort to the file, nothing kept from before."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        cohort = Cohort.open(folder / "cohort")
        regions, keep = Regions(str(folder / "cohort"), cohort.snapshot, None, None), Kept(Path(place) / "kept")
        done, failed = measure_shards(regions, cohort, list(range(len(cohort))), CONFIG, WORKERS, keep)
        schema = table_schema(cohort.labels, regions, CONFIG)
        write_features(Path(place) / "features.parquet", kept_tables(keep, done, schema), schema)
    if failed:
        raise SystemExit(f"radiomics failed: {failed[0]['reason']}")


def ours_in_memory(image: np.ndarray, mask: np.ndarray) -> list[dict[str, Any]]:
    """Rows of one case."""
    return features_of_case(image[None], {"tumour": mask}, (SPACING,) * 3, CONFIG)


def bare(image: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """All that z-rad computes for one lesion, by its own steps."""
    from zrad.image import Image
    from zrad.preprocessing import (
        IntensityMaskBuilder,
        IVHIntensityDiscretizer,
        RoiCropper,
        RoiData,
        TextureDiscretizer,
    )
    from zrad.radiomics import Radiomics

    place: dict[str, Any] = {"origin": (0.0,) * 3, "spacing": np.array((SPACING,) * 3), "direction": np.eye(3).ravel()}
    place["shape"] = image.shape[::-1]
    roi = RoiData(Image(image.astype(np.float64), **place), morphological_mask=Image(mask.astype(np.int8), **place))
    prepared = TextureDiscretizer(number_of_bins=CONFIG.bin_count).apply(IntensityMaskBuilder().apply(roi))
    prepared = RoiCropper(4).apply(IVHIntensityDiscretizer("direct").apply(prepared))
    return dict(Radiomics("3D", "MERG").extract_features(prepared, families="all"))


def bare_many(cases: list[tuple[np.ndarray, np.ndarray]]) -> int:
    """Several lesions in one process."""
    return sum(len(bare(*case)) for case in cases)


def halves(cases: list[Any]) -> list[list[Any]]:
    """Every other lesion, so that both processes have as much to do."""
    return [cases[start::WORKERS] for start in range(WORKERS)]


def by_pyradiomics(python: Path, stored: Path) -> float:
    """Seconds of pyradiomics for all lesions, without its start."""
    done = subprocess.run([python, "-c", PYRADIOMICS, stored], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-2])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as workspace, mock.patch.dict(os.environ, {VARIABLE: workspace}):
        main()
