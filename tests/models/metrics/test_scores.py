import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, roc_auc_score

from models.errors import ModelError
from models.metrics import grading_metrics
from models.metrics.scores import label_kind, paired_score_difference, score_metrics

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


def metrics_by_hand(label: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """What scikit-learn says of a grade."""
    rounded = np.rint(score.clip(0, 4))
    return {
        "mse": float(((label - score) ** 2).mean()),
        "kappa": cohen_kappa_score(label, rounded, labels=range(5), weights="quadratic"),
        "auc_referable": roc_auc_score(label > 1, score),
    }


def test_paired_difference_and_its_interval_are_those_of_a_plain_loop_over_drawn_patients():
    better, seed, resamples = GRADE + 0.3 * RNG.normal(size=60), 4, 200
    found = paired_score_difference(GRADE, better, SCORE, PATIENTS, "grade", resamples=resamples, seed=seed)
    names = np.unique(PATIENTS)
    times = np.random.default_rng(seed).multinomial(names.size, np.full(names.size, 1 / names.size), size=resamples)
    drawn = []
    for row in times:
        cases = np.repeat(np.arange(60), row[np.searchsorted(names, PATIENTS)])
        a, b = (metrics_by_hand(GRADE[cases], score[cases]) for score in (better, SCORE))
        drawn.append({key: a[key] - b[key] for key in a})
    whole_a, whole_b = metrics_by_hand(GRADE, better), metrics_by_hand(GRADE, SCORE)
    for key in ("mse", "kappa", "auc_referable"):
        assert found[key] == pytest.approx(whole_a[key] - whole_b[key])
        loop = np.percentile([one[key] for one in drawn], [2.5, 97.5])
        assert found[f"{key}_interval"] == pytest.approx(loop)


@pytest.mark.parametrize("kind", ["grade", "number"])
def test_scores_do_not_differ_from_themselves_and_a_difference_turns_with_its_sides(kind):
    same = paired_score_difference(GRADE, SCORE, SCORE, PATIENTS, kind)
    assert set(np.ravel(list(same.values())[1::2])) == {0.0}
    one, other = (paired_score_difference(GRADE, *pair, PATIENTS, kind) for pair in ((SCORE, GRADE), (GRADE, SCORE)))
    assert one["mse"] == -other["mse"]
    assert one["mse_interval"] == pytest.approx([-bound for bound in reversed(other["mse_interval"])])


def test_paired_difference_of_classes_is_that_of_their_auc():
    label = (GRADE > 2).astype(float)
    found = paired_score_difference(label, GRADE, SCORE, PATIENTS, "classes")
    assert found["auc"] == pytest.approx(1 - roc_auc_score(label, SCORE))


def test_paired_difference_of_one_patient_has_no_interval():
    found = paired_score_difference([1.0, 2.0], [1.0, 3.0], [1.0, 2.0], ["a", "a"], "number")
    assert found["mse"] == 0.5
    assert np.isnan(found["mse_interval"]).all()


@pytest.mark.parametrize(("scores", "complaint"), [([1.0], "2 labels, 1 and 2 scores"), ([1.0, np.nan], "not finite")])
def test_scores_that_cannot_be_compared_are_refused(scores, complaint):
    with pytest.raises(ModelError, match=complaint):
        paired_score_difference([1.0, 2.0], scores, [1.0, 2.0], ["a", "b"], "number")
