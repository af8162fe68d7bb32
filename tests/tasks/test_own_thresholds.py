"""Maps of volumes whose system says from which value on they show a lesion, from the model to Dice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.errors import ModelError
from models.registry import build
from storage.case import Case
from storage.cohort import Cohort
from storage.errors import CohortError
from storage.geometry import Geometry, Grid
from tasks import evaluation
from tasks.evaluation import checked_label, gather, groups_of, measured, methods_of
from tasks.kept import kept_answers
from tasks.localization import localize_own
from tasks.maps import LESION_FROM, detection_threshold
from tasks.model_files import load_model, save_model

GRID, SPACING = (32, 16, 24), (6.0, 6.0, 6.0)
CASES = 4

pytestmark = pytest.mark.usefixtures("shared_workspace")


def case(number: int) -> Case:
    """A body of SUV 1 with noise and a tumour of SUV 10, all in split test."""
    place = np.random.default_rng(number)
    start = place.integers(4, 10, size=3)
    mask = np.zeros(GRID, bool)
    mask[tuple(slice(at, at + 5) for at in start)] = True
    image = (1 + 0.2 * place.random(GRID) + 9 * mask).astype(np.float32)
    affine = tuple(map(tuple, np.diag([*SPACING, 1.0]).tolist()))
    return Case(
        case_id=f"p{number}",
        patient_id=f"patient {number}",
        file=f"p{number}",
        sha256=f"{number:064x}",
        image=image[None],
        labels={"oesophagus": float(number % 2)},
        masks={"tumour": mask},
        geometry=Geometry(Grid(GRID, SPACING, affine)),
        split="test",
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pet") / "cohort"
    made = Cohort.create(
        path,
        grid=GRID,
        dims=("z", "y", "x"),
        channels=("PET",),
        dtype="float32",
        lesions=("tumour",),
        labels=("oesophagus",),
    )
    made.append([case(number) for number in range(CASES)])
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    network = {"channels": [4] * 8, "spacing_mm": SPACING, "cell_mm": 24}
    wide = {"threshold": "suv", "suv": 1.1, "response_share": 0.25, "pieces": "all"}  # so that it finds some of it
    system = build("class-response", {"network": network, "back_projection": wide})
    folder = tmp_path_factory.mktemp("model")
    system.get_parameter("classifier.weight").data.abs_()  # untrained, but a map is somewhere positive
    config = system.config.model_dump(mode="json")
    save_model(folder, "class-response", config, system.state_dict(), target="oesophagus")
    return str(folder)


def localized(cohort: str, model: str, name: str, **settings: Any) -> str:
    [maps] = localize_own.fn(cohort, model, ["test"], 4, name=name, settings=settings)["maps"]
    return str(maps)


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())


def test_dice_is_that_of_the_masks_that_the_system_answers(cohort: str, model: str):
    names = {"own": localized(cohort, model, "own")}
    opened, kept = Cohort.open(cohort), kept_answers("evaluate", "own")
    tested = gather(opened, names, [], "test", 1, kept)
    answer = measured(opened, tested, names, {"split": "test", "resamples": 100, "seed": 0})
    batch = {"image": torch.from_numpy(opened.images(range(CASES)))}
    masks = load_model(Path(model)).predict_step(batch)["mask"][:, 0].numpy()
    expected = np.mean([dice(masks[number], opened.mask(number)) for number in range(CASES)])
    assert 0 < expected < 1
    assert answer["methods"]["own"]["dice"] == pytest.approx(expected)
    assert answer["dice_threshold"] == {"own": 0.25}
    assert answer["classifier"]["accuracy"] in (0, 0.25, 0.5, 0.75, 1)


def test_each_value_of_a_label_is_judged_on_its_own_cases(cohort: str, model: str):
    names = {"own": localized(cohort, model, "own")}
    tested = gather(Cohort.open(cohort), names, [], "test", 1, kept_answers("evaluate", "by"))
    groups = groups_of(Cohort.open(cohort), tested, "oesophagus", resamples=100, seed=0)
    assert {value: (group["cases"], group["patients"]) for value, group in groups.items()} == {"0": (2, 2), "1": (2, 2)}
    of_all = methods_of(tested, resamples=100, seed=0)["own"]["dice"]
    assert np.mean([group["methods"]["own"]["dice"] for group in groups.values()]) == pytest.approx(of_all)
    odd = methods_of(tested.at([1, 3]), resamples=100, seed=0)["own"]
    assert groups["1"]["methods"]["own"] == odd


def test_only_a_label_of_a_few_values_divides_the_cases(cohort: str, monkeypatch: pytest.MonkeyPatch):
    assert checked_label(Cohort.open(cohort), "oesophagus") == "oesophagus"
    with pytest.raises(CohortError, match="no label 'scanner' to divide the cases by; labels: oesophagus"):
        checked_label(Cohort.open(cohort), "scanner")
    monkeypatch.setattr(evaluation, "MOST_GROUPS", 1)
    with pytest.raises(CohortError, match="oesophagus has 2 values"):
        checked_label(Cohort.open(cohort), "oesophagus")


def test_a_lesion_is_measured_from_the_systems_own_threshold_on(cohort: str, model: str):
    maps = localized(cohort, model, "own")
    assert Cohort.open(cohort).maps(maps).attrs[LESION_FROM] == 0.25
    assert detection_threshold(Cohort.open(cohort), maps) == (0.25, "the system's own")


def test_settings_in_use_make_other_masks_and_may_move_the_threshold(cohort: str, model: str):
    own, hull = localized(cohort, model, "own"), localized(cohort, model, "hull", threshold="none", response_share=0.1)
    opened = Cohort.open(cohort)
    assert opened.maps(hull).attrs[LESION_FROM] == 0.1
    assert opened.maps(hull).attrs["settings"] == {"threshold": "none", "response_share": 0.1}
    for number in range(CASES):
        found, wider = (opened.maps(name).saliency(number) > 0 for name in (own, hull))
        assert (found <= wider).all()
        assert found.sum() < wider.sum()


def test_a_setting_that_is_none_is_named(cohort: str, model: str):
    with pytest.raises(ModelError, match=r"back_projection\.share is not a setting"):
        localized(cohort, model, "wrong", share=0.3)
