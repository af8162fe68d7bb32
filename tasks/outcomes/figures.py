"""Figures of a study: ROC with its band, calibration, survival of risk groups, permutations, selected features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.special import expit, logit

from models.outcome.curves import CalibrationGroups, RocBand
from models.outcome.survival import SurvivalCurve, kaplan_meier
from tasks.training.figures import COLOURS

Floats = npt.NDArray[np.float64]
_EDGE = 1e-3
GROUPS = (("low", COLOURS[0]), ("high", COLOURS[1]))


def roc_figure(bands: dict[str, tuple[RocBand, str]]) -> Figure:
    """Mean ROC over repeats of each source with its 95 % band; the text of each stands in the legend."""
    figure = Figure(figsize=(5.4, 5), layout="constrained")
    axes = figure.subplots()
    for (name, (band, words)), colour in zip(bands.items(), COLOURS, strict=False):
        axes.fill_between(band.false_positive_rate, band.low, band.high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(band.false_positive_rate, band.sensitivity, color=colour, label=f"{name}: {words}")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    axes.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.25)
    return figure


def calibration_figure(groups: CalibrationGroups, probability: Floats, slope: float, intercept: float) -> Figure:
    """Share of positives by predicted probability, the logistic calibration line, how the probabilities lie."""
    figure = Figure(figsize=(5.4, 5.8), layout="constrained")
    axes, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    error = np.abs(np.stack([groups.low, groups.high]) - groups.share)
    axes.errorbar(groups.predicted, groups.share, error, fmt="o", color=COLOURS[0], markersize=5, linewidth=1)
    for x, high, count in zip(groups.predicted, groups.high, groups.patients, strict=True):
        axes.annotate(f"{count}", (x, high), (0, 3), textcoords="offset points", ha="center", fontsize=7)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="as predicted")
    if np.isfinite([slope, intercept]).all():
        x = np.linspace(max(_EDGE, probability.min()), min(1 - _EDGE, probability.max()), 100)
        label = f"logistic: slope {slope:.2f}"
        axes.plot(x, expit(intercept + slope * logit(x)), color=COLOURS[1], label=label)
    axes.set(ylabel="share of positives", ylim=(-0.02, 1.09))
    axes.legend(fontsize=8, loc="upper left")
    axes.grid(alpha=0.25)
    below.hist(probability, bins=np.linspace(0, 1, 41), color=COLOURS[0])
    below.set(xlabel="predicted probability", ylabel="patients", xlim=(-0.01, 1.01))
    return figure


def survival_figure(outcome: Any, is_high: npt.NDArray[np.bool_], time: str, p: float) -> Figure:
    """Kaplan–Meier curves of low and high scores with 95 % bands, and how many are at risk."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    last = float(outcome["time"].max())
    ticks = nice_ticks(last)
    for (name, colour), chosen in zip(GROUPS, (~is_high, is_high), strict=True):
        if chosen.any():
            members = outcome[chosen]
            draw_survival(axes, kaplan_meier(members), members, f"{name} score ({int(chosen.sum())})", colour)
    axes.set(xlabel=time, ylabel="without the event", xlim=(0, last), ylim=(0, 1.02), xticks=ticks)
    said = f"log-rank p {p:.2g}" if p >= 0.001 else "log-rank p < 0.001"
    axes.set_title(said if np.isfinite(p) else "one group only", fontsize=10)
    axes.legend(fontsize=8, loc="upper right")
    axes.grid(alpha=0.25)
    add_numbers_at_risk(axes, outcome, is_high, ticks)
    return figure


def draw_survival(axes: Axes, curve: SurvivalCurve, members: Any, label: str, colour: str) -> None:
    """One step curve with its band; ticks where somebody was censored."""
    axes.fill_between(curve.time, curve.low, curve.high, step="post", color=colour, alpha=0.15, linewidth=0)
    axes.step(curve.time, curve.survival, where="post", color=colour, label=label)
    censored = members["time"][~members["event"]]
    heights = curve.survival[np.searchsorted(curve.time, censored, side="right") - 1]
    axes.plot(censored, heights, "|", color=colour, markersize=6)


def add_numbers_at_risk(axes: Axes, outcome: Any, is_high: npt.NDArray[np.bool_], ticks: Sequence[float]) -> None:
    """A row a group under the time axis."""
    for row, ((name, colour), chosen) in enumerate(zip(GROUPS, (~is_high, is_high), strict=True)):
        height = -0.2 - 0.06 * row
        place = axes.get_xaxis_transform()
        axes.text(-0.04, height, name, transform=axes.transAxes, ha="right", fontsize=8, color=colour)
        for tick in ticks:
            count = int((outcome["time"][chosen] >= tick).sum())
            axes.text(tick, height, f"{count}", transform=place, ha="center", fontsize=8, color=colour)


def nice_ticks(last: float) -> list[float]:
    """About six round times from 0 on."""
    rough = last / 6
    size = 10.0 ** np.floor(np.log10(rough)) if rough > 0 else 1.0
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= rough)
    return [float(tick) for tick in np.arange(0, last + step / 1e6, step)]


def permutation_figure(permuted: Sequence[float], observed: float, metric: str, p: float) -> Figure:
    """The metric with shuffled outcomes, and with the true ones."""
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.hist(permuted, bins=min(30, max(6, len(permuted) // 4)), color="#9aa3ab", label="shuffled outcomes")
    axes.axvline(observed, color=COLOURS[1], label=f"true outcomes, p = {p:.2g}")
    axes.axvline(0.5, color="grey", linestyle=":")
    axes.set(xlabel=f"{metric}, first repeat", ylabel="permutations")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.35)  # room for the legend
    axes.legend(fontsize=8, loc="upper right")
    return figure


def selection_figure(selected: pd.DataFrame) -> Figure:
    """How often folds selected each feature."""
    shown = selected.iloc[::-1]
    figure = Figure(figsize=(7, 1 + 0.26 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.barh(shown["feature"], shown["share_of_folds"], color=COLOURS[0])
    axes.set(xlabel="share of folds that selected it", xlim=(0, 1))
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(alpha=0.25, axis="x")
    return figure
