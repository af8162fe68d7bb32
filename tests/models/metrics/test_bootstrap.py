import numpy as np
import pytest
from sklearn.metrics import average_precision_score, cohen_kappa_score, roc_auc_score

from models.errors import ModelError
from models.metrics import case_evidence, grading_metrics, localization_metrics, paired_difference
from models.metrics.bootstrap import patient_resamples, percentile_interval
from models.metrics.localization import metric_draws, pooled_ap_draws, pooled_positives, quantile_edges

PATIENTS = ["p2", "p1", "p1", "p3", "p2", "p4"]


def cohort(seed, shape=(6, 16, 16)):
    generator = np.random.default_rng(seed)
    truth = generator.random(shape) < 0.1
    truth[3] = False
    maps = (generator.standard_normal(shape) + generator.random((len(truth), 1, 1)) * 2 * truth).astype(np.float32)
    return maps, truth


def evidence_of(maps, truth):
    return [case_evidence(one, mask) for one, mask in zip(maps, truth, strict=True)]


def copies(patients, weights, resampled):
    """Case indices of one resample, each as often as its patient was drawn."""
    return [case for case in range(len(patients)) for _ in range(int(weights[resampled.rows[case]]))]


def test_draws_equal_a_loop_that_repeats_the_drawn_cases():
    maps, truth = cohort(0)
    evidence = evidence_of(maps, truth)
    resampled = patient_resamples(PATIENTS, 40, seed=5)
    draws = metric_draws(evidence, resampled, threshold=0.5)
    for row, weights in enumerate(resampled.weights):
        chosen = copies(PATIENTS, weights, resampled)
        if not truth[chosen].any():
            assert np.isnan(draws["ap_pooled"][row])
            continue
        expected = average_precision_score(truth[chosen].ravel(), maps[chosen].ravel())
        assert draws["ap_pooled"][row] == pytest.approx(expected, abs=1e-9)
        alone = localization_metrics([evidence[i] for i in chosen], ["x"] * len(chosen), threshold=0.5, resamples=2)
        for key, drawn in draws.items():
            assert drawn[row] == pytest.approx(alone[key], abs=1e-9)


def test_the_interval_is_the_percentiles_of_the_loop():
    maps, truth = cohort(1)
    report = localization_metrics(evidence_of(maps, truth), PATIENTS, resamples=200, seed=9)
    resampled = patient_resamples(PATIENTS, 200, seed=9)
    loop = []
    for weights in resampled.weights[1:]:
        chosen = copies(PATIENTS, weights, resampled)
        if truth[chosen].any():
            loop.append(average_precision_score(truth[chosen].ravel(), maps[chosen].ravel()))
    assert report["ap_pooled_interval"] == pytest.approx(np.percentile(loop, [2.5, 97.5]), abs=1e-9)


def test_binned_resamples_stay_within_three_in_ten_thousand():
    generator = np.random.default_rng(2)
    truth = generator.random((12, 96, 96)) < 0.12
    maps = (generator.standard_normal(truth.shape) * np.exp(generator.standard_normal(truth.shape)) + truth).astype(
        np.float32
    )
    pairs = [(case.positives, case.negatives) for case in evidence_of(maps, truth)]
    keys, counts = pooled_positives(pairs)
    assert quantile_edges(keys, counts).size < keys.size / 2
    resampled = patient_resamples([str(i) for i in range(12)], 8, seed=0)
    draws = pooled_ap_draws(pairs, resampled)
    for weights, drawn in zip(resampled.weights, draws, strict=True):
        chosen = copies(range(12), weights, resampled)
        assert drawn == pytest.approx(average_precision_score(truth[chosen].ravel(), maps[chosen].ravel()), abs=3e-4)


def test_patients_are_drawn_whole_and_the_seed_decides():
    resampled = patient_resamples(PATIENTS, 50, seed=3)
    assert resampled.weights.shape == (51, 4)
    assert (resampled.weights.sum(axis=1) == 4).all()
    assert (resampled.weights[0] == 1).all()
    assert np.array_equal(patient_resamples(PATIENTS, 50, seed=3).weights, resampled.weights)
    assert not np.array_equal(patient_resamples(PATIENTS, 50, seed=4).weights, resampled.weights)


def test_a_method_differs_from_itself_by_nothing():
    maps, truth = cohort(3)
    evidence = evidence_of(maps, truth)
    report = paired_difference(evidence, evidence, PATIENTS, thresholds=(0.5, 0.5), resamples=50)
    assert all(value == ([0.0, 0.0] if key.endswith("_interval") else 0.0) for key, value in report.items())


def test_the_paired_interval_is_narrower_than_the_unpaired_ones():
    maps, truth = cohort(4, (30, 16, 16))
    patients = [str(i) for i in range(30)]
    a, b = evidence_of(maps, truth), evidence_of(maps + 0.2 * truth, truth)
    paired = paired_difference(b, a, patients, resamples=200)
    low, high = paired["ap_pooled_interval"]
    assert 0 < low < paired["ap_pooled"] < high
    single_low, single_high = localization_metrics(a, patients, resamples=200)["ap_pooled_interval"]
    assert high - low < single_high - single_low


def test_undefined_resamples_are_left_out_until_they_are_the_majority():
    assert percentile_interval(np.array([1.0, 1.0, np.nan])) == [1.0, 1.0]
    assert np.isnan(percentile_interval(np.array([1.0, np.nan, np.nan]))).all()


def test_without_any_lesion_every_metric_is_nan():
    healthy = evidence_of(np.random.default_rng(0).random((3, 8, 8)), np.zeros((3, 8, 8), dtype=bool))
    report = localization_metrics(healthy, list("abc"), threshold=0.5, resamples=10)
    assert all(np.isnan(value).all() for value in report.values())


def test_wrong_input_is_one_clear_line():
    maps, truth = cohort(0)
    evidence = evidence_of(maps, truth)
    with pytest.raises(ModelError, match="6 cases come with 1 patients"):
        localization_metrics(evidence, ["a"])
    with pytest.raises(ModelError, match="no case to evaluate"):
        localization_metrics([], [])
    with pytest.raises(ModelError, match="different lesions"):
        paired_difference(evidence, evidence[::-1], PATIENTS)
    with pytest.raises(ModelError, match="must match"):
        case_evidence(maps[0], truth[0, :8])
    with pytest.raises(ModelError, match="not finite"):
        case_evidence(np.full((4, 4), np.nan), np.zeros((4, 4), dtype=bool))
    with pytest.raises(ModelError, match="is no grade"):
        grading_metrics([0, 5], [0.0, 1.0], ["a", "b"])


def grades(seed, count=80):
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 5, count)
    score = np.round(label + generator.normal(0, 1.2, count), 1)  # one decimal: ties, and values beyond 0–4
    return label, score, [f"p{i // 2}" for i in range(count)]


def test_grading_is_scikit_learns():
    label, score, patients = grades(0)
    report = grading_metrics(label, score, patients, resamples=2)
    rounded = np.rint(np.clip(score, 0, 4)).astype(int)
    assert report["mse"] == pytest.approx(np.mean((label - score) ** 2))
    assert report["kappa"] == pytest.approx(cohen_kappa_score(label, rounded, weights="quadratic", labels=range(5)))
    assert report["auc_referable"] == pytest.approx(roc_auc_score(label > 1, score))


def test_grading_intervals_are_those_of_a_loop():
    label, score, patients = grades(1)
    report = grading_metrics(label, score, patients, resamples=100, seed=7)
    resampled = patient_resamples(patients, 100, seed=7)
    kappa, auc = [], []
    for weights in resampled.weights[1:]:
        chosen = copies(patients, weights, resampled)
        rounded = np.rint(np.clip(score[chosen], 0, 4)).astype(int)
        kappa.append(cohen_kappa_score(label[chosen], rounded, weights="quadratic", labels=range(5)))
        auc.append(roc_auc_score(label[chosen] > 1, score[chosen]))
    assert report["kappa_interval"] == pytest.approx(np.percentile(kappa, [2.5, 97.5]))
    assert report["auc_referable_interval"] == pytest.approx(np.percentile(auc, [2.5, 97.5]))


def test_cases_without_a_label_take_no_part():
    label, score, patients = grades(2)
    holes = label.astype(float)
    holes[::4] = np.nan
    kept = ~np.isnan(holes)
    assert grading_metrics(holes, score, patients) == grading_metrics(
        label[kept], score[kept], [name for name, keep in zip(patients, kept, strict=True) if keep]
    )


def test_kappa_and_auc_are_undefined_where_one_class_is_all_there_is():
    report = grading_metrics([1, 1, 1], [1.0, 1.1, 0.9], ["a", "b", "c"], resamples=10)
    assert np.isnan(report["kappa"])
    assert np.isnan(report["auc_referable"])
    assert report["mse"] == pytest.approx(0.02 / 3)
