import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from storage import Cohort
from storage.geometry import plain
from storage.loading import LoadingError, MemoryEstimate, available_memory, memory, memory_estimate, memory_needed
from storage.loading.memory import CGROUPS, shown_bytes

GB = 10**9
ROOT = Path(__file__).parents[3]


def estimate(**changes: int) -> MemoryEstimate:
    given = {"images": GB, "queues": 0, "workers": 0, "available": 20 * GB, "shared_available": GB}
    return MemoryEstimate(**{**given, "keeps_images": True, **changes})


@pytest.fixture
def ragged(tmp_path, make_case) -> Cohort:
    """Two volumes of 24 and 60 voxels in two float32 channels."""
    cohort = Cohort.create(
        tmp_path / "ragged", grid=None, dims=("z", "y", "x"), channels=("CT", "PET"), dtype="float32", labels=("grade",)
    )
    for number, shape in enumerate([(2, 3, 4), (3, 4, 5)]):
        image = np.zeros((2, *shape), np.float32)
        cohort.append([make_case(number, image=image, masks=None, geometry=plain(shape, (1.0, 1.0, 1.0)))])
    return cohort


def test_what_images_need_is_what_the_arrays_take(cohort):
    masks = np.stack([cohort.mask(case) for case in range(8)])
    assert memory_needed(cohort, 8) == cohort.images(range(8)).nbytes
    assert memory_needed(cohort, 8, lesions=True) == cohort.images(range(8)).nbytes + masks.nbytes


def test_what_ragged_volumes_need_is_the_sum_of_their_own_shapes(ragged):
    assert memory_needed(ragged, [0, 1]) == sum(ragged.image(case).nbytes for case in (0, 1))
    assert memory_needed(ragged, [1], lesions=True) == ragged.image(1).nbytes + 60
    assert memory_needed(ragged, 2) == memory_needed(ragged, [0, 1])


def test_batches_that_wait_are_counted_as_floats_of_the_largest_case(ragged):
    found = memory_estimate(ragged, [0, 1], batch_size=5, workers=3, prefetch_factor=4, processes=2, lesions=True)
    assert found.queues == 2 * 3 * 4 * 5 * 60 * (2 * 4 + 1)
    assert found.workers == 2 * 3 * memory.WORKER_BYTES
    assert found.images == 2 * 84 * (2 * 4 + 1)  # with the masks


def test_a_patch_counts_as_a_patch(ragged):
    assert memory_estimate(ragged, [0, 1], batch_size=5, patch=(2, 2, 2)).queues == 5 * 8 * 2 * 4


def test_images_stay_in_memory_where_they_take_less_than_half_of_it():
    assert estimate(images=9 * GB).in_memory
    assert not estimate(images=10 * GB).in_memory
    assert not estimate(images=9 * GB, queues=3 * GB).in_memory


def test_workers_read_from_the_store_whatever_the_memory(cohort):
    assert not memory_estimate(cohort, range(8), batch_size=2, workers=1).in_memory
    assert memory_estimate(cohort, range(8), batch_size=2).in_memory


def test_the_estimate_is_one_line():
    assert estimate(images=1_234_000_000).line() == "images 1.2 GB in memory, 20.0 GB available"
    assert estimate(images=15 * GB).line() == "images 15.0 GB read from the store, 20.0 GB available"
    beside = estimate(queues=2 * GB, workers=GB, keeps_images=False).line()
    assert beside == "images 1.0 GB read from the store, loading takes 3.0 GB, 20.0 GB available"


def test_workers_that_cannot_fit_are_refused_with_what_to_lower():
    with pytest.raises(LoadingError, match=r"would take 30.0 GB .* but 20.0 GB are available: lower the number of wor"):
        estimate(queues=25 * GB, workers=5 * GB).check()


def test_batches_that_shared_memory_cannot_hold_are_refused():
    with pytest.raises(LoadingError, match=r"/dev/shm has 1\.0 GB: raise it"):
        estimate(queues=2 * GB, workers=GB).check()
    estimate(queues=2 * GB, workers=0).check()


@pytest.mark.parametrize(("version", "own"), [(0, "0::/job/step"), (1, "4:cpuset,memory:/job/step\n0::/elsewhere")])
def test_a_control_group_around_the_process_limits_what_is_available(tmp_path, monkeypatch, version, own):
    name, *files = CGROUPS[version]
    root = tmp_path / Path(name).name
    (root / "job" / "step").mkdir(parents=True)
    for file, text in zip(files, ("3000", "2000", "anon 5\ninactive_file 100\ntotal_inactive_file 100\n"), strict=True):
        (root / "job" / (file if not file.endswith("inactive_file") else "memory.stat")).write_text(text)
    monkeypatch.setattr(memory, "CGROUPS", ((str(root), *files),))
    monkeypatch.setattr(memory, "_own_group_lines", own.splitlines)
    assert available_memory() == 3000 - 2000 + 100


def test_without_a_control_group_the_machine_is_the_limit(monkeypatch):
    monkeypatch.setattr(memory, "CGROUPS", ())
    assert available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_bytes_are_shown_in_the_unit_that_suits():
    assert [shown_bytes(count) for count in (7, 1500, 2_000_000, 3 * 10**12)] == ["7 B", "1.5 kB", "2.0 MB", "3.0 TB"]


def test_iterating_over_a_cohort_does_not_keep_it_in_memory(tmp_path, make_case):
    """75 MB of noise are read four times; 1.8 GB grew a process by 48 MB, which is what malloc keeps for threads."""
    square = (1024, 1024)
    cohort = Cohort.create(
        tmp_path / "c", grid=square, dims=("y", "x"), channels=("red", "green", "blue"), dtype="uint8"
    )
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (24, 3, *square), dtype=np.uint8)
    cohort.append(
        [
            make_case(number, image=image, masks=None, labels={}, geometry=plain(square, (1.0, 1.0)))
            for number, image in enumerate(noise)
        ]
    )
    script = """
import sys, psutil
from storage.loading import CohortImages
data = CohortImages(sys.argv[1], sys.argv[2], range(24), None, in_memory=False)
data[0], data[1]
before = psutil.Process().memory_info().rss
grown = [psutil.Process().memory_info().rss - before for _ in range(4) for item in data]
print(max(grown) // 10**6)
"""
    command = [sys.executable, "-c", script, cohort.path, cohort.snapshot]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, timeout=100).stdout
    assert re.fullmatch(r"-?\d+\n", printed)
    assert int(printed) < 60
