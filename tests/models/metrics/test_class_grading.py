"""What is measured of a score where the labels are two classes."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

from models.metrics import grading_metrics
from models.metrics.bootstrap import patient_resamples


def scored(seed: int, count: int = 80):
    """Grades 0 to 4, a logit with ties that rises with them, and patients of two cases each."""
    generator = np.random.default_rng(seed)
    grade = generator.integers(0, 5, count)
    return grade, np.round(grade - 1.5 + generator.normal(0, 1.5, count), 1), [f"p{i // 2}" for i in range(count)]


def by_scikit_learn(positive: np.ndarray, score: np.ndarray, threshold: float) -> dict[str, float]:
    told = score > threshold
    return {
        "auc": roc_auc_score(positive, score),
        "accuracy": accuracy_score(positive, told),
        "sensitivity": recall_score(positive, told),
        "specificity": recall_score(~positive, ~told),
    }


@pytest.mark.parametrize(("abnormal_from", "threshold"), [(1, 0.0), (2, 0.0), (2, 0.7)])
def test_a_classifier_s_metrics_are_scikit_learn_s(abnormal_from: float, threshold: float):
    grade, score, patients = scored(0)
    report = grading_metrics(grade, score, patients, abnormal_from=abnormal_from, threshold=threshold, resamples=2)
    expected = by_scikit_learn(grade >= abnormal_from, score, threshold)
    assert {key: report[key] for key in report if not key.endswith("_interval")} == pytest.approx(expected)


def test_their_intervals_are_those_of_a_loop_over_drawn_patients():
    grade, score, patients = scored(1)
    report = grading_metrics(grade, score, patients, abnormal_from=1, resamples=100, seed=3)
    resampled, drawn = patient_resamples(patients, 100, seed=3), []
    for weights in resampled.weights[1:].astype(int):
        chosen = np.repeat(np.arange(len(grade)), weights[resampled.rows])
        drawn.append(by_scikit_learn(grade[chosen] >= 1, score[chosen], 0.0))
    for key in ("auc", "accuracy", "sensitivity", "specificity"):
        expected = np.percentile([one[key] for one in drawn], [2.5, 97.5])
        assert report[f"{key}_interval"] == pytest.approx(expected)


def test_the_threshold_itself_is_no_alarm():
    report = grading_metrics([0, 1], [0.0, 0.0], ["a", "b"], abnormal_from=1, resamples=0)
    assert (report["specificity"], report["sensitivity"], report["auc"]) == (1.0, 0.0, 0.5)


def test_of_normal_and_abnormal_a_score_of_unknown_scale_has_its_auc_alone():
    grade, score, patients = scored(2)
    label = (grade > 1).astype(float)
    report = grading_metrics(label, score, patients, resamples=2)
    assert report.keys() == {"auc", "auc_interval"}
    assert report["auc"] == pytest.approx(roc_auc_score(label, score))


def test_what_needs_the_missing_class_is_not_a_number():
    report = grading_metrics([1, 1, 1], [1.0, -1.0, 2.0], ["a", "b", "c"], abnormal_from=1, resamples=10)
    assert np.isnan([report["auc"], report["specificity"]]).all()
    assert report["accuracy"] == report["sensitivity"] == pytest.approx(2 / 3)


def test_a_classifier_s_labels_need_be_no_grades():
    report = grading_metrics([-3.5, 7.0], [-1.0, 1.0], ["a", "b"], abnormal_from=0, resamples=0)
    assert report["accuracy"] == 1.0
