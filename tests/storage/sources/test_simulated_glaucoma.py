"""Simulated glaucoma: what a case is, what its masks say, and that nothing but the two pathologies tells the label."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, label
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from storage.cohort import Cohort
from storage.errors import SourceError
from storage.ingestion import ingest
from storage.sources import open_source
from storage.sources.fundus.anatomy import DISC_RADIUS, disc_distance
from storage.sources.fundus.glaucoma import (
    PATHOLOGIES,
    GlaucomaScene,
    draw_glaucoma_scene,
    healthy,
    photograph_glaucoma,
)
from storage.sources.fundus.nerve_fibres import fibre_angle, thinned
from storage.sources.fundus.spots import grid_of


@cache
def scene_of(patient: int) -> GlaucomaScene:
    return draw_glaucoma_scene(0, patient, 0)


def scenes(count: int) -> list[GlaucomaScene]:
    return [scene_of(patient) for patient in range(count)]


def cases_of(address: str):
    source = open_source(address)
    return [source.read(key) for key in source.listing()]


def same_case(one, other) -> bool:
    return (
        (one.case_id, one.patient_id, one.file, one.sha256, one.labels, list(one.masks))
        == (other.case_id, other.patient_id, other.file, other.sha256, other.labels, list(other.masks))
        and np.array_equal(one.image, other.image)
        and all(np.array_equal(one.masks[name], other.masks[name]) for name in one.masks)
    )


def test_reading_in_any_order_and_thread_gives_the_same_bits():
    source = open_source("sim:glaucoma?cases=10&size=64&seed=3&vessels=1")
    with ThreadPoolExecutor(4) as pool:
        backwards = list(pool.map(source.read, source.listing()[::-1]))[::-1]
    assert all(map(same_case, cases_of(source.address), backwards))


@pytest.mark.parametrize("patients", ["", "&patients=6"])
def test_a_cohort_begins_with_the_shorter_one(patients):
    short, long = (cases_of(f"sim:glaucoma?cases={count}&size=32{patients}") for count in (7, 12))
    assert all(map(same_case, short, long[:7]))


def test_seed_and_size_and_vessels_change_the_digest():
    options = ["", "&seed=1", "&size=65", "&vessels=1"]
    sources = [open_source(f"sim:glaucoma?cases=1{option}") for option in options]
    assert len({source.sha256(source.listing()[0]) for source in sources}) == 4


def test_any_size_shows_the_same_picture():
    for scene in scenes(6):
        small, large = (photograph_glaucoma(scene, size) for size in (64, 128))
        halved = large[0].reshape(3, 64, 2, 64, 2).mean(axis=(2, 4))
        coarse = [image.reshape(3, 16, 4, 16, 4).mean(axis=(2, 4)) for image in (small[0], halved)]
        assert np.abs(coarse[0] - coarse[1]).mean() < 4
        for name in PATHOLOGIES:
            assert small[1][name].mean() == pytest.approx(large[1][name].mean(), rel=0.1, abs=1e-3)


def test_a_patients_eyes_share_id_and_look_face_each_other_and_mostly_agree():
    listing = open_source("sim:glaucoma?cases=40&patients=20").listing()
    assert [key.patient_id for key in listing[:20]] == [key.patient_id for key in listing[20:]]
    assert len({key.case_id for key in listing}) == 40
    agree = []
    for patient in range(40):
        first, second = (draw_glaucoma_scene(0, patient, visit) for visit in (0, 1))
        assert np.array_equal(first.look.skin, second.look.skin)
        assert first.zoom == second.zoom
        assert first.eye.disc[0] * second.eye.disc[0] < 0
        agree.append(first.is_glaucomatous == second.is_glaucomatous)
    assert 0.65 < np.mean(agree) < 0.95


def test_half_of_the_eyes_are_glaucomatous_a_third_of_them_with_each_and_with_both():
    found = [(scene.notch is not None, scene.defect is not None) for scene in scenes(240)]
    shares = {kind: found.count(kind) / 240 for kind in set(found)}
    assert shares[False, False] == pytest.approx(1 / 2, abs=0.1)
    assert [shares[kind] for kind in ((True, False), (False, True), (True, True))] == pytest.approx(
        [1 / 6] * 3, abs=0.06
    )


def test_the_label_is_1_where_a_pathology_has_a_mask():
    for case in cases_of("sim:glaucoma?cases=24&size=48"):
        assert case.labels == {"glaucoma": float(any(mask.any() for mask in case.masks.values()))}
        assert list(case.masks) == list(PATHOLOGIES)
        assert case.image.shape == (3, 48, 48)
        assert case.image.dtype == np.uint8


def test_masks_cover_where_the_disease_changed_the_photograph():
    size, changed_in_masks = 128, []
    for scene in [scene for scene in scenes(24) if scene.is_glaucomatous]:
        (diseased, masks), (before, none) = photograph_glaucoma(scene, size), photograph_glaucoma(healthy(scene), size)
        mask = masks["rim_loss"] | masks["nerve_fibre_defect"]
        changed = np.abs(diseased.astype(int) - before).max(axis=0) > 3
        margin = 4 + int(np.ceil(4 * scene.eye.focus * grid_of(size).scale))  # soft edges, and what the blur spreads
        assert not none["rim_loss"].any()
        assert not none["nerve_fibre_defect"].any()
        assert not (changed & ~binary_dilation(mask, np.ones((3, 3)), margin)).any()
        changed_in_masks.append(changed[mask])
    assert np.concatenate(changed_in_masks).mean() > 0.9


def test_rim_loss_is_one_compact_part_of_the_disc():
    shares = []
    for scene in [scene for scene in scenes(60) if scene.notch]:
        mask = photograph_glaucoma(scene, 128)[1]["rim_loss"]
        assert label(mask, np.ones((3, 3)))[1] == 1
        assert disc_distance(scene.eye, grid_of(128, scene.zoom))[mask].max() < 1.04
        shares.append(mask.mean())
    assert 0.004 < min(shares) < max(shares) < 0.025


def test_a_nerve_fibre_defect_widens_from_the_disc_on():
    shares = []
    for scene in [scene for scene in scenes(60) if scene.defect]:
        grid = grid_of(128, scene.zoom)
        wedge = thinned(scene.defect, scene.eye, grid) > 0.25
        rho = disc_distance(scene.eye, grid)
        widths = [(wedge & (rho > start) & (rho < start + 0.5)).sum() for start in (1.2, 2.2)]
        assert not wedge[rho < 1].any()
        assert widths[0] < widths[1]
        shares.append(photograph_glaucoma(scene, 128)[1]["nerve_fibre_defect"].mean())
    assert 0.01 < min(shares) < max(shares) < 0.1
    assert 0.03 < np.median(shares) < 0.08


def test_fibres_above_and_below_the_fovea_run_towards_each_other():
    scene = scene_of(0)
    at_disc = scene.eye.disc + 1.0 * DISC_RADIUS * np.array([0.0, 1.0])
    grid = grid_of(256)
    angle = fibre_angle(scene.eye, grid)

    def value(place):
        return angle[np.abs(grid.y[:, 0] - place[1]).argmin(), np.abs(grid.x[0] - place[0]).argmin()]

    beside, lower = 0.5 * (scene.eye.disc + scene.eye.fovea), np.array([0.0, 0.15])
    assert value(at_disc) == pytest.approx(np.pi / 2, abs=0.25)
    assert value(beside + lower) > 0 > value(beside - lower)
    assert value(beside + lower) > np.arctan2(0.15, np.linalg.norm(beside - scene.eye.disc)) - 0.2


def test_vessels_are_dark_and_the_other_classes_do_not_depend_on_them():
    with_vessels, without = (cases_of(f"sim:glaucoma?cases=6&size=128{more}") for more in ("&vessels=1", ""))
    for one, other in zip(with_vessels, without, strict=True):
        assert list(one.masks) == [*PATHOLOGIES, "vessels"]
        assert np.array_equal(one.image, other.image)
        assert all(np.array_equal(one.masks[name], other.masks[name]) for name in PATHOLOGIES)
        vessels = one.masks["vessels"]
        beside = binary_dilation(vessels, np.ones((3, 3)), 2) & ~binary_dilation(vessels, np.ones((3, 3)), 1)
        beside &= one.image[0] > 60
        assert one.image[1][vessels].mean() < one.image[1][beside].mean() - 5
        assert 0.07 < vessels.mean() < 0.17


def test_confounders_are_drawn_alike_in_both_classes():
    found = scenes(240)
    is_ill = np.array([scene.is_glaucomatous for scene in found])
    for values in (
        [scene.look.sheen for scene in found],
        [scene.look.exposure for scene in found],
        [scene.look.mottling for scene in found],
        [scene.cup.pallor for scene in found],
        [scene.zoom for scene in found],
        [len(scene.distractors.drusen) for scene in found],
    ):
        assert 0.42 < roc_auc_score(is_ill, values) < 0.58


def test_colours_alone_do_not_tell_the_label():
    cases = cases_of("sim:glaucoma?cases=200&size=32")
    pixels = np.array([case.image.reshape(3, -1) for case in cases], float)
    histograms = [[np.histogram(channel, 8, (0, 256))[0] for channel in case] for case in pixels]
    colours = np.hstack([pixels.mean(axis=2), pixels.std(axis=2), np.reshape(histograms, (len(cases), -1))])
    truth = [case.labels["glaucoma"] for case in cases]
    patients = [case.patient_id for case in cases]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    scores = cross_val_predict(model, colours, truth, groups=patients, cv=GroupKFold(5), method="predict_proba")[:, 1]
    assert roc_auc_score(truth, scores) < 0.65


def test_a_second_ingestion_adds_nothing(tmp_path):
    address = "sim:glaucoma?cases=12&size=32&vessels=1"
    first, second = (ingest(open_source(address), tmp_path / "cohort") for _ in range(2))
    assert (first.added, second.added) == (12, 0)
    cohort = Cohort.open(tmp_path / "cohort")
    assert cohort.lesions == (*PATHOLOGIES, "vessels")
    assert (cohort.table.groupby("patient_id")["split"].nunique() == 1).all()


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("sim:glaucom?cases=3", "no such simulator; there is: sim:fundus, sim:glaucoma, sim:pet, sim:skin_biomarkers"),
        ("sim:glaucoma?grades=3", "'grades' is unknown"),
        ("sim:glaucoma?vessels=2", "vessels='2' is not a whole number from 0 to 1"),
        ("sim:glaucoma?cases=30&patients=10", "10 patients give 10 to 20 cases"),
    ],
)
def test_a_wrong_address_gets_one_clear_line(address, complaint):
    with pytest.raises(SourceError) as caught:
        open_source(address)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
