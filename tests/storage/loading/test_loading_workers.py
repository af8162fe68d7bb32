import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from monai.transforms import RandFlipd
from torch.utils.data import DataLoader

from storage import Cohort, CohortError
from storage.loading import CohortImages, LoadingError, explained, explained_failures, prefetched
from storage.loading.failures import explanation
from storage.reader import ReaderProcess


def images(cohort: Cohort, **options: object) -> CohortImages:
    return CohortImages(cohort.path, cohort.snapshot, range(8), "grade", **{"in_memory": False, **options})


def loaded(data: CohortImages, method: str = "fork", **options: object) -> DataLoader:
    """Two workers; one that hangs fails the test."""
    given = {"num_workers": 2, "timeout": 60, **options}
    return DataLoader(data, multiprocessing_context=method, **given)


def failure(batches: Iterable[object]) -> Exception:
    """The error that iterating ends in, without its frames, in which torch's workers would live on."""
    try:
        deque(batches, maxlen=0)
    except Exception as error:
        for other in filter(None, (error.__cause__, error.__context__)):
            other.__traceback__ = None
        return error.with_traceback(None)
    raise AssertionError("nothing failed")


@pytest.fixture
def reader(cohort):
    return ReaderProcess(cohort.path, cohort.snapshot)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_any_kind_read_every_case_and_transform_it(cohort, method):
    data = images(cohort, lesions=["MA"], transform=partial(dict, seen=True), in_memory=True)
    assert len(data[0]["image"]) == 3  # read into memory here, which must not travel to the workers
    batches = list(loaded(data, method, batch_size=2))
    assert torch.cat([batch["case"] for batch in batches]).tolist() == list(range(8))
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), torch.from_numpy(cohort.images(range(8))))
    masks = np.stack([cohort.mask(case, ["MA"]) for case in range(8)])
    assert np.array_equal(torch.cat([batch["mask"] for batch in batches])[:, 0], masks)
    assert all(batch["seen"].all() for batch in batches)


def test_a_forked_process_may_make_its_own_data_set(cohort):
    cohort.image(0)
    child = os.fork()
    if child == 0:
        here = images(cohort, in_memory=True)
        os._exit(int(not np.array_equal(here[3]["image"].numpy()[0, :2], _first_rows(here))))
    assert _exit_status(child, seconds=60) == 0


def _first_rows(data: CohortImages) -> np.ndarray:
    return data.cases.reader().patch(3, (0, 0), (2, 32))[0]


def _exit_status(child: int, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise TimeoutError


def test_a_reader_answers_as_the_cohort_does(cohort, reader):
    assert (reader.dims, reader.lesions) == (cohort.dims, cohort.lesions)
    assert reader.table.equals(cohort.table)
    assert np.array_equal(reader.label("grade"), cohort.label("grade"))
    assert np.array_equal(reader.masks(5), cohort.masks(5))
    assert np.array_equal(reader.mask_patch(5, (4, 0), (3, 9), ["MA"]), cohort.mask_patch(5, (4, 0), (3, 9), ["MA"]))
    image = reader.image(5)
    image += 1  # its own memory, which torch may write to
    assert np.array_equal(image, cohort.image(5) + np.uint8(1))


def test_an_error_in_the_reader_keeps_its_type_and_message(reader):
    with pytest.raises(IndexError, match=r"^there is no case 99 in .*which has 8 cases$"):
        reader.image(99)
    assert reader.image(0).shape == (3, 32, 32)


def test_a_reader_of_an_unknown_snapshot_says_so(cohort):
    with pytest.raises(CohortError, match="has no snapshot 'NOSUCH'"):
        ReaderProcess(cohort.path, "NOSUCH").image(0)


def test_a_reader_that_was_killed_is_told_with_its_likely_cause(cohort, reader):
    reader.image(0)
    reader._process.kill()
    with pytest.raises(CohortError, match="was killed by signal 9; the machine may have run out of memory"):
        reader.image(0)


def test_a_reader_ends_with_the_one_who_asks(cohort):
    script = (
        "import sys, time; from storage.reader import ReaderProcess; reader = ReaderProcess(*sys.argv[1:]);"
        "reader.image(0); print(reader._process.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, cohort.path, cohort.snapshot]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert owner.stdout is not None
    process = psutil.Process(int(owner.stdout.readline()))
    owner.kill()
    owner.communicate()
    process.wait(10)
    assert not psutil.pid_exists(process.pid)


def test_a_damaged_chunk_surfaces_from_a_worker_with_its_case(cohort):
    data = images(cohort)  # the table is read before the damage
    for file in Path(cohort.path, "chunks").iterdir():
        if file.stat().st_size > 2000:  # an image's
            file.write_bytes(bytes(file.stat().st_size))
    error = failure(loaded(data))
    assert type(error) is LoadingError
    assert re.fullmatch(r"case 'c0' is damaged in .*; `lesionflow check .*", str(error))
    assert "Traceback" in error.__notes__[0]


def test_a_failing_transform_surfaces_from_a_worker_with_its_case(cohort):
    error = failure(loaded(images(cohort, transform=RandFlipd(keys="absent", prob=1.0))))
    assert type(error) is LoadingError
    assert re.fullmatch(r"the transform failed on case 'c0' of .*: KeyError: .*absent.*", str(error))


def test_any_other_failure_of_a_worker_is_told_in_its_last_line(cohort):
    error = failure(explained(loaded(images(cohort), sampler=[0, 99])))
    assert str(error) == "IndexError: range object index out of range"


def test_a_failing_item_names_the_case_without_workers_too(cohort):
    with pytest.raises(
        LoadingError, match=r"^the transform failed on case 'c1' .*ZeroDivisionError: division by zero$"
    ):
        images(cohort, transform=lambda item: 1 / (1 - item["case"]))[1]


def test_a_worker_killed_before_its_batch_was_taken_over_is_told_so_too():
    taking_over = compile("raise ConnectionResetError", "…/torch/multiprocessing/reductions.py", "exec")
    with pytest.raises(LoadingError, match="a loading worker was killed"), explained_failures():
        exec(taking_over)
    with pytest.raises(ConnectionResetError), explained_failures():
        raise ConnectionResetError


def test_a_worker_that_gave_up_on_its_own_is_not_blamed_on_memory():
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    error.__cause__ = RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost.")
    assert explanation(error) == (
        "DataLoader worker (pid 7) exited unexpectedly with exit code 1; with 0 workers the error shows itself"
    )


def test_a_worker_without_shared_memory_is_told_how_to_get_more():
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that …")
    assert "raise its size (docker run --shm-size=8g)" in str(explanation(error))


def test_a_loading_error_travels_by_pickle():
    error = pickle.loads(pickle.dumps(LoadingError("case 'c1' is damaged")))
    assert (type(error), str(error)) == (LoadingError, "case 'c1' is damaged")


def test_a_killed_worker_is_told_with_a_hint_at_memory(cohort):
    batches = iter(loaded(images(cohort)))
    started = time.monotonic()
    error = failure(explained(_after_killing_a_worker(batches)))
    assert "worker was killed, as the system does when memory runs out: lower" in str(error)
    assert time.monotonic() - started < 20


def _after_killing_a_worker(batches):
    yield next(batches)
    os.kill(batches._workers[0].pid, signal.SIGKILL)
    yield from batches


def test_what_is_no_failure_of_loading_passes_as_it_is():
    with pytest.raises(ZeroDivisionError), explained_failures():
        _ = 1 / 0


def test_prefetching_to_the_cpu_hands_out_every_batch(cohort):
    loader = DataLoader(images(cohort), batch_size=3)
    cases = [batch["case"].tolist() for batch in prefetched(loader, "cpu")]
    assert cases == [[0, 1, 2], [3, 4, 5], [6, 7]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_prefetching_to_a_gpu_hands_out_the_same_pixels_there(cohort):
    loader = DataLoader(images(cohort), batch_size=3)
    batches = list(prefetched(loader, "cuda"))
    assert all(batch["image"].is_cuda for batch in batches)
    assert torch.equal(
        torch.cat([batch["image"] for batch in batches]).cpu(), torch.from_numpy(cohort.images(range(8)))
    )
