"""The rule by which a challenger takes the champion's place: from figures alone.

A gain is challenger − champion on the same frozen cases, turned so that more is better; [l, u] is its 95 % interval
over patients, resampled together for both.

promoted  ⇔  l(metric) > margin  ∧  cases ≥ min_cases  ∧  patients ≥ min_patients
             ∧  l(g) ≥ −fall_g for each guard g                                                    (1)

Of two models of equal worth, the challenger passes (1) in 3–4 % of comparisons with 30 to 100 patients, in 3–5 % with
20, and in 3–8 % with 5 to 10, for whom a percentile interval is too short: hence `min_patients`.
"""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator

from models.config import Config

LOCALISATION = ("ap_pooled", "ap_per_image", "ap_minmax", "froc_mean", "sensitivity_at_10fp", "energy", "pointing")
SCORE = ("auc_referable", "auc", "kappa", "mse", "mae")
LOWER_IS_BETTER = ("mse", "mae")
HEADLINES = ("ap_pooled", "auc_referable", "auc", "mse")
AUTO = "auto"

Metrics = Mapping[str, Any]


class Gate(Config):
    """What a challenger has to show: equation (1) of `tasks.promotion.gate`.

    metric: what decides; `auto` is the first of ap_pooled, auc_referable, auc, mse that the frozen cases have.
    min_cases: cases on which the metric rests: those with lesions, or those with a label.
    guards: metric → how far it may fall; the fall must be smaller with 97.5 % confidence.
    lesions: the classes that count; none named: all.
    """

    metric: str = AUTO
    margin: NonNegativeFloat = 0.0
    min_cases: PositiveInt = 20
    min_patients: int = Field(default=20, ge=2)
    guards: dict[str, NonNegativeFloat] = Field(default={})
    resamples: int = Field(default=1000, ge=100)
    seed: NonNegativeInt = 0
    lesions: list[str] = Field(default=[])

    @field_validator("metric")
    @classmethod
    def _is_known(cls, metric: str) -> str:
        if metric not in (AUTO, *LOCALISATION, *SCORE):
            raise ValueError(f"no metric {metric!r}; there are: {', '.join((AUTO, *LOCALISATION, *SCORE))}")
        return metric

    @field_validator("guards")
    @classmethod
    def _are_known(cls, guards: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(guards.keys() - {*LOCALISATION, *SCORE}):
            raise ValueError(f"no metric {unknown[0]!r}; there are: {', '.join((*LOCALISATION, *SCORE))}")
        return guards


class Verdict(Config):
    """Whether the challenger is promoted, by which rule in words, why, and the figures that this rests on.

    Figures that there are not are None: there was no champion, or nothing could be measured.
    """

    promoted: bool
    metric: str
    champion: float | None = None
    challenger: float | None = None
    gain: float | None = None
    interval: list[float | None] | None = None
    cases: int = 0
    patients: int = 0
    rule: str
    reason: str


def judge(
    gate: Gate,
    differences: Metrics,
    champion_metrics: Metrics | None,
    challenger_metrics: Metrics,
    cases: int,
    patients: int,
) -> Verdict:
    """Equation (1); where `champion_metrics` is None, there is no champion, and the challenger is installed.

    `differences` are gains, such as `gains` makes them; metrics and gains have their `<key>_interval`. `cases` and
    `patients` are those on which the gate's metric rests.
    """
    metric = gate_metric(gate, challenger_metrics)
    is_first = champion_metrics is None
    complaint = None if is_first else refusal(gate, metric, differences, cases, patients)
    return Verdict(
        promoted=complaint is None,
        metric=metric,
        champion=None if champion_metrics is None else champion_metrics.get(metric),
        challenger=challenger_metrics.get(metric),
        gain=None if is_first else differences.get(metric),
        interval=None if is_first else differences.get(f"{metric}_interval"),
        cases=cases,
        patients=patients,
        rule=rule_in_words(gate, metric),
        reason="there was no champion" if is_first else complaint or _gained(gate, metric, differences),
    )


def gate_metric(gate: Gate, metrics: Metrics) -> str:
    """The metric that decides, given those that the frozen cases have."""
    if gate.metric != AUTO:
        return gate.metric
    return next((metric for metric in HEADLINES if metric in metrics), HEADLINES[0])


def refusal(gate: Gate, metric: str, differences: Metrics, cases: int, patients: int) -> str | None:
    """Why the challenger is refused, in one sentence; None where it passes."""
    if cases < gate.min_cases or patients < gate.min_patients:
        needed = f"{gate.min_cases} cases of {gate.min_patients} patients"
        return f"{metric} rests on {cases} frozen cases of {patients} patients; the rule needs {needed}"
    if not _is_defined(differences, metric):
        return f"the frozen cases give no interval of {metric}"
    if not differences[f"{metric}_interval"][0] > gate.margin:
        return f"the gain in {metric}, {shown_gain(differences, metric)}, is not above {gate.margin:g} for sure"
    for guard, fall in gate.guards.items():
        if not _is_defined(differences, guard):
            return f"the frozen cases give no interval of {guard}, which is to be guarded"
        if not differences[f"{guard}_interval"][0] >= -fall:
            return f"{guard} may have fallen by more than {fall:g}: its gain is {shown_gain(differences, guard)}"
    return None


def gains(differences: Metrics) -> dict[str, Any]:
    """Differences challenger − champion, with intervals, turned so that more is better for every metric."""
    turned = dict(differences)
    for metric in LOWER_IS_BETTER:
        if metric in differences:
            low, high = differences[f"{metric}_interval"]
            turned |= {metric: -differences[metric], f"{metric}_interval": [-high, -low]}
    return turned


def rule_in_words(gate: Gate, metric: str) -> str:
    """Equation (1) with its numbers."""
    guards = "".join(f", and {guard} falls by no more than {fall:g}" for guard, fall in gate.guards.items())
    return (
        f"the lower 95 % bound of the gain in {metric} is above {gate.margin:g} "
        f"on at least {gate.min_cases} frozen cases of {gate.min_patients} patients{guards}"
    )


def shown_gain(differences: Metrics, metric: str) -> str:
    """`+0.034 [+0.012, +0.055]`."""
    low, high = differences[f"{metric}_interval"]
    return f"{differences[metric]:+.3g} [{low:+.3g}, {high:+.3g}]"


def _gained(gate: Gate, metric: str, differences: Metrics) -> str:
    return f"the gain in {metric}, {shown_gain(differences, metric)}, is above {gate.margin:g}"


def _is_defined(differences: Metrics, metric: str) -> bool:
    if metric not in differences:
        return False
    numbers = [differences[metric], *differences[f"{metric}_interval"]]
    return all(number is not None and math.isfinite(number) for number in numbers)
