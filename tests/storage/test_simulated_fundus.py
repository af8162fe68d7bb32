from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from storage.errors import SourceError
from storage.sources.fundus import LESIONS, Difficulty, Scene, draw_scene, photograph
from storage.sources.fundus.lesions import draw_lesions
from storage.sources.fundus.spots import grid_of
from storage.sources.simulated import stream
from storage.sources.simulated_fundus import SimulatedFundus

KNOBS = Difficulty()
ONLY_GRADE: list[Any] = [(1, 0, 0, 0, 0), (0, 0, 1, 0, 0), (0, 0, 0, 0, 1)]


@cache
def scene_of(patient: int) -> Scene:
    return draw_scene(0, patient, 0, KNOBS)


def scenes(count: int) -> list[Scene]:
    return [scene_of(patient) for patient in range(count)]


def same_case(one, other) -> bool:
    return (
        (one.case_id, one.patient_id, one.file, one.sha256, one.labels)
        == (other.case_id, other.patient_id, other.file, other.sha256, other.labels)
        and np.array_equal(one.image, other.image)
        and all(np.array_equal(one.masks[lesion], other.masks[lesion]) for lesion in LESIONS)
    )


def test_reading_in_any_order_and_thread_gives_the_same_bits():
    source, again = (SimulatedFundus.from_address("sim:fundus?cases=12&size=64&seed=3") for _ in range(2))
    forwards = [source.read(key) for key in source.listing()]
    with ThreadPoolExecutor(4) as pool:
        backwards = list(pool.map(again.read, again.listing()[::-1]))[::-1]
    assert all(map(same_case, forwards, backwards))


@pytest.mark.parametrize("patients", ["", "&patients=6"])
def test_a_cohort_begins_with_the_shorter_one(patients):
    short, long = (SimulatedFundus.from_address(f"sim:fundus?cases={n}&size=64{patients}") for n in (7, 12))
    assert [short.sha256(key) for key in short.listing()] == [long.sha256(key) for key in long.listing()][:7]
    assert all(same_case(short.read(key), long.read(key)) for key in short.listing())


def test_seed_and_size_change_the_pictures_and_their_digests():
    addresses = ["sim:fundus?cases=1&size=64", "sim:fundus?cases=1&size=64&seed=1", "sim:fundus?cases=1&size=65"]
    sources = [SimulatedFundus.from_address(address) for address in addresses]
    cases = [source.read(source.listing()[0]) for source in sources]
    assert len({case.sha256 for case in cases}) == 3
    assert len({case.image.tobytes() for case in cases}) == 3


def test_case_ids_are_unique_and_about_two_cases_belong_to_a_patient():
    listing = SimulatedFundus.from_address("sim:fundus?cases=1000").listing()
    assert len({key.case_id for key in listing}) == len({key.file for key in listing}) == 1000
    assert 1000 / 2 < len({key.patient_id for key in listing}) < 1000 / 1.6


def test_patients_are_dealt_one_or_two_cases_each():
    listing = SimulatedFundus.from_address("sim:fundus?cases=15&patients=10").listing()
    assert len({key.case_id for key in listing}) == 15
    assert len({key.patient_id for key in listing}) == 10


def test_the_two_eyes_of_a_patient_share_the_look_and_face_each_other():
    for patient in range(10):
        first, second = (draw_scene(0, patient, visit, KNOBS) for visit in (0, 1))
        assert np.array_equal(first.look.skin, second.look.skin)
        assert first.eye.disc[0] * second.eye.disc[0] < 0
        assert abs(first.grade - second.grade) <= 1


def test_a_case_is_a_round_colour_photograph_with_all_masks():
    source = SimulatedFundus.from_address("sim:fundus?cases=3&size=96")
    for case in map(source.read, source.listing()):
        assert case.image.shape == (3, 96, 96)
        assert case.image.dtype == np.uint8
        assert list(case.masks) == list(source.lesions) == list(LESIONS)
        assert case.image[:, :5, :5].max() < 10
        red, green, blue = case.image[:, 20:76, 20:76].mean(axis=(1, 2))
        assert red > green > blue > 5
        assert case.geometry.operations == ()


def test_grade_0_has_no_lesions_and_every_other_grade_has():
    for scene in scenes(40):
        masks = photograph(scene, 64)[1]
        assert any(mask.any() for mask in masks.values()) == (scene.grade > 0)


def test_masks_cover_where_the_lesions_changed_the_photograph():
    size, changed_in_masks = 128, []
    for scene in scenes(25):
        (diseased, masks), (healthy, none) = photograph(scene, size), photograph(scene, size, with_lesions=False)
        mask = np.any(list(masks.values()), axis=0)
        changed = (diseased != healthy).any(axis=0)
        margin = 2 + int(np.ceil(4 * scene.eye.focus * grid_of(size).scale))  # the soft edge, and what the blur spreads
        assert not np.any(list(none.values()))
        assert not (changed & ~binary_dilation(mask, np.ones((3, 3)), margin)).any()
        changed_in_masks.append(changed[mask])
    assert np.concatenate(changed_in_masks).mean() > 0.97


def test_masks_keep_their_share_of_the_picture_at_every_size():
    for scene in [scene for scene in scenes(18) if scene.grade >= 3]:
        small, large = photograph(scene, 128)[1], photograph(scene, 256)[1]
        for lesion in LESIONS:
            assert small[lesion].mean() == pytest.approx(large[lesion].mean(), rel=0.35, abs=5e-4)


def test_every_lesion_lies_in_the_field_of_view_off_the_disc():
    for scene in scenes(80):
        for spots in vars(scene.lesions).values():
            assert (np.hypot(*spots.centre.T) + spots.radius < 1).all()
            assert (np.abs(spots.centre[:, 1]) + spots.radius < scene.look.clip).all()
            assert (np.hypot(*(spots.centre - scene.eye.disc).T) > 0.16).all()


def test_lesions_grow_in_number_with_the_grade_and_neighbours_overlap():
    scene = draw_scene(0, 0, 0, KNOBS)
    counts = np.array(
        [
            [list(draw_lesions(stream(1, i), grade, scene.look, scene.eye, KNOBS).counts().values()) for i in range(60)]
            for grade in range(5)
        ]
    )  # (grade, draw, class)
    red, exudate, cotton_wool = counts.mean(axis=1).T
    assert (np.diff(red) > 0).all()
    assert (np.diff(exudate[1:]) > 0).all()
    assert (np.diff(cotton_wool[1:]) > 0).all()
    assert red[0] == exudate[0] == exudate[1] == cotton_wool[0] == cotton_wool[1] == 0
    total = counts.sum(axis=2)
    assert all(total[grade].max() > total[grade + 1].min() for grade in range(1, 4))


def test_look_alikes_do_not_know_the_grade_and_all_kinds_occur():
    total = dict.fromkeys(draw_scene(0, 0, 0, KNOBS).distractors.counts(), 0)
    for patient in range(30):
        by_grade = [draw_scene(0, patient, 0, Difficulty(grade_share=share)) for share in ONLY_GRADE]
        assert [scene.grade for scene in by_grade] == [0, 2, 4]
        for kind in total:
            centres = [vars(scene.distractors)[kind].centre for scene in by_grade]
            assert np.array_equal(centres[0], centres[1])
            assert np.array_equal(centres[0], centres[2])
            total[kind] += len(centres[0])
    assert min(total.values()) > 0


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("sim:retina?cases=3", "no such simulator"),
        ("sim:fundus?grades=3", "'grades' is unknown"),
        ("sim:fundus?cases=3&cases=4", "'cases' is given twice"),
        ("sim:fundus?cases=many", "cases='many' is not a whole number"),
        ("sim:fundus?cases=0", "cases='0' is not a whole number from 1"),
        ("sim:fundus?size=-8", "size='-8' is not a whole number from 32"),
        ("sim:fundus?seed=", "seed='' is not a whole number"),
        ("sim:fundus?cases=30&patients=10", "10 patients give 10 to 20 cases"),
    ],
)
def test_a_wrong_address_gets_one_clear_line(address, complaint):
    with pytest.raises(SourceError) as caught:
        SimulatedFundus.from_address(address)
    message = str(caught.value)
    assert complaint in message
    assert message.startswith(address)
    assert "\n" not in message
    assert "cases" in message  # it lists what is known, or shows an address that works
