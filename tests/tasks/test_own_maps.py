"""Maps as a system answers them itself: what is stored, in which type, and what goes on where it broke off."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models.config import Config
from models.errors import ModelError
from models.localization.refinement import RefinementConfig
from models.registry import OWN_SYSTEMS, _import_families, build
from models.system import Batch, Prediction, System
from storage.cohort import Cohort
from storage.ingestion import ingest
from storage.sources import open_source
from tasks import localization
from tasks.localization import make_maps, map_job, prepare
from tasks.map_making import MapJob, loaded
from tasks.model_files import describe_model, save_model
from tasks.own_maps import as_stored, own_maps
from tests.toys import MODULES

CASES, SHARD = 10, 4


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(OWN_SYSTEMS, MODULES)
    monkeypatch.setattr(localization, "SHARD", SHARD)
    _import_families.cache_clear()
    yield
    loaded.cache_clear()


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    ingest(open_source(f"sim:fundus?cases={CASES}&size=32&seed=3"), tmp_path / "cohort")
    return Cohort.open(tmp_path / "cohort")


def gan() -> System:
    torch.manual_seed(0)
    return build("toy-gan", {}).eval()


@pytest.fixture
def job(cohort: Cohort, tmp_path: Path) -> MapJob:
    system, folder = gan(), tmp_path / "model"
    save_model(folder, "toy-gan", system.config.model_dump(mode="json"), system.state_dict())
    return map_job(
        cohort, str(folder), describe_model(folder), ("gan/map",), {"method": "own"}, "own", RefinementConfig(), 3
    )


def test_they_are_what_the_system_predicts_with_its_image_as_stored(cohort: Cohort, job: MapJob):
    assert make_maps(job, list(range(CASES)), 1, False) == []
    maps = Cohort.open(cohort.path).maps("gan/map")
    with torch.no_grad():
        predicted = gan().predict_step({"image": torch.from_numpy(cohort.images(range(CASES)))}, 0)
    for case in range(CASES):
        assert np.allclose(maps.saliency(case), predicted["saliency"][case], atol=1e-6)
        assert maps.table.at[case, "score"] == pytest.approx(predicted["score"][case].item(), abs=1e-5)
        image = maps.array("image", case)
        assert image.dtype == np.uint8
        assert np.abs(image - predicted["image"][case].numpy()).max() <= 0.51
    assert maps.attrs == {"method": "own"}


def test_what_broke_off_goes_on_with_the_cases_that_are_left(
    cohort: Cohort, job: MapJob, monkeypatch: pytest.MonkeyPatch
):
    def breaking(*arguments, **options):
        for shard, found in enumerate(whole(*arguments, **options)):
            if shard == 2 * SHARD + 1:
                raise ConnectionError("the machine went away")
            yield found

    whole = localization.answers
    monkeypatch.setattr(localization, "answers", breaking)
    with pytest.raises(ConnectionError):
        make_maps(job, list(range(CASES)), 1, False)
    monkeypatch.setattr(localization, "answers", whole)
    left = prepare(Cohort.open(cohort.path), ["gan/map"], {"method": "own"}, list(range(CASES)))
    assert left == list(range(2 * SHARD, CASES))
    make_maps(job, left, 1, True)
    assert sorted(Cohort.open(cohort.path).maps("gan/map").indices) == list(range(CASES))


def test_batches_do_not_change_a_map(cohort: Cohort):
    images = [(case, cohort.image(case)) for case in range(5)]
    alone, together = (list(own_maps(gan(), images, size, "cpu")) for size in (1, 5))
    assert [one.case for one in together] == list(range(5))
    for one, other in zip(alone, together, strict=True):
        assert np.allclose(one.saliency, other.saliency, atol=1e-6)


class Answering(System):
    """Predicts what it is told."""

    name = "answering"

    def __init__(self, **predicted: torch.Tensor):
        super().__init__(Config())
        self.predicted = predicted

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        return self.predicted


def test_a_system_without_a_score_or_an_image_has_neither():
    [found] = own_maps(Answering(saliency=torch.ones(1, 4, 4)), [(7, np.zeros((3, 4, 4), np.uint8))], 2, "cpu")
    assert found.case == 7
    assert np.isnan(found.score)
    assert found.image is None


@pytest.mark.parametrize(
    ("predicted", "line"),
    [
        ({"mask": torch.ones(1, 4, 4)}, "answering predicts no map of its own: mask; take --method saliency"),
        ({"saliency": torch.ones(1, 1, 4, 4)}, r"maps of \(1, 1, 4, 4\), which do not fit images of \(1, 4, 4\)"),
    ],
)
def test_a_system_without_a_fitting_map_is_one_line(predicted, line):
    with pytest.raises(ModelError, match=line):
        next(own_maps(Answering(**predicted), [(0, np.zeros((3, 4, 4), np.uint8))], 1, "cpu"))


def test_images_are_rounded_and_clipped_to_whole_numbers_and_kept_as_floats():
    image = torch.tensor([-3.0, 1.5, 2.6, 70000.0])
    assert as_stored(image, torch.uint8).tolist() == [0, 2, 3, 255]
    assert as_stored(image, torch.uint16).tolist() == [0, 2, 3, 65535]
    assert as_stored(image, torch.int16).tolist() == [-3, 2, 3, 32767]
    assert np.allclose(as_stored(image, torch.float32), image.numpy())
