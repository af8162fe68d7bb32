import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, roc_auc_score

from models.errors import ModelError
from models.metrics import grading_metrics
from models.metrics.scores import label_kind, score_metrics

RNG = np.random.default_rng(0)
GRADE = RNG.integers(0, 5, 60).astype(float)
SCORE = GRADE + RNG.normal(size=60)
PATIENTS = [f"p{number // 2}" for number in range(60)]


@pytest.mark.parametrize(
    ("labels", "kind"),
    [([0, 1, 4], "grade"), ([0, 1, 0], "classes"), ([3, 7], "classes"), ([0, 1.5, 2], "number"), ([2, 2], "number")],
)
def test_a_label_is_known_by_its_values(labels, kind):
    assert label_kind([*labels, np.nan]) == kind


def test_grades_are_measured_as_everywhere_else():
    same = grading_metrics(GRADE, SCORE, PATIENTS, resamples=100)
    assert score_metrics(GRADE, SCORE, PATIENTS, "grade", resamples=100) == same
    kappa = cohen_kappa_score(GRADE, np.rint(SCORE.clip(0, 4)), labels=range(5), weights="quadratic")
    assert same["kappa"] == pytest.approx(kappa)


def test_two_classes_and_numbers_agree_with_scikit_learn():
    label = (GRADE > 2).astype(float)
    assert score_metrics(label, SCORE, PATIENTS, "classes")["auc"] == pytest.approx(roc_auc_score(label, SCORE))
    assert score_metrics(GRADE, SCORE, PATIENTS, "number")["mae"] == pytest.approx(mean_absolute_error(GRADE, SCORE))


def test_of_several_predictions_the_metric_is_the_mean_and_the_interval_that_of_the_mean():
    scores = np.stack([SCORE, GRADE + RNG.normal(size=60)])
    both = score_metrics(GRADE, scores, PATIENTS, "grade")
    alone = [score_metrics(GRADE, score, PATIENTS, "grade") for score in scores]
    assert both["mse"] == pytest.approx(np.mean([one["mse"] for one in alone]))
    assert np.ptp(both["mse_interval"]) < max(np.ptp(one["mse_interval"]) for one in alone)


def test_what_one_class_alone_does_not_define_is_not_a_number():
    metrics = score_metrics([2.0, 2.0], [1.0, 2.0], ["a", "b"], "grade")
    assert metrics["mse"] == 0.5
    assert np.isnan(metrics["auc_referable"])


def test_one_patient_gives_no_interval():
    metrics = score_metrics([1.0, 2.0], [1.0, 3.0], ["a", "a"], "number")
    assert metrics["mse"] == 0.5
    assert np.isnan(metrics["mse_interval"]).all()


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(ModelError, match="not finite"):
        score_metrics([1.0, 2.0], [1.0, np.inf], ["a", "b"], "number")
