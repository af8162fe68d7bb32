"""The rule alone, from figures, and how often it errs."""

import math
from typing import Any

import numpy as np
import pytest

from models.config import validated
from models.errors import ModelError
from models.metrics.scores import paired_score_difference
from tasks.promotion.gate import Gate, Verdict, gains, gate_metric, judge

AP = "ap_pooled"


def figures(**of: tuple[float, float, float]) -> dict[str, Any]:
    """`ap_pooled=(value, low, high)` as metrics have it."""
    return {
        key: part
        for name, (value, *ends) in of.items()
        for key, part in {name: value, f"{name}_interval": ends}.items()
    }


def verdict(gate: Gate | None = None, cases: int = 50, patients: int = 50, **differences: tuple[float, float, float]):
    found = figures(**differences)
    present = figures(**dict.fromkeys((AP, *differences), (0.5, 0.4, 0.6)))
    return judge(gate or Gate(), found, present, present, cases, patients)


def test_better_model_is_promoted():
    assert verdict(ap_pooled=(0.05, 0.01, 0.09)).promoted


def test_identical_model_is_refused():
    assert not verdict(ap_pooled=(0.0, 0.0, 0.0)).promoted


@pytest.mark.parametrize("interval", [(-0.05, -0.09, -0.01), (0.01, -0.02, 0.04), (0.05, 0.0, 0.1)])
def test_model_that_is_worse_or_perhaps_no_better_is_refused(interval):
    judged = verdict(ap_pooled=interval)
    assert not judged.promoted
    assert "is not above 0 for sure" in judged.reason


def test_gain_has_to_exceed_the_margin():
    assert not verdict(Gate(margin=0.02), ap_pooled=(0.05, 0.01, 0.09)).promoted
    assert verdict(Gate(margin=0.02), ap_pooled=(0.05, 0.021, 0.09)).promoted


def test_guard_that_may_have_fallen_refuses():
    gate = Gate(guards={"kappa": 0.02})
    better = (0.05, 0.01, 0.09)
    assert verdict(gate, ap_pooled=better, kappa=(0.0, -0.02, 0.02)).promoted
    fallen = verdict(gate, ap_pooled=better, kappa=(0.0, -0.021, 0.02))
    assert not fallen.promoted
    assert fallen.reason.startswith("kappa may have fallen by more than 0.02")


def test_guard_that_the_cases_do_not_have_refuses():
    assert "no interval of kappa" in verdict(Gate(guards={"kappa": 0.02}), ap_pooled=(0.05, 0.01, 0.09)).reason


@pytest.mark.parametrize(("cases", "patients"), [(19, 19), (40, 19)])
def test_too_few_cases_or_patients_refuse(cases: int, patients: int):
    judged = verdict(cases=cases, patients=patients, ap_pooled=(0.5, 0.4, 0.6))
    assert not judged.promoted
    assert f"{cases} frozen cases of {patients} patients" in judged.reason


@pytest.mark.parametrize("low", [math.nan, None])
def test_interval_that_is_no_number_refuses(low):
    judged = verdict(ap_pooled=(0.05, low, 0.09))
    assert not judged.promoted
    assert judged.reason == "the frozen cases give no interval of ap_pooled"


def test_metric_that_the_cases_do_not_have_refuses():
    assert not verdict(Gate(metric="auc"), ap_pooled=(0.05, 0.01, 0.09)).promoted


def test_first_model_is_installed_however_few_cases_there_are():
    judged = judge(Gate(), {}, None, figures(ap_pooled=(0.3, 0.2, 0.4)), 2, 2)
    assert judged.promoted
    assert judged.reason == "there was no champion"
    assert (judged.challenger, judged.champion, judged.gain) == (0.3, None, None)


def test_verdict_says_its_rule_and_survives_json():
    judged = verdict(Gate(guards={"kappa": 0.02}, min_cases=30), ap_pooled=(0.05, 0.01, 0.09), kappa=(0.1, 0.0, 0.2))
    assert judged.rule == (
        "the lower 95 % bound of the gain in ap_pooled is above 0 on at least 30 frozen cases of 20 patients, "
        "and kappa falls by no more than 0.02"
    )
    assert Verdict.model_validate_json(judged.model_dump_json()) == judged


@pytest.mark.parametrize(
    ("known", "metric"),
    [
        (("mse", "kappa", "auc_referable", AP), AP),
        (("mse", "kappa", "auc_referable"), "auc_referable"),
        (("auc",), "auc"),
        (("mse", "mae"), "mse"),
    ],
)
def test_metric_is_chosen_by_what_the_cases_have(known, metric):
    assert gate_metric(Gate(), dict.fromkeys(known, 0.5)) == metric


def test_error_that_falls_is_a_gain():
    turned = gains(figures(mse=(-0.2, -0.3, -0.1), kappa=(-0.2, -0.3, -0.1)))
    assert turned == figures(mse=(0.2, 0.1, 0.3), kappa=(-0.2, -0.3, -0.1))


@pytest.mark.parametrize(
    "wrong", [{"metric": "ap"}, {"guards": {"ap": 0.1}}, {"guards": {"auc": -0.1}}, {"margin": -1}]
)
def test_gate_that_means_nothing_is_refused(wrong):
    with pytest.raises(ModelError, match="gate"):
        validated(Gate, wrong, where="gate")


def promotions(patients: int, cases: int, worth: float, trials: int = 400) -> float:
    """How often a challenger is promoted that is better by `worth`, its errors having a standard deviation of 1."""
    rng, gate = np.random.default_rng(patients), Gate(metric="mse", min_patients=2)
    names = [f"p{number % patients}" for number in range(cases)]
    promoted = 0
    for _ in range(trials):
        label = rng.normal(size=cases)
        of_patient = rng.normal(size=(2, patients))[:, np.arange(cases) % patients]
        errors = of_patient + rng.normal(size=(2, cases))
        errors[0] *= 1 - worth
        found = paired_score_difference(label, *(label + errors), names, "number", resamples=400)
        metrics = dict.fromkeys(("mse", "mae"), 1.0)
        promoted += judge(gate, gains(found), metrics, metrics, cases, patients).promoted
    return promoted / trials


@pytest.mark.parametrize(("patients", "cases"), [(20, 20), (20, 40), (50, 100)])
def test_model_that_is_no_better_is_seldom_promoted(patients: int, cases: int):
    assert promotions(patients, cases, 0.0) <= 0.05 + 0.02  # 5 % at most, and twice the error of 400 draws


def test_model_that_is_much_better_is_promoted():
    assert promotions(50, 100, 0.5, trials=50) > 0.95
