"""Patches of skin with pasted biomarkers: what a case is, what its mask says, and what an address may ask for."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, label
from sklearn.metrics import average_precision_score

from storage.cohort import Cohort
from storage.errors import SourceError
from storage.ingestion import ingest
from storage.sources import open_source
from storage.sources.skin.biomarkers import draw_areas, margin_of
from storage.sources.skin.photographed import places
from storage.sources.skin_biomarkers import SkinBiomarkers
from tests.real_images import REAL_IMAGES

REAL_SKIN = REAL_IMAGES / "isic2017" / "images"
SIMULATED = "sim:skin_biomarkers?size=64&seed=3"


def plain_skin(rng: np.random.Generator, side: int = 256) -> np.ndarray:
    return np.clip(rng.normal((205, 165, 150), 3, (side, side, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Five photographs with a dark lesion in their middle, and one that the lesion fills but for a corner."""
    folder = tmp_path / "dermoscopy"
    folder.mkdir()
    y, x = np.mgrid[:256, :256]
    for number in range(5):
        pixels = plain_skin(np.random.default_rng(number))
        pixels[np.hypot(y - 128, x - 128) < 50] = (80, 50, 40)
        Image.fromarray(pixels).save(folder / f"skin{number}.png")
    pixels[30:] = (80, 50, 40)
    Image.fromarray(pixels).save(folder / "filled.png")
    return folder


def cases_of(source: SkinBiomarkers):
    return [source.read(key) for key in source.listing()]


def same_case(one, other) -> bool:
    return (
        (one.case_id, one.patient_id, one.file, one.sha256, one.labels)
        == (other.case_id, other.patient_id, other.file, other.sha256, other.labels)
        and np.array_equal(one.image, other.image)
        and np.array_equal(one.masks["biomarker"], other.masks["biomarker"])
    )


@pytest.mark.parametrize("skin", ["simulated", "photographed"])
def test_a_cohort_begins_with_the_shorter_one(skin, photographs):
    folder = f"&skin={photographs}" if skin == "photographed" else ""
    short, long = (open_source(f"{SIMULATED}&cases={count}{folder}") for count in (7, 15))
    assert all(map(same_case, cases_of(short), cases_of(long)[:7]))


def test_reading_in_any_order_thread_and_process_gives_the_same_bits(photographs):
    source = open_source(f"{SIMULATED}&cases=16&skin={photographs}")
    pickled = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(4) as pool:
        backwards = list(pool.map(pickled.read, pickled.listing()[::-1]))[::-1]
    assert all(map(same_case, cases_of(source), backwards))


def test_half_of_the_cases_and_of_each_simulated_patients_are_abnormal():
    source = SkinBiomarkers(cases=400, size=32)
    abnormal = np.array([source.is_abnormal(number) for number in range(400)]).reshape(200, 2)
    assert (abnormal.sum(axis=1) == 1).all()
    assert 70 < abnormal[:, 0].sum() < 130


def test_half_of_the_cases_and_of_each_photographs_are_abnormal(photographs):
    source = SkinBiomarkers(cases=16, size=32, skin=photographs)
    abnormal = np.array([source.is_abnormal(number) for number in range(16)]).reshape(4, 4)  # (visit, photograph)
    assert (abnormal.sum(axis=0) == 2).all()
    assert (abnormal.sum(axis=1) == 2).all()


def test_a_patient_is_a_photograph(photographs):
    keys = open_source(f"{SIMULATED}&cases=9&skin={photographs}").listing()
    assert {key.patient_id for key in keys} < {f"skin{number}" for number in range(5)}
    assert len({key.patient_id for key in keys}) == 4  # an even number of photographs is used
    assert len({key.case_id for key in keys}) == 9


@pytest.mark.parametrize("size", [32, 64, 128])
def test_pixels_change_in_the_mask_and_its_margin_alone(size):
    source = SkinBiomarkers(cases=24, size=size)
    for number, case in enumerate(cases_of(source)):
        changed = (case.image != source.normal(number).transpose(2, 0, 1)).any(axis=0)
        mask = case.masks["biomarker"]
        assert not (changed & ~binary_dilation(mask, np.ones((3, 3)), margin_of(size))).any()
        assert mask.any() == changed.any() == bool(case.labels["abnormal"])
        assert not mask.any() or changed[mask].mean() > 0.9


def test_masks_are_one_to_three_separate_squares_of_the_stated_sides():
    for seed in range(50):
        areas = draw_areas(np.random.default_rng(seed), 64)
        mask = np.zeros((64, 64), bool)
        for area in areas:
            mask[area.box] = True
        assert 1 <= label(mask, np.ones((3, 3)))[1] == len(areas) <= 3
        assert {area.side for area in areas} <= {2, 4, 8}
        assert mask.sum() == sum(area.side**2 for area in areas)


def test_one_pixel_is_pasted_to_88_others_in_abnormal_patches():
    pasted = [sum(area.side**2 for area in draw_areas(np.random.default_rng(seed), 128)) for seed in range(6000)]
    assert (128**2 - np.mean(pasted)) / np.mean(pasted) == pytest.approx(88, rel=0.05)


def test_biomarkers_can_be_seen_and_the_distance_from_the_skins_colour_does_not_find_them_all():
    abnormal = [case for case in cases_of(SkinBiomarkers(cases=120, size=64)) if case.labels["abnormal"]]
    distance = [
        np.abs(case.image - np.median(case.image, axis=(1, 2))[:, None, None]).mean(axis=0) for case in abnormal
    ]
    scaled = np.concatenate([((of - of.min()) / np.ptp(of)).ravel() for of in distance])
    truth = np.concatenate([case.masks["biomarker"].ravel() for case in abnormal])
    assert 10 / 89 < average_precision_score(truth, scaled) < 0.6


def test_patients_differ_in_colour_and_a_patients_patches_are_alike():
    source = SkinBiomarkers(cases=60, size=32)
    colour = np.array([source.normal(number).mean(axis=(0, 1)) for number in range(60)]).reshape(30, 2, 3)
    within = np.abs(colour[:, 0] - colour[:, 1]).mean()
    between = np.abs(colour[:-1, 0] - colour[1:, 0]).mean()
    assert between > 4 * within


def test_no_place_of_a_photograph_touches_its_lesion_sticker_vignette_or_ruler():
    pixels = plain_skin(np.random.default_rng(0))
    y, x = np.mgrid[:256, :256]
    spoilt = (np.hypot(y - 128, x - 110) < 30) | (np.hypot(y - 256, x - 256) < 40)
    pixels[np.hypot(y - 128, x - 110) < 30] = (120, 80, 70)
    pixels[np.hypot(y - 256, x - 256) < 40] = (60, 160, 160)
    pixels[:10, :70] = 5
    spoilt[:10, :70] = True
    for mark in range(180, 250, 6):
        pixels[4:24, mark : mark + 2] = 30
        spoilt[4:24, mark : mark + 2] = True
    found = places(pixels)
    assert len(found)
    assert max(spoilt[top + 4 : top + 60, left + 4 : left + 60].mean() for top, left in found) == 0


def test_places_do_not_depend_on_the_photographs_size():
    pixels = plain_skin(np.random.default_rng(0))
    pixels[100:160, 100:160] = (80, 50, 40)
    larger = np.repeat(np.repeat(pixels, 2, axis=0), 2, axis=1)
    assert np.array_equal(places(larger), places(pixels))


def test_thumbnails_come_from_the_folder_that_is_named(tmp_path):
    Image.fromarray(np.full((40, 40, 3), (0, 0, 255), np.uint8)).save(tmp_path / "blue.png")
    source = open_source(f"{SIMULATED}&cases=2&thumbnails={tmp_path}")
    case = next(case for case in cases_of(source) if case.labels["abnormal"])
    blue = (case.image == np.array([0, 0, 255], np.uint8)[:, None, None]).all(axis=0)
    assert not (blue & ~case.masks["biomarker"]).any()
    assert source.sha256(source.listing()[0]) != open_source(f"{SIMULATED}&cases=2").sha256(source.listing()[0])


def test_the_address_opens_the_same_source_again(photographs):
    folder = photographs.rename(photographs.with_name("skin & co"))
    source = open_source(f"{SIMULATED}&cases=4&skin={str(folder).replace('&', '%26')}")
    assert all(map(same_case, cases_of(source), cases_of(open_source(source.address))))


def test_a_second_ingestion_adds_nothing(tmp_path):
    first = ingest(open_source(f"{SIMULATED}&cases=12"), tmp_path / "cohort")
    second = ingest(open_source(f"{SIMULATED}&cases=12"), tmp_path / "cohort")
    assert (first.added, second.added) == (12, 0)
    cohort = Cohort.open(tmp_path / "cohort")
    assert cohort.lesions == ("biomarker",)
    assert cohort.table["abnormal"].mean() == 0.5
    assert [cohort.masks(case).any() for case in range(12)] == cohort.table["abnormal"].astype(bool).tolist()


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("sim:skin?cases=3", "no such simulator; there is: sim:fundus, sim:glaucoma, sim:pet, sim:skin_biomarkers"),
        ("sim:skin_biomarkers?patients=3", "'patients' is unknown"),
        ("sim:skin_biomarkers?size=64&size=32", "'size' is given twice"),
        ("sim:skin_biomarkers?size=8", "size='8' is not a whole number from 32 to 1024"),
        ("sim:skin_biomarkers?skin=/not/there", "skin='/not/there' is not a folder"),
        ("sim:skin_biomarkers?thumbnails=", "thumbnails='' is not a folder"),
    ],
)
def test_a_wrong_address_gets_one_clear_line(address, complaint):
    with pytest.raises(SourceError) as caught:
        open_source(address)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["skin", "thumbnails"])
def test_a_folder_without_photographs_is_named(option, tmp_path):
    with pytest.raises(SourceError, match=f"{tmp_path} holds no photograph"):
        cases_of(open_source(f"{SIMULATED}&cases=2&{option}={tmp_path}"))


def test_photographs_without_room_are_counted(tmp_path):
    for number in range(3):
        Image.fromarray(np.zeros((256, 256, 3), np.uint8)).save(tmp_path / f"{number}.png")
    with pytest.raises(SourceError, match=r"0 of the 3 photographs .* have a place without a lesion"):
        open_source(f"{SIMULATED}&skin={tmp_path}").listing()


@pytest.mark.skipif(not REAL_SKIN.is_dir(), reason=f"no dermoscopy photographs at {REAL_SKIN}")
def test_real_photographs_give_patches_of_even_skin():
    source = SkinBiomarkers(cases=100, size=64, skin=REAL_SKIN)
    assert 300 < len(source.skin.photographs) < 350
    grey = np.array([source.normal(number).mean(axis=2) for number in range(100)])
    blocks = grey.reshape(100, 8, 8, 8, 8).mean(axis=(2, 4))
    assert (np.ptp(blocks.reshape(100, -1), axis=1) < 50).all()
    assert len({key.patient_id for key in source.listing()}) == 100
