import contextlib
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage import Cohort, CohortError, engine

ROOT = Path(__file__).parents[2]
INGEST = """
import sys
from storage import ingest, open_source
folder, cohort = sys.argv[1:]
source = open_source(folder, size=16, crop=False)
print("ready", flush=True)
ingest(source, cohort, batch=2)
"""


def write_photographs(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir()
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"s{seed}-{number:03d}.png")
    return folder


def start_ingestion(folder: Path, cohort: Path) -> subprocess.Popen:
    """An ingestion in a process of its own, at the moment at which it begins to read."""
    command = [sys.executable, "-c", INGEST, str(folder), str(cohort)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def assert_whole_cases_only(path: Path, *folders: Path) -> int:
    """Every image of the cohort equals its file's; returns how many there are."""
    if not Cohort.exists(path):
        return 0
    cohort = Cohort.open(path)
    assert cohort.table["sha256"].is_unique
    for row in cohort.table.itertuples():
        file = next(folder / row.file for folder in folders if (folder / row.file).exists())
        assert np.array_equal(cohort.image(row.Index), np.asarray(Image.open(file)).transpose(2, 0, 1))
    return len(cohort)


@pytest.mark.slow
def test_killed_ingestion_leaves_whole_cases_only_and_the_same_command_completes_it(tmp_path):
    photographs, delays = write_photographs(tmp_path / "photographs", 60, seed=0), random.Random(7)
    kills = place = 0
    seen = set()
    while kills < 12:
        process = start_ingestion(photographs, tmp_path / f"cohort{place}")
        time.sleep(delays.choice((delays.uniform(0, 0.12), delays.uniform(0, 1))))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        count = assert_whole_cases_only(tmp_path / f"cohort{place}", photographs)
        seen.add(count)
        place += count == 60
    assert len(seen) > 2  # some kills fell into the middle
    assert start_ingestion(photographs, tmp_path / f"cohort{place}").wait() == 0
    assert assert_whole_cases_only(tmp_path / f"cohort{place}", photographs) == 60


def test_two_processes_that_create_and_fill_one_cohort_lose_nothing(tmp_path):
    folders = [write_photographs(tmp_path / f"folder{seed}", 20, seed) for seed in (1, 2)]
    processes = [start_ingestion(folder, tmp_path / "cohort") for folder in folders]
    assert [process.wait() for process in processes] == [0, 0]
    assert assert_whole_cases_only(tmp_path / "cohort", *folders) == 40


def test_two_processes_that_ingest_one_folder_add_each_case_once(tmp_path):
    folder = write_photographs(tmp_path / "folder", 20, seed=3)
    processes = [start_ingestion(folder, tmp_path / "cohort") for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert assert_whole_cases_only(tmp_path / "cohort", folder) == 20


def test_without_a_lock_a_writer_that_lost_the_race_starts_again_from_the_new_tip(cohort, make_case, monkeypatch):
    monkeypatch.setattr(engine, "exclusive", lambda _: contextlib.nullcontext())
    rival, bases = Cohort.open(cohort.path), []

    def write(group, base):
        if not bases:
            rival.append([make_case(20)])
        bases.append(base)
        group.attrs["note"] = group["case_id"].shape[0]
        return "a note"

    engine.transact(engine.open_repository(cohort.path), cohort.path, write)
    assert bases == [cohort.snapshot, rival.snapshot]
    reopened = Cohort.open(cohort.path)
    assert (len(reopened), reopened.to_xarray().attrs["note"]) == (9, 9)


def test_a_write_that_fails_says_so_in_one_line_and_leaves_the_cohort_as_it_was(cohort, make_case):
    before, limits = cohort.snapshot, resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))  # no file may grow beyond 200 bytes, as on a full disk
    try:
        with pytest.raises(CohortError, match="cannot be written"):
            cohort.append([make_case(number) for number in range(20, 30)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert Cohort.open(cohort.path).snapshot == before
    cohort.append([make_case(20)])
    assert len(Cohort.open(cohort.path)) == 9
