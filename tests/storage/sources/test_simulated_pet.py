"""Simulated whole-body PET: what a case is, where its tumour lies, what the scanners do, and what is planted."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from scipy.ndimage import label
from sklearn.metrics import roc_auc_score

from storage.check import check
from storage.cohort import Cohort
from storage.errors import SourceError
from storage.ingestion import ingest
from storage.sources import open_source
from storage.sources.pet import SCANNERS, best_auc, best_c_index, draw_exam, grid_shape, imaged, log_hazard
from storage.sources.pet.anatomy import FIELD_HIGH, FIELD_LOW, body_depth, lung_depth
from storage.sources.pet.exam import axes_of_grid
from storage.sources.pet.outcome import THREE_YEARS, draw_outcome, response_logit
from storage.sources.pet.scanner import Scanner, blurred, scanned
from storage.sources.pet.shapes import Ellipsoid, axes_of, filled, frame_along, smooth_noise
from storage.sources.pet.tumour import Nature, draw_nature, draw_tumour, rendered

SPACING = 8


@cache
def exam_of(number: int):
    return draw_exam(0, number)


@cache
def image_of(number: int):
    return imaged(exam_of(number), SPACING)


@cache
def natures(count: int):
    rng = np.random.default_rng(7)
    return [draw_nature(rng) for _ in range(count)]


def cases_of(address: str):
    source = open_source(address)
    return [source.read(key) for key in source.listing()]


def same_case(one, other) -> bool:
    return (
        (one.case_id, one.patient_id, one.file, one.sha256, one.labels, one.acquisition)
        == (other.case_id, other.patient_id, other.file, other.sha256, other.labels, other.acquisition)
        and np.array_equal(one.image, other.image)
        and np.array_equal(one.masks["tumour"], other.masks["tumour"])
    )


def standard_axes(number: int):
    return exam_of(number).patient.habitus.standard(axes_of_grid(SPACING))


def outshone(number: int) -> float:
    """The share of the tumour's outline, in the view that shows least of it, where something else is hotter."""
    image, mask = image_of(number)
    tumour = np.where(mask, image, 0)
    return max(
        (image.max(axis)[mask.any(axis)] > tumour.max(axis)[mask.any(axis)]).mean()
        for axis in (1, 2)  # from the front, from the side
    )


def test_reading_in_any_order_and_thread_gives_the_same_bits():
    source = open_source("sim:pet?cases=4&spacing=8&seed=3")
    with ThreadPoolExecutor(4) as pool:
        backwards = list(pool.map(source.read, source.listing()[::-1]))[::-1]
    assert all(map(same_case, cases_of(source.address), backwards))


def test_a_cohort_begins_with_the_shorter_one():
    short, long = (cases_of(f"sim:pet?cases={count}&spacing=8") for count in (2, 4))
    assert all(map(same_case, short, long[:2]))


def test_seed_and_spacing_change_the_digest():
    sources = [open_source(f"sim:pet?cases=1{option}") for option in ("", "&seed=1", "&spacing=7")]
    assert len({source.sha256(source.listing()[0]) for source in sources}) == 3


def test_a_case_is_a_volume_in_suv_of_a_patient_of_its_own():
    source = open_source("sim:pet?cases=2&spacing=8")
    cases = [source.read(key) for key in source.listing()]
    assert len({case.patient_id for case in cases}) == 2
    for case in cases:
        assert case.image.shape == (1, *source.grid)
        assert case.image.dtype == np.float32
        assert list(case.labels) == list(source.labels)
        assert list(case.masks) == list(source.lesions) == ["tumour"]
        assert case.image.min() >= 0


@pytest.mark.parametrize("spacing", range(2, 9))
def test_every_grid_holds_the_field_of_view_in_multiples_of_eight(spacing):
    for size, low, high in zip(grid_shape(spacing), FIELD_LOW, FIELD_HIGH, strict=True):
        assert size % 8 == 0
        assert 0 <= size * spacing - (high - low) < 8 * spacing


def test_another_spacing_shows_the_same_patient():
    coarse, fine = (cases_of(f"sim:pet?cases=2&spacing={spacing}") for spacing in (8, 5))
    for one, other in zip(coarse, fine, strict=True):
        assert one.labels == other.labels
        assert one.acquisition == other.acquisition
        millilitres = [
            case.masks["tumour"].sum() * np.prod(case.geometry.grid.spacing_mm) / 1000 for case in (one, other)
        ]
        assert millilitres[0] == pytest.approx(millilitres[1], rel=0.2)
        assert one.image.mean() * one.image.size * 512 == pytest.approx(
            other.image.mean() * other.image.size * 125, rel=0.1
        )


def test_the_affine_says_that_the_head_is_up_and_the_liver_on_the_right():
    number = next(number for number in range(40) if exam_of(number).tumour.centre[0] > 400)
    case = open_source(f"sim:pet?cases={number + 1}&spacing=8")
    case = case.read(case.listing()[number])
    affine = np.array(case.geometry.grid.affine)
    weight = case.image[0].copy()
    place = np.argwhere(weight > 6)[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]
    assert place[:, 2].max() > 700  # the brain
    chest = axes_of_grid(SPACING).z.ravel()
    liver = case.image[0][(chest > 230) & (chest < 300)].mean(axis=(0, 1))
    right = (np.arange(len(liver)) * affine[0, 0] + affine[0, 3]) > 0
    assert liver[right].sum() > 1.1 * liver[~right].sum()


def test_the_mask_is_one_piece_of_the_body():
    for number in range(40):
        mask = image_of(number)[1]
        assert label(mask, np.ones((3, 3, 3)))[1] == 1
        assert body_depth(exam_of(number).patient, standard_axes(number))[mask].min() > 0


def test_half_of_the_tumours_lie_in_a_lung_and_half_along_the_oesophagus():
    share = []
    for number in range(40):
        exam, mask, axes = exam_of(number), image_of(number)[1], standard_axes(number)
        share.append(exam.is_oesophageal)
        if exam.is_oesophageal:
            y, x = exam.patient.oesophagus(axes.z)
            away = np.hypot(axes.y - y, axes.x - x)[mask]
            assert np.median(away) < 25
            assert away.max() < 60
        else:
            depth = np.maximum(lung_depth(exam.patient, 0, axes), lung_depth(exam.patient, 1, axes))[mask]
            assert np.median(depth) > 0
            assert depth.min() > -2 * SPACING
    assert 0.3 < np.mean(share) < 0.7


def test_tumours_of_the_oesophagus_are_longer_than_wide():
    for number in [number for number in range(40) if exam_of(number).is_oesophageal]:
        long, deep, wide = exam_of(number).tumour.radii
        assert long > 1.5 * max(deep, wide)


def test_brain_or_bladder_is_hotter_than_most_tumours():
    assert (
        np.mean([image_of(number)[0].max() > image_of(number)[0][image_of(number)[1]].max() for number in range(40)])
        > 0.9
    )


def test_three_in_ten_tumours_are_necrotic_and_large_ones_more_often():
    necrotic = np.array([nature.necrotic > 0 for nature in natures(4000)])
    is_large = np.array([nature.volume_ml > 30 for nature in natures(4000)])
    assert necrotic.mean() == pytest.approx(0.30, abs=0.03)
    assert necrotic[is_large].mean() > necrotic[~is_large].mean() + 0.1


def test_one_tumour_in_seven_hides_behind_the_heart():
    assert np.mean([exam_of(number).tumour.is_hidden for number in range(400)]) == pytest.approx(0.15, abs=0.05)


def test_a_hidden_tumour_is_outshone_from_the_front_or_from_the_side():
    shares = {
        hidden: [outshone(n) for n in range(60) if exam_of(n).tumour.is_hidden == hidden] for hidden in (True, False)
    }
    assert np.mean(np.array(shares[True]) > 0.5) > 0.7
    assert np.mean(np.array(shares[False]) > 0.5) < 0.15


@pytest.mark.parametrize("necrotic", [0.0, 0.3])
def test_a_tumour_has_the_volume_and_the_histogram_of_its_nature(necrotic):
    nature = Nature(volume_ml=30.0, suv_max=8.0, depth=0.6, necrotic=necrotic, cold=0.3)
    tumour = draw_tumour(np.random.default_rng(1), nature, (0.0, 0.0, 0.0), 1.3)
    line = np.arange(-80, 80, 2.0)
    box, share, suv = rendered(tumour, axes_of(line, line, line), 2.0, lambda axes: np.ones(axes.shape, bool), None)
    assert share.sum() * 8 / 1000 == pytest.approx(30.0, rel=0.01)
    inside = suv[share == 1]
    assert inside.max() == pytest.approx(8.0, rel=0.05)
    assert inside.std() / inside.mean() == pytest.approx(nature.cov, rel=0.12)
    assert share.shape == tuple(part.stop - part.start for part in box)


def test_the_coefficient_of_variation_is_that_of_the_uptake():
    q = ((np.arange(20_000) + 0.5) / 20_000).astype(np.float32)
    for nature in natures(4000)[:20]:
        uptake = nature.uptake(q).astype(np.float64)
        assert nature.cov == pytest.approx(uptake.std() / uptake.mean(), rel=1e-3)
        assert uptake[-1] == pytest.approx(1.0, abs=1e-3)


def test_a_tumour_does_not_grow_where_it_must_not_and_keeps_its_volume():
    nature = Nature(volume_ml=20.0, suv_max=8.0, depth=0.5, necrotic=0.0, cold=0.3)
    tumour = draw_tumour(np.random.default_rng(2), nature, (0.0, 0.0, 0.0), 1.0)
    line = np.arange(-79, 80, 2.0)
    axes = axes_of(line, line, line)
    box, share, _ = rendered(tumour, axes, 2.0, lambda fine: np.broadcast_to(fine.x > -5, fine.shape), None)
    assert share.sum() * 8 / 1000 == pytest.approx(20.0, rel=0.01)
    assert not share[..., axes.cut(box).x.ravel() < -6].any()


def test_radiomics_of_the_true_mask_recovers_what_is_planted():
    found, planted = [], []
    for number in range(60):
        (image, mask), nature = image_of(number), exam_of(number).tumour.nature
        inside = image[mask]
        found.append((np.log(mask.sum()), inside.std() / inside.mean(), np.log(inside.max())))
        planted.append((np.log(nature.volume_ml), nature.cov, np.log(nature.suv_max)))
    correlation = [
        np.corrcoef(one, other)[0, 1] for one, other in zip(np.transpose(found), np.transpose(planted), strict=True)
    ]
    assert correlation[0] > 0.98
    assert min(correlation[1:]) > 0.7


def test_blur_keeps_the_sum_and_has_the_width_asked_for():
    point = np.zeros((41, 41, 41), np.float32)
    point[20, 20, 20] = 1
    for fwhm in (0.8, 3.0):
        image = blurred(point, fwhm)
        assert image.sum() == pytest.approx(1, rel=1e-4)
        variance = ((np.arange(41) - 20) ** 2 * image.sum(axis=(1, 2))).sum()
        assert np.sqrt(variance) * 2.3548 == pytest.approx(fwhm, rel=0.02)


@pytest.mark.parametrize("scanner", SCANNERS)
def test_a_uniform_phantom_has_its_suv_times_the_calibration(scanner):
    image = scanned(np.full((40, 40, 40), 2.0, np.float32), 6.0, scanner, np.random.default_rng(0))
    assert image.mean() == pytest.approx(2.0 * scanner.calibration, rel=0.01)


def test_noise_has_a_variance_in_proportion_to_activity_and_to_one_over_the_voxel():
    unfiltered = Scanner(resolution_mm=5.0, filter_mm=0.0, noise=0.006, calibration=1.0)

    def variance(suv: float, spacing: float) -> float:
        phantom = np.full((40, 40, 40), suv, np.float32)
        return float(scanned(phantom, spacing, unfiltered, np.random.default_rng(1)).var())

    assert variance(8.0, 4.0) / variance(4.0, 4.0) == pytest.approx(2, rel=0.05)
    assert variance(4.0, 4.0) / variance(4.0, 8.0) == pytest.approx(8, rel=0.05)


def test_the_filter_correlates_neighbours():
    image = scanned(np.full((40, 40, 40), 2.0, np.float32), 3.0, SCANNERS[1], np.random.default_rng(2))
    assert np.corrcoef(image[:-1].ravel(), image[1:].ravel())[0, 1] > 0.3


def test_the_scanners_take_turns_and_differ():
    used = [exam_of(number).scanner for number in range(200)]
    assert min(used.count(scanner) for scanner in range(3)) > 40
    phantom = np.full((30, 30, 30), 2.0, np.float32)
    images = [scanned(phantom, 6.0, scanner, np.random.default_rng(0)) for scanner in SCANNERS]
    assert images[0].std() < images[1].std() < images[2].std()


def test_the_planted_auc_is_that_of_drawn_responses():
    rng = np.random.default_rng(11)
    drawn = [(draw_outcome(rng, nature), nature) for nature in natures(4000)]
    response = [outcome.response for outcome, _ in drawn]
    alive = [outcome.survival_3y for outcome, _ in drawn]
    assert best_auc("response", 4000) == pytest.approx(0.80, abs=0.02)
    assert roc_auc_score(response, [response_logit(nature) for _, nature in drawn]) == pytest.approx(
        best_auc("response", 4000), abs=0.03
    )
    assert roc_auc_score(alive, [-log_hazard(nature) for _, nature in drawn]) == pytest.approx(
        best_auc("survival_3y", 4000), abs=0.03
    )
    assert 0.35 < np.mean(response) < 0.65


def test_the_best_auc_counts_pairs_of_patients_by_their_chances():
    """Three patients worked out by hand, as a plain double loop."""
    rng = np.random.default_rng(0)
    logits = sorted(response_logit(draw_nature(rng)) for _ in range(3))
    chance = [1 / (1 + np.exp(-logit)) for logit in logits]
    pairs = [(i, j, chance[i] * (1 - chance[j])) for i in range(3) for j in range(3) if i != j]
    expected = sum(weight for i, j, weight in pairs if i > j) / sum(weight for *_, weight in pairs)
    assert best_auc("response", 3) == pytest.approx(expected)


def test_survival_is_told_until_death_or_the_end_of_follow_up():
    rng = np.random.default_rng(5)
    outcomes = [draw_outcome(rng, nature) for nature in natures(4000)]
    days = np.array([outcome.survival_days for outcome in outcomes])
    death = np.array([outcome.death for outcome in outcomes])
    alive = np.array([outcome.survival_3y for outcome in outcomes])
    assert days[~death].min() >= THREE_YEARS
    assert death[~alive].all()
    assert np.array_equal(alive, days > np.ceil(THREE_YEARS))
    assert 0.55 < death.mean() < 0.75
    assert 0.4 < alive.mean() < 0.6


def test_the_planted_hazard_orders_deaths_better_than_its_strongest_feature():
    assert 0.70 < best_c_index(1500) < 0.78
    rng = np.random.default_rng(0)
    drawn = [draw_nature(rng) for _ in range(1500)]
    rng = np.random.default_rng(0)
    days, death = np.transpose([(o.survival_days, o.death) for o in (draw_outcome(rng, nature) for nature in drawn)])
    volume = np.array([nature.volume_ml for nature in drawn])
    outlived = (death[:, None] > 0) & (days[:, None] < days)
    assert (volume[:, None] > volume)[outlived].mean() < best_c_index(1500) - 0.03


def test_smooth_noise_is_the_same_on_every_grid_and_of_variance_1():
    low, high = (0.0, 0.0, 0.0), (200.0, 200.0, 200.0)
    coarse, fine = np.arange(2, 200, 8.0), np.arange(2, 200, 4.0)
    once, again = (
        smooth_noise(np.random.default_rng(0), axes_of(line, line, line), low, high, 10.0) for line in (coarse, fine)
    )
    assert once == pytest.approx(again[::2, ::2, ::2], abs=1e-4)
    assert again.std() == pytest.approx(1, abs=0.05)


def test_shares_of_voxels_add_up_to_the_volume_of_an_ellipsoid():
    line = np.arange(-50, 51, 5.0)
    axes = axes_of(line, line, line)
    tilted = Ellipsoid((1.0, 2.0, -3.0), (35.0, 20.0, 25.0), frame_along((0.7, 0.5, 0.5)))
    volume = filled(tilted.depth(axes), 5.0).sum() * 125
    assert volume == pytest.approx(4 / 3 * np.pi * 35 * 20 * 25, rel=0.02)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("sim:pet?size=64", "'size' is unknown"),
        ("sim:pet?spacing=1", "spacing='1' is not a whole number from 2 to 8"),
        ("sim:pet?spacing=2.5", "spacing='2.5' is not a whole number"),
        ("sim:pet?cases=0", "cases='0' is not a whole number from 1"),
        ("sim:pet?seed=1&seed=2", "'seed' is given twice"),
        ("sim:spect?cases=3", "no such simulator"),
    ],
)
def test_a_wrong_address_gets_one_clear_line(address, complaint):
    with pytest.raises(SourceError) as caught:
        open_source(address)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_four_patients_are_ingested_and_checked(tmp_path):
    report = ingest(open_source("sim:pet?cases=4&spacing=8"), tmp_path / "cohort")
    cohort = Cohort.open(tmp_path / "cohort")
    assert report.added == 4
    assert check(str(tmp_path / "cohort")).damaged == []
    assert cohort.image(0).shape == (1, *grid_shape(8))
    assert set(cohort.table["oesophagus"]) <= {0.0, 1.0}
    assert "planted_response_logit" in cohort.table["acquisition"].iloc[0]
