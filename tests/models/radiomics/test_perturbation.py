import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from models.metrics.reliability import intraclass_correlation
from models.radiomics import RadiomicsConfig, StabilityConfig, VolumeRadiomicsConfig, columns, perturbed_lesions
from models.radiomics.perturbation import (
    Perturbation,
    distance_to_surface,
    drawn_perturbations,
    noise_level,
    perturbed,
    randomised_contour,
)

pytestmark = pytest.mark.filterwarnings("error")

STILL = Perturbation(0.0, (0.0, 0.0, 0.0), 0.0, 0.0, False)
MM = (1.0, 1.0, 1.0)
SMALL = VolumeRadiomicsConfig(families=("morphology", "intensity_statistics"))


def ball(radius=6.0, side=24, spacing=MM):
    grid = np.stack(np.meshgrid(*[(np.arange(side) - side // 2) * step for step in spacing], indexing="ij"))
    return (grid**2).sum(axis=0) <= radius**2


def drawn(seed=0):
    return np.random.default_rng(seed)


def textured(seed=0, shape=(24, 24, 24)):
    return ndimage.gaussian_filter(drawn(seed).normal(100, 20, shape), 1)


def test_a_chain_that_does_nothing_changes_nothing():
    image, inside = textured(), ball()
    moved, mask = perturbed((image, inside), MM, STILL, drawn())
    assert moved == pytest.approx(image)
    assert (mask == inside).all()


def test_the_surface_lies_midway_between_voxels():
    inside = np.zeros((1, 1, 6), dtype=bool)
    inside[..., :3] = True
    assert distance_to_surface(inside, (1.0, 1.0, 2.0)).ravel().tolist() == [-5, -3, -1, 1, 3, 5]


@pytest.mark.parametrize(("growth", "length"), [(0.0, 3), (0.9, 3), (1.1, 4), (3.1, 5), (-0.9, 3), (-1.1, 2)])
def test_growth_moves_the_contour_by_so_many_millimetres(growth, length):
    inside = np.zeros((1, 1, 8), dtype=bool)
    inside[..., :3] = True
    chain = STILL._replace(growth_mm=growth)
    _, mask = perturbed((np.zeros(inside.shape), inside), (1.0, 1.0, 2.0), chain, drawn())
    assert mask.ravel().tolist() == [n < length for n in range(8)]


def test_a_ball_grows_and_shrinks_to_the_ball_of_the_new_radius():
    for growth in (-2.0, 1.5):
        chain = STILL._replace(growth_mm=growth)
        _, mask = perturbed((np.zeros((24,) * 3), ball(7.0)), MM, chain, drawn())
        assert mask.sum() == pytest.approx(4 / 3 * np.pi * (7 + growth) ** 3, rel=0.12)


def test_a_region_that_would_vanish_keeps_its_core():
    _, mask = perturbed((np.zeros((24,) * 3), ball(4.0)), MM, STILL._replace(growth_mm=-20.0), drawn())
    assert mask[12, 12, 12]
    assert mask.sum() <= 7


def test_image_and_mask_turn_and_shift_together():
    inside = np.zeros((3, 40, 40), dtype=bool)
    inside[1, 12:28, 18:22] = True  # a bar along y, about (19.5, 19.5)
    chain = STILL._replace(rotation_degrees=90.0, shift=(0.0, 2.0, 0.0))
    moved, mask = perturbed((inside * 5.0, inside), MM, chain, drawn())
    expected = np.zeros_like(inside)
    expected[1, 20:24, 12:28] = True
    assert (mask == expected).all()
    assert moved == pytest.approx(expected * 5.0, abs=1e-9)


def test_a_turn_keeps_lengths_in_millimetres_where_pixels_are_not_square():
    spacing = (1.0, 2.0, 0.5)
    inside = np.zeros((1, 40, 160), dtype=bool)
    inside[0, 10:30, 78:82] = True  # 40 mm by 2 mm
    _, mask = perturbed((np.zeros(inside.shape), inside), spacing, STILL._replace(rotation_degrees=90.0), drawn())
    _, y, x = np.nonzero(mask)
    assert (np.ptp(y) + 1) * 2.0 == pytest.approx(2.0, abs=2)
    assert (np.ptp(x) + 1) * 0.5 == pytest.approx(40.0, abs=2)


def test_the_noise_of_an_image_is_found_beneath_its_structure():
    slope = np.broadcast_to(np.arange(64.0) * 3, (4, 64, 64))
    assert noise_level(slope + drawn().normal(0, 5, slope.shape)) == pytest.approx(5, rel=0.03)
    assert noise_level(np.ones((3, 1, 5))) == 0


def test_noise_is_added_at_the_level_that_is_there():
    image = drawn(3).normal(0, 5, (8, 64, 64))
    moved, _ = perturbed((image, image > -99), MM, STILL._replace(noise=2.0), drawn())
    assert (moved - image).std() == pytest.approx(10, rel=0.05)


def test_a_contour_that_follows_the_image_stays_and_one_that_does_not_varies():
    inside = ball(8.0, 28)
    sharp = np.where(inside, 100.0, 0.0)
    flat = drawn().normal(0, 1, inside.shape)

    def overlap(image, seed):
        redrawn = randomised_contour(image, inside, MM, drawn(seed))
        return 2 * (redrawn & inside).sum() / (redrawn.sum() + inside.sum())

    assert min(overlap(sharp, seed) for seed in range(3)) > 0.99
    assert 0.7 < max(overlap(flat, seed) for seed in range(3)) < 0.99


def test_equal_seeds_draw_equal_chains_and_a_flat_image_stays_in_its_plane():
    config = StabilityConfig(perturbations=5, seed=3)
    chains = drawn_perturbations(config, is_slice=True)
    assert chains == drawn_perturbations(config, is_slice=True)
    assert {chain.shift[0] for chain in chains} == {0.0}
    assert len({chain.rotation_degrees for chain in chains}) == 5
    assert all(abs(chain.growth_mm) <= 1 for chain in chains)


def test_every_wanted_lesion_is_measured_under_every_chain():
    masks = np.zeros((1, 24, 24, 24), dtype=bool)
    masks[0, 4:9, 4:9, 4:10] = masks[0, 14:20, 14:20, 14:19] = masks[0, 2, 2, 20] = True
    config = StabilityConfig(perturbations=3)
    rows = perturbed_lesions(textured()[None], masks, MM, [1, 3], SMALL, config, seed=1)
    assert [(row["lesion"], row["perturbation"]) for row in rows] == [(n, k) for n in (1, 3) for k in range(3)]
    assert all(tuple(row)[2:] == columns(SMALL) for row in rows)
    again = perturbed_lesions(textured()[None], masks, MM, [1, 3], SMALL, config, seed=1)
    assert pd.DataFrame(rows).equals(pd.DataFrame(again))
    assert len({row["stat_mean"] for row in rows}) == 6


def test_lesions_of_a_photograph_without_spacing_are_perturbed_in_pixels():
    photograph = drawn().integers(0, 256, (3, 60, 60), dtype=np.uint8)
    masks = np.zeros((1, 60, 60), dtype=bool)
    masks[0, 20:32, 25:40] = True
    config = RadiomicsConfig(families=("intensity_statistics", "planar"))
    rows = perturbed_lesions(photograph, masks, (np.nan, np.nan), [1], config, StabilityConfig(), seed=1)
    assert len(rows) == 8
    assert np.isfinite([list(row.values()) for row in rows]).all()


def test_volume_is_more_stable_than_skewness():
    rows = []
    for case in range(6):
        masks = ball(5.0 + case, 36)[None]
        part = (textured(case, (36,) * 3)[None], masks, MM, [1])
        rows.append(perturbed_lesions(*part, SMALL, StabilityConfig(perturbations=4), seed=case))
    icc = {
        name: intraclass_correlation([[row[name] for row in lesion] for lesion in rows]).icc
        for name in ("morph_volume", "stat_skew")
    }
    assert icc["morph_volume"] > 0.9 > icc["stat_skew"]
