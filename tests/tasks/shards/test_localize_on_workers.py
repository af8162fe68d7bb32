"""Localisation by Dask workers, and with a case that cannot be read."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.localization.refinement import RefinementConfig
from models.registry import build
from storage import ingest, open_source
from storage.cohort import Cohort
from storage.errors import CohortError
from tasks import localization
from tasks.localization import make_maps, map_job
from tasks.map_making import MapJob, loaded
from tasks.model_files import describe_model, save_model
from tests.damage import damage_one_case

CASES, SHARD = 12, 3
NETWORK = {"size": 64, "stem_stride": 1, "width": 0.1, "normalisation": "batch", "head": [8], "head_pool": 1}
LOOP = RefinementConfig(max_iterations=3, stop_score=-100)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    ingest(open_source(f"sim:fundus?cases={CASES}&size=64&seed=3"), tmp_path / "cohort")
    return Cohort.open(tmp_path / "cohort")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that nobody trained."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    system = build("iterative-refinement", {"network": NETWORK})
    config = system.config.model_dump(mode="json")
    save_model(folder, "iterative-refinement", config, system.state_dict(), target="grade")
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(localization, "SHARD", SHARD)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    loaded.cache_clear()


def job_of(cohort: Cohort, model: Path, name: str) -> MapJob:
    made_by = {"model": "m", "target": "grade"}
    names = (f"{name}/S", f"{name}/s_0")
    return map_job(cohort, str(model), describe_model(model), names, made_by, "iterative-refinement", LOOP, 4)


@pytest.mark.slow
def test_two_workers_make_the_maps_of_this_process_to_the_last_bits(cohort: Cohort, model: Path):
    """Convolutions of batches of another size may add in another order: float32 sums differ in their last bits."""
    todo = list(range(CASES))
    assert make_maps(job_of(cohort, model, "here"), todo, 1, False) == []
    assert make_maps(job_of(cohort, model, "workers"), todo, 2, False) == []
    now = Cohort.open(cohort.path)
    for end in ("S", "s_0"):
        here, there = now.maps(f"here/{end}"), now.maps(f"workers/{end}")
        assert sorted(there.indices) == todo
        for case in todo:
            assert np.allclose(here.saliency(case), there.saliency(case), rtol=1e-4, atol=1e-7)
    for case in todo:
        assert np.allclose(here_array(now, "here", case), here_array(now, "workers", case), rtol=1e-4, atol=1e-7)


def here_array(cohort: Cohort, name: str, case: int) -> np.ndarray:
    return cohort.maps(f"{name}/S").array("steps", case)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["here", "workers"])
def test_a_case_that_cannot_be_read_is_reported_alone_and_the_rest_is_done(cohort: Cohort, model: Path, workers: int):
    guilty, _, _ = damage_one_case(cohort, range(CASES))
    job = job_of(cohort, model, "maps")
    [lost] = make_maps(job, list(range(CASES)), workers, False)
    assert lost["cases"] == [cohort.table["case_id"].iloc[guilty]]
    assert "damaged" in lost["reason"]
    done = set(map(int, Cohort.open(cohort.path).maps("maps/S").indices))
    assert done == set(range(CASES)) - {guilty}


def test_a_cohort_that_cannot_be_written_ends_the_work_with_its_reason(cohort: Cohort, model: Path):
    job = replace(job_of(cohort, model, "maps"), names=("a/saliency/b", "c"))
    with pytest.raises(CohortError, match="maps cannot be called"):
        make_maps(job, [0, 1], 1, False)


def test_where_no_case_at_all_can_be_done_the_reason_is_raised(cohort: Cohort, model: Path):
    guilty, _, _ = damage_one_case(cohort, range(CASES))
    with pytest.raises(CohortError, match="damaged"):
        make_maps(job_of(cohort, model, "maps"), [guilty], 1, False)
