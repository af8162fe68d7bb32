import numpy as np
import pytest

from models.metrics import EvidenceConfig, best_dice_threshold, case_evidence, localization_metrics
from models.metrics.localization import case_dice


def corner(shape=(8, 8)):
    truth = np.zeros(shape, dtype=bool)
    truth[:2, :2] = True
    return truth


def test_energy_is_the_share_inside_with_negatives_clipped():
    saliency = np.full((8, 8), -5.0)
    saliency[0, 0], saliency[7, 7] = 1.0, 3.0
    assert case_evidence(saliency, corner()).energy == 0.25


def test_a_map_without_energy_counts_as_zero():
    assert case_evidence(np.zeros((8, 8)), corner()).energy == 0
    assert case_evidence(np.full((8, 8), -1.0), corner()).energy == 0


def test_the_share_of_empty_maps_is_of_the_cases_with_lesions():
    healthy = np.zeros((8, 8), dtype=bool)
    maps = [(np.zeros((8, 8)), corner()), (np.ones((8, 8)), corner()), (np.zeros((8, 8)), healthy)]
    report = localization_metrics([case_evidence(*one) for one in maps], list("abc"), resamples=2)
    assert report["empty_share"] == 0.5
    assert report["energy"] == 4 / 64 / 2


def test_energy_is_quantus_relevance_mass_accuracy():
    quantus = pytest.importorskip(
        "quantus", reason="quantus does not import here (it wants torchvision)", exc_type=ImportError
    )
    generator = np.random.default_rng(0)
    maps = np.maximum(generator.standard_normal((4, 1, 16, 16)), 0)
    truth = np.broadcast_to(corner((16, 16)), maps.shape)
    metric = quantus.RelevanceMassAccuracy(normalise=False, abs=False, disable_warnings=True, display_progressbar=False)
    expected = metric(
        model=None, x_batch=maps, y_batch=np.zeros(4), a_batch=maps, s_batch=truth.astype(float), channel_first=True
    )
    ours = [case_evidence(one[0], mask[0]).energy for one, mask in zip(maps, truth, strict=True)]
    assert ours == pytest.approx(np.asarray(expected, dtype=float), rel=1e-6)


def test_the_maximum_points_and_ties_share_the_point():
    saliency = np.zeros((8, 8))
    saliency[1, 1] = 2
    assert case_evidence(saliency, corner()).pointing == 1
    saliency[5, 5] = 2
    assert case_evidence(saliency, corner()).pointing == 0.5
    assert case_evidence(np.ones((8, 8)), corner()).pointing == 0


def test_tolerance_is_a_distance_in_pixels():
    saliency = np.zeros((8, 8))
    saliency[1, 4] = 1  # three pixels right of the lesion's last column
    assert [case_evidence(saliency, corner(), EvidenceConfig(pointing_tolerance=t)).pointing for t in (0, 2.9, 3)] == [
        0,
        0,
        1,
    ]


def test_cases_without_lesions_take_no_part_in_case_means():
    hit = np.zeros((8, 8))
    hit[:2, :2] = 1
    hit[0, 0] = 2
    evidence = [case_evidence(hit, corner()), case_evidence(hit, np.zeros((8, 8), dtype=bool))]
    report = localization_metrics(evidence, ["a", "b"], threshold=0.5, resamples=2)
    assert report["energy"] == report["pointing"] == report["ap_per_image"] == report["dice"] == 1


def test_dice_is_the_mean_over_cases_of_the_map_cut_at_the_threshold():
    generator = np.random.default_rng(1)
    maps, truth = generator.standard_normal((5, 12, 12)).astype(np.float32), generator.random((5, 12, 12)) < 0.2
    evidence = [case_evidence(one, mask) for one, mask in zip(maps, truth, strict=True)]
    for threshold in (-0.5, 0.0, float(maps[0, 0, 0])):
        cut = maps >= np.float32(threshold)
        expected = [2 * (c & t).sum() / (c.sum() + t.sum()) for c, t in zip(cut, truth, strict=True)]
        assert localization_metrics(evidence, list("abcde"), threshold=threshold, resamples=2)["dice"] == pytest.approx(
            np.mean(expected)
        )


def test_the_best_threshold_beats_every_other_value():
    generator = np.random.default_rng(2)
    truth = generator.random((5, 12, 12)) < 0.2
    maps = (generator.standard_normal((5, 12, 12)) + truth).astype(np.float32)
    evidence = [case_evidence(one, mask) for one, mask in zip(maps, truth, strict=True)]

    def dice(threshold):
        return np.mean([case_dice(case, threshold) for case in evidence])

    assert dice(best_dice_threshold(evidence)) == pytest.approx(max(dice(float(value)) for value in np.unique(maps)))
