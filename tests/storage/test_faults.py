"""Full disks, cut-off files, several writers, killed processes: nothing is lost, nothing is there twice or in part."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from storage import Cohort, CohortError, ingest, open_source
from storage.check import check, repair
from tests.damage import files_in, flip

ROOT = Path(__file__).parents[2]
WORK = """
import sys
import numpy as np, pandas as pd
from storage import Cohort, ingest, open_source
from storage.check import repair
what, folder, cohort = sys.argv[1:]

def opened(origin):
    address = origin["address"]
    kind = "nifti" if "volumes" in address else "photographs"
    return open_source(address, kind, **({"size": 16, "crop": False} if kind == "photographs" else {}))

source = opened({"address": folder})
print("ready", flush=True)
if what == "ingest":
    ingest(source, cohort, batch=2, origin={"address": folder, "options": {}})
if what == "maps":
    there = Cohort.open(cohort)
    for first in range(0, len(there) - 1, 2):
        cases = [first, first + 1]
        maps = [np.full(there.shape(case), case + 0.5, np.float32) for case in cases]
        there.write_maps("m", cases, maps if there.grid is None else np.stack(maps), pd.DataFrame({"case_too": cases}))
if what == "repair":
    repair(cohort, opened)
"""
ON_CLUSTER = """
import sys
from storage import open_source
from storage.ingestion import begin
from tasks.ingestion import ingest_on_cluster

if __name__ == "__main__":
    folder, cohort = sys.argv[1:]
    intake = begin(open_source(folder, "photographs", size=16, crop=False), cohort, batch=2)
    report = ingest_on_cluster(intake, 2, lambda count, text: print(count, flush=True))
    print("done", report.added + report.known, flush=True)
"""


def write_photographs(folder: Path, numbers: range, side: int = 16) -> Path:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"s{number:04d}.png")
    return folder


def write_volumes(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        noise = np.random.default_rng(number).integers(-999, 999, (6, 7, 5 + number % 4)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(noise, np.diag([-1.0, -1, 1, 1])), folder / f"v{number:03d}.nii")
    return folder


def volume_of(file: Path) -> np.ndarray:
    return np.asarray(nibabel.load(file).dataobj).transpose(2, 1, 0)[None]


def picture_of(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


def work(what: str, folder: Path, cohort: Path) -> subprocess.Popen:
    """A process that begins to work on a cohort."""
    command = [sys.executable, "-c", WORK, what, str(folder), str(cohort)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def assert_whole(place: Path, *folders: Path, read: Callable[[Path], np.ndarray] = picture_of) -> int:
    """Each case once and as its file says, each map as it was written; how many cases there are."""
    if not Cohort.exists(place):
        return 0
    cohort = Cohort.open(place)
    for column in ("sha256", "case_id", "file"):
        assert cohort.table[column].is_unique
    for row, name in enumerate(cohort.table["file"]):
        file = next(folder / name for folder in folders if (folder / name).exists())
        assert np.array_equal(cohort.image(row), read(file))
    for name in cohort.map_names():
        maps = cohort.maps(name)
        assert sorted(set(maps.indices)) == sorted(maps.indices) == maps.table["case_too"].sort_values().tolist()
        assert all((maps.saliency(case) == case + 0.5).all() for case in maps.indices)
    return len(cohort)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 6 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_stops_an_ingestion_and_with_room_the_same_command_completes_it(small_disk, tmp_path):
    folder, place = write_photographs(tmp_path / "photographs", range(200), side=128), small_disk / "cohort"
    source = open_source(str(folder), "photographs", size=128, crop=False)
    with pytest.raises(CohortError, match="cannot be written") as caught:
        ingest(source, place, batch=16)
    assert "\n" not in str(caught.value)
    count = assert_whole(place, folder)
    assert (0 < count < 200, count % 16) == (True, 0)
    with pytest.raises(CohortError, match="cannot be written"):
        ingest(source, place, batch=16)
    assert assert_whole(place, folder) == count
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert ingest(source, place, batch=16).added == 200 - count
    assert assert_whole(place, folder) == 200
    before = sum(file.stat().st_size for file in files_in(place, "chunks"))
    report = repair(str(place), lambda origin: source)
    after = sum(file.stat().st_size for file in files_in(place, "chunks"))
    assert (report.damaged, report.lost, report.freed_bytes >= before - after > 0) == ([], [], True)
    assert assert_whole(place, folder) == 200


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_a_photograph_that_is_cut_off_is_set_aside_until_it_is_whole(tmp_path, suffix):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"p{number}.{suffix}", quality=90)
    file, size = folder / f"p1.{suffix}", 16
    whole = file.read_bytes()
    for length in sorted({0, 8, 33, len(whole) // 2, len(whole) - 20}):
        file.write_bytes(whole[:length])
        report = ingest(open_source(str(folder), "photographs", size=size, crop=False), tmp_path / "cohort")
        cohort = Cohort.open(tmp_path / "cohort")
        assert [one.file for one in report.quarantined] == cohort.quarantine["file"].tolist() == [file.name]
        assert cohort.table["case_id"].tolist() == ["p0", "p2"]
    file.write_bytes(whole)
    assert ingest(open_source(str(folder), "photographs", size=size, crop=False), tmp_path / "cohort").added == 1
    cohort = Cohort.open(tmp_path / "cohort")
    assert (cohort.table["case_id"].tolist(), len(cohort.quarantine)) == (["p0", "p2", "p1"], 0)
    assert assert_whole(tmp_path / "cohort", folder) == 3


def test_two_ingestions_of_overlapping_folders_and_one_of_maps_lose_nothing(tmp_path):
    place = tmp_path / "cohort"
    first = write_photographs(tmp_path / "first", range(24))
    second = write_photographs(tmp_path / "second", range(12, 36))
    begun = write_photographs(tmp_path / "begun", range(0, 8))
    ingest(open_source(str(begun), "photographs", size=16, crop=False), place)
    processes = [work("ingest", first, place), work("ingest", second, place), work("maps", begun, place)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert assert_whole(place, first, second) == 36
    assert sorted(Cohort.open(place).maps("m").indices)[:8] == list(range(8))
    assert check(str(place)).damaged == []
    assert Cohort.open(place).quarantine.empty


def kill_at_random(process: subprocess.Popen, delays: random.Random, longest: float) -> bool:
    """Kill a process, sooner more often than later; whether it was still at work."""
    time.sleep(delays.choice((delays.uniform(0, 0.15), delays.uniform(0, longest))))
    process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["photographs", "volumes"])
@pytest.mark.parametrize("what", ["ingest", "maps", "repair"])
def test_killed_at_any_moment_leaves_whole_cases_and_the_same_command_completes_it(tmp_path, kind, what):
    """6 × 34 kills."""
    folder = tmp_path / kind
    folder = write_volumes(folder, 24) if kind == "volumes" else write_photographs(folder, range(40))
    read, count = (volume_of, 24) if kind == "volumes" else (picture_of, 40)
    place, delays, kills, seen = tmp_path / "cohort", random.Random(f"{kind} {what}"), 0, set()
    while kills < 34:
        if what != "ingest" and not place.exists():
            work("ingest", folder, place).wait()
            work("maps", folder, place).wait()
        if what == "repair":
            flip(delays.choice([file for file in files_in(place, "chunks", "manifests") if file.stat().st_size]))
        kills += kill_at_random(work(what, folder, place), delays, longest=0.6)
        if what == "repair":
            assert work("repair", folder, place).wait() == 0
            work("ingest", folder, place).wait()  # a damaged table was set back
        seen.add(assert_whole(place, folder, read=read))
        if what == "ingest" and max(seen) == count:
            shutil.rmtree(place)
            seen = {0}
    for last in ("ingest", "maps", "repair"):
        assert work(last, folder, place).wait() == 0
    assert assert_whole(place, folder, read=read) == count
    assert sorted(Cohort.open(place).maps("m").indices) == list(range(count))
    assert check(str(place)).damaged == []


def processes_with(text: str) -> list[int]:
    """The processes whose environment holds `text`."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                environment = (process / "environ").read_bytes()
                alive = b"\nState:\tZ" not in (process / "status").read_bytes()
            except OSError:
                continue
            found += [int(process.name)] if alive and text.encode() in environment else []
    return found


def on_cluster(script: Path, folder: Path, place: Path) -> subprocess.Popen:
    """An ingestion in two processes of Dask, at the moment at which its first shard is written."""
    script.write_text(ON_CLUSTER)
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), str(place)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MARK": f"mark={script}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    process.stdout.readline()
    return process


def workers_of(script: Path, parent: int) -> list[int]:
    """The processes in which Dask reads."""
    started = [pid for pid in processes_with(f"mark={script}") if pid != parent]
    return [pid for pid in started if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
def test_an_ingestion_outlives_the_death_of_a_worker(tmp_path):
    folder, place = write_photographs(tmp_path / "photographs", range(160)), tmp_path / "cohort"
    process = on_cluster(tmp_path / "ingest.py", folder, place)
    os.kill(workers_of(tmp_path / "ingest.py", process.pid)[0], signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert (process.returncode, said.splitlines()[-1]) == (0, "done 160")
    assert assert_whole(place, folder) == 160


@pytest.mark.slow
def test_the_death_of_an_ingestion_leaves_no_worker_behind_and_the_same_command_completes_it(tmp_path):
    folder, place = write_photographs(tmp_path / "photographs", range(160)), tmp_path / "cohort"
    process = on_cluster(tmp_path / "ingest.py", folder, place)
    assert len(workers_of(tmp_path / "ingest.py", process.pid)) >= 2
    process.kill()
    process.wait()
    assert assert_whole(place, folder) < 160
    deadline = time.monotonic() + 15
    while (left := processes_with(f"mark={tmp_path / 'ingest.py'}")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
    source = open_source(str(folder), "photographs", size=16, crop=False)
    report = ingest(source, place, batch=2)
    assert (report.added + report.known, assert_whole(place, folder)) == (160, 160)
