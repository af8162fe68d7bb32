"""The page of a study."""

from pathlib import Path
from typing import Any

import pandas as pd

from models.outcome import Fitted
from models.outcome.curves import calibration_groups, roc_band
from models.outcome.judging import calibration_line
from tasks.evaluation import with_interval
from tasks.outcomes.figures import (
    calibration_figure,
    permutation_figure,
    roc_figure,
    selection_figure,
    survival_figure,
)
from tasks.outcomes.findings import SHOWN_FEATURES, selection_shares, survival_of
from tasks.outcomes.model import coefficients
from tasks.outcomes.plan import FIRST, Plan
from tasks.outcomes.work import Done, high_risk, judged_of
from tasks.reporting import Section, publish_report
from tasks.tracking.runs import TrackedRun, flattened
from tasks.training.report import two_columns

NAMES = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "brier": "Brier score",
    "calibration_slope": "calibration slope",
    "calibration_intercept": "calibration intercept",
    "harrell_c": "Harrell's C",
    "uno_c": "Uno's C",
}
METRICS = (
    "Out-of-fold: each patient predicted by a pipeline that never saw them, filters, selection, settings and threshold "
    "included. Means over repeats; 95 % intervals by resampling patients."
)
CURVES = "Mean over repeats; the band holds 95 % of the resamples of patients."
CALIBRATION = "First repeat, in groups of equal size with Wilson's 95 % intervals."
SURVIVAL = (
    "First repeat. High is a score above the median of the training patients of the fold that held one out: a risk, or "
    "the probability of being positive."
)
PERMUTED = "The whole pipeline, with outcomes shuffled between patients; the same number of folds, one repeat."
MOST_GROUPS, PATIENTS_A_GROUP = 10, 20


def publish_study(run: TrackedRun, plan: Plan, done: Done, answer: dict[str, Any], fitted: Fitted) -> Path:
    """The page and its figures, in MLflow too."""
    parts = [
        Section("What was asked", table=two_columns(facts(plan, answer))),
        Section("How well patients are told apart", METRICS, metric_table(plan, answer)),
        *curve_sections(plan, done, answer),
        *survival_sections(plan, done, answer),
        *permutation_sections(done, answer),
        *selection_sections(plan, done, answer, fitted),
        Section("Settings", table=two_columns(flattened(plan.described()))),
    ]
    return publish_report("study", run, f"{plan.about} by {plan.model}: {Path(plan.files[FIRST]).name}", parts)


def facts(plan: Plan, answer: dict[str, Any]) -> dict[str, Any]:
    """The question and who could answer it."""
    keys = ("outcome", "patients", "positive", "features", "model", "folds", "repeats", "unpaired")
    left_out = {f"left out, {reason}": count for reason, count in answer["left_out"].items()}
    return {**plan.files, **{key: answer[key] for key in keys if key in answer}, **left_out}


def metric_table(plan: Plan, answer: dict[str, Any]) -> pd.DataFrame:
    """A row a metric; with two sources a column each and one for their difference."""
    columns = {Path(plan.files[FIRST]).name: answer["metrics"]}
    if compared := answer.get("comparison"):
        columns |= {other_name(plan, compared): compared["metrics"], "difference": compared["difference"]}
    shown = {title: [with_interval(found, key) for key in NAMES if key in found] for title, found in columns.items()}
    return pd.DataFrame({"": [name for key, name in NAMES.items() if key in answer["metrics"]], **shown})


def other_name(plan: Plan, compared: dict[str, Any]) -> str:
    """The other file's name, told from the first's where they are the same."""
    name = Path(compared["other"]).name
    return str(Path(compared["other"])) if name == Path(plan.files[FIRST]).name else name


def curve_sections(plan: Plan, done: Done, answer: dict[str, Any]) -> list[Section]:
    """ROC and calibration, of two classes."""
    if plan.first.is_survival:
        return []
    bands = {}
    for source, patients in plan.patients.items():
        metrics = answer["metrics"] if source == FIRST else answer["comparison"]["metrics"]
        band = roc_band(judged_of(patients, done.folds[source]), plan.config.resamples, plan.config.seed)
        bands[Path(plan.files[source]).stem] = (band, f"AUC {with_interval(metrics, 'auc')}")
    judged = judged_of(plan.first, done.folds[FIRST])
    count = max(2, min(MOST_GROUPS, len(judged.outcome) // PATIENTS_A_GROUP))
    groups = calibration_groups(judged.outcome == 1, judged.scores[0], count)
    line = calibration_line(judged.outcome == 1, judged.scores[0])
    return [
        Section("ROC", CURVES, figure=roc_figure(bands)),
        Section("Calibration", CALIBRATION, figure=calibration_figure(groups, judged.scores[0], *line)),
    ]


def survival_sections(plan: Plan, done: Done, answer: dict[str, Any]) -> list[Section]:
    """Kaplan–Meier curves of the risk groups."""
    if not (found := answer.get("risk_groups")):
        return []
    groups = high_risk(plan.first, done.folds[FIRST])[0]
    figure = survival_figure(survival_of(plan.first), groups, str(plan.asked.time), found["log_rank_p"])
    return [Section("Survival of the predicted groups", SURVIVAL, figure=figure)]


def permutation_sections(done: Done, answer: dict[str, Any]) -> list[Section]:
    """How far chance gets."""
    if not (found := answer.get("permutation")):
        return []
    figure = permutation_figure(done.permuted, found["first_repeat"], NAMES[found["metric"]], found["p"])
    return [Section("Permutation test", PERMUTED, figure=figure)]


def selection_sections(plan: Plan, done: Done, answer: dict[str, Any], fitted: Fitted) -> list[Section]:
    """Which features, how steadily, and the model of all patients."""
    shares = selection_shares(plan.first, done.folds[FIRST])
    stability = answer["selection_stability"]
    words = (
        f"Nogueira's stability {stability:.2f}: 1 is always the same, 0 as if by lot. "
        if stability == stability
        else ""
    )
    final = "Fitted on every patient, for new ones; what the table above says was measured by the folds."
    return [
        Section("Selected features", words, shares, selection_figure(shares.head(SHOWN_FEATURES))),
        Section("Settings that inner folds chose", table=pd.DataFrame(answer["settings"])),
        Section("The model of all patients", final, coefficients(fitted)),
    ]
