import numpy as np
import pytest
from picai_eval.eval import evaluate_case
from picai_eval.metrics import Metrics

from models.metrics import EvidenceConfig, case_evidence, froc_curve, localization_metrics
from models.metrics.froc import candidate_mask, components, smoothed

QUARTER = EvidenceConfig(froc_quantile=0.75, froc_sigma=0)


def blank(*shape):
    return np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=bool)


def froc_of(evidence):
    return localization_metrics(evidence, [str(i) for i in range(len(evidence))], resamples=2)


def test_froc_reaches_one_when_every_lesion_is_found_and_nothing_else():
    saliency, truth = blank(16, 16)
    for corner in ((1, 1), (6, 9), (12, 3)):
        truth[corner[0] : corner[0] + 2, corner[1] : corner[1] + 2] = True
    saliency[truth] = np.arange(1, truth.sum() + 1)
    report = froc_of([case_evidence(saliency, truth, QUARTER)])
    assert report["froc_mean"] == 1.0
    assert report["sensitivity_at_10fp"] == 1.0


def test_froc_of_a_case_worked_by_hand():
    # scores: lesion 4, false 3, false 2, lesion 1, and a lesion that nothing touches; 2 images
    saliency, truth = blank(9, 9)
    saliency[0, 0], saliency[0, 4], saliency[0, 8], saliency[4, 0] = 4, 3, 2, 1
    truth[0, 0] = truth[4, 0] = truth[8, 8] = True
    evidence = [case_evidence(saliency, truth, QUARTER), case_evidence(*blank(9, 9), QUARTER)]
    curve = froc_curve(evidence)
    assert curve.threshold.tolist() == [np.inf, 4, 3, 2, 1]
    assert curve.false_positives_per_image.tolist() == [0, 0, 0.5, 1, 1]
    assert curve.sensitivity == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 2 / 3])
    assert froc_of(evidence)["froc_mean"] == pytest.approx((3 * 1 / 3 + 4 * 2 / 3) / 7)


def test_more_hits_on_a_lesion_are_neither_found_twice_nor_false():
    saliency, truth = blank(9, 9)
    truth[0, :] = True
    saliency[0, 0], saliency[0, 4], saliency[0, 8] = 3, 2, 1
    found = case_evidence(saliency, truth, QUARTER).detections
    assert found.lesions.tolist() == [3]
    assert found.false_positives.size == 0


def test_a_candidate_that_touches_two_lesions_finds_both():
    saliency, truth = blank(9, 9)
    saliency[4, :] = np.arange(1, 10)
    truth[4, 0] = truth[4, 8] = True
    assert case_evidence(saliency, truth, QUARTER).detections.lesions.tolist() == [9, 9]


def test_corners_connect():
    saliency, truth = blank(9, 9)
    saliency[0, 0], saliency[1, 1] = 2, 1
    truth[1, 1] = True
    found = case_evidence(saliency, truth, QUARTER).detections
    assert found.lesions.tolist() == [2]
    assert found.false_positives.size == 0


@pytest.mark.parametrize("level", [0.0, 0.7, -1.0])
def test_a_constant_map_proposes_nothing(level):
    saliency, truth = blank(9, 9)
    truth[4, 4] = True
    found = case_evidence(saliency + level, truth).detections
    assert found.false_positives.size == 0
    assert found.lesions.tolist() == [-np.inf]


def test_every_map_proposes_the_same_area_whatever_its_scale():
    generator = np.random.default_rng(0)
    saliency = generator.standard_normal((64, 64)).astype(np.float32)
    for one in (saliency, 1e-6 * saliency - 3e-6, np.exp(3 * saliency)):
        assert candidate_mask(one.astype(np.float32), 0.95).sum() == pytest.approx(0.05 * 64 * 64, abs=2)


def test_images_without_lesions_count_in_the_denominator():
    saliency, truth = blank(9, 9)
    saliency[0, 0], saliency[4, 4] = 2, 1
    truth[4, 4] = True
    alone = case_evidence(saliency, truth, QUARTER)
    healthy = case_evidence(*blank(9, 9), QUARTER)
    assert froc_of([alone])["froc_mean"] == pytest.approx(4 / 7)  # found from 1 false positive an image on
    assert froc_of([alone] + [healthy] * 3)["froc_mean"] == pytest.approx(6 / 7)  # from 1/4 on


def detection_map(saliency, config):
    """The candidates as picai_eval wants them: each component filled with its score."""
    scores = smoothed(saliency, config.froc_sigma)
    labels, count = components(candidate_mask(scores, config.froc_quantile))
    filled = np.zeros(saliency.shape, dtype=np.float32)
    for candidate in range(1, count + 1):
        filled[labels == candidate] = scores[labels == candidate].max()
    return filled


def separate_lesions(generator, shape):
    """Lesions far wider apart than a candidate: none touches two, so picai's one-to-one matching is ours."""
    truth = np.zeros(shape, dtype=bool)
    for y in range(8, shape[-2], 24):
        for x in range(8, shape[-1], 24):
            if generator.random() < 0.7:
                truth[..., y : y + 3, x : x + 3] = True
    return truth


@pytest.mark.parametrize(("shape", "boost"), [((72, 72), 1.5), ((3, 48, 48), 0.5)])
def test_froc_is_picai_evals_under_equal_conventions(shape, boost):
    generator = np.random.default_rng(3)
    config = EvidenceConfig(froc_quantile=0.97, froc_sigma=0.7)
    evidence, results = [], {}
    for case in range(12):
        truth = separate_lesions(generator, shape) if case % 3 else np.zeros(shape, dtype=bool)
        saliency = np.exp(generator.standard_normal(shape) + boost * truth).astype(np.float32)
        evidence.append(case_evidence(saliency, truth, config))
        filled = detection_map(saliency, config)

        def overlap(candidate, lesion, filled=filled):
            # picai matches the candidate of the largest "overlap": any touch counts, the better score wins
            touched = candidate & lesion
            return float(filled[touched].max()) if touched.any() else 0.0

        volume = (1,) * (3 - len(shape)) + shape
        filled = filled.reshape(volume)
        lesions, *_ = evaluate_case(
            filled, truth.reshape(volume), min_overlap=1e-6, overlap_func=lambda c, t, f=filled: overlap(c, t, f)
        )
        results[case] = lesions
    picai = Metrics(lesion_results=results)
    scores = [score for case in results.values() for lesion, score, _ in case if lesion]
    assert 0 in scores, "without a missed lesion picai drops the lowest threshold"
    report = froc_of(evidence)
    expected = [picai.lesion_TPR_at_FPR(rate) for rate in (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)]
    assert 0 < report["froc_mean"] < 1
    assert report["froc_mean"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert report["sensitivity_at_10fp"] == pytest.approx(picai.lesion_TPR_at_FPR(10), abs=1e-6)
    curve = froc_curve(evidence)
    assert curve.sensitivity[1:] == pytest.approx(picai.lesion_TPR[:-1], abs=1e-6)
    assert curve.false_positives_per_image[1:] == pytest.approx(picai.lesion_FPR[:-1], rel=1e-6)
