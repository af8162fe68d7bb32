"""Figures of a training: what it logged by epoch, its pace, and how its final scores agree with the labels.

Epochs are the lines of `epochs.jsonl`, in order; they count from 0 within each stage.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter
from scipy.stats import binomtest, linregress

Epoch = Mapping[str, Any]
Floats = npt.NDArray[np.float64]
Outcome = Literal["grades", "probability", "number"]

PACE = ("seconds", "images_per_second", "waiting")
TOLD = ("stage", "epoch", "step", *PACE)
STYLES = {"train": ":", "val": "-"}
COLOURS = ("#3b6ea8", "#c8553d", "#4f8f5b", "#8a63a8", "#b8862b", "#4a9aa5")
MOST_GRADES = 10
BINS = 10
ABREAST = 3


def counted_on(epochs: Sequence[Epoch]) -> list[int]:
    """The number of each epoch, counted on from stage to stage."""
    lengths: dict[str, int] = {}
    for line in epochs:
        lengths[line["stage"]] = max(lengths.get(line["stage"], 0), line["epoch"] + 1)
    before = dict(zip(lengths, accumulate(lengths.values(), initial=0), strict=False))
    return [before[line["stage"]] + line["epoch"] for line in epochs]


def logged_curves(epochs: Sequence[Epoch], best: Epoch) -> Figure:
    """All losses in one panel, each other logged value in one of its own; several stages side by side.

    Dotted: training; solid: validation. The grey line is the epoch `best`.
    """
    stages = {stage: pd.DataFrame(list(lines)) for stage, lines in by_stage(epochs).items()}
    panels = {stage: panels_of(table) for stage, table in stages.items()}
    most = max(1, *map(len, panels.values()))
    abreast = min(ABREAST, most) if len(stages) == 1 else len(stages)
    rows = -(-most // ABREAST) if len(stages) == 1 else most
    figure = Figure(figsize=(7, 3.2) if most == len(stages) == 1 else (3.9 * abreast, 2.8 * rows), layout="constrained")
    axes = figure.subplots(rows, abreast, squeeze=False)
    for column, (stage, table) in enumerate(stages.items()):
        places = axes.flat if len(stages) == 1 else axes[:, column]
        for place, (title, names) in zip(places, panels[stage].items(), strict=False):
            draw_values(place, table, names)
            finish_epoch_axis(place, title if len(stages) == 1 else f"{stage}: {title}")
            if best and best["stage"] == stage:
                place.axvline(best["epoch"], color="grey", linewidth=0.8, zorder=0)
    for place in axes.flat:
        place.set_visible(place.has_data())
    return figure


def by_stage(epochs: Sequence[Epoch]) -> dict[str, list[Epoch]]:
    """The epochs of each stage, in order."""
    return {
        name: [line for line in epochs if line["stage"] == name] for name in dict.fromkeys(e["stage"] for e in epochs)
    }


def panels_of(table: pd.DataFrame) -> dict[str, list[str]]:
    """Which columns are drawn together: the losses, then `train/x` with `val/x`."""
    logged = [str(name) for name in table if name not in TOLD and not str(name).startswith("learning_rate")]
    panels: dict[str, list[str]] = {}
    for name in sorted(logged, key=lambda name: ("loss" not in name, name)):
        panels.setdefault("loss" if "loss" in name else name.split("/", 1)[-1], []).append(name)
    return panels


def draw_values(axes: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    """The columns `names` by epoch; logarithmic where they are losses that are all positive."""
    kinds = list(dict.fromkeys(name.split("/", 1)[-1] for name in names))
    drawn = table[list(names)].apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    for name in names:
        colour = COLOURS[kinds.index(name.split("/", 1)[-1]) % len(COLOURS)]
        style = STYLES.get(name.split("/", 1)[0], "--")
        axes.plot(table["epoch"], drawn[name], style, color=colour, marker=marker(table), markersize=3, label=name)
    if "loss" in names[0] and (drawn.min() > 0).all():
        logarithmic(axes)
    axes.legend(fontsize=8, frameon=False)


def logarithmic(axes: Axes) -> None:
    """A logarithmic axis with plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def pace_curves(epochs: Sequence[Epoch]) -> Figure:
    """Learning rates, images a second, and the share of the time spent waiting for data; epochs counted on."""
    table = pd.DataFrame(list(epochs), index=pd.Index(counted_on(epochs)))
    rates = [str(name) for name in table if str(name).startswith("learning_rate")]
    figure = Figure(figsize=(11.8, 2.6), layout="constrained")
    learning, speed, waiting = figure.subplots(1, 3)
    draw_pace(learning, table, "learning rate", rates)
    draw_pace(speed, table, "images a second", ["images_per_second"])
    draw_pace(waiting, table, "share of the time spent waiting for data", ["waiting"])
    waiting.yaxis.set_major_formatter(PercentFormatter(1.0))
    waiting.set_ylim(0, 1)
    return figure


def draw_pace(axes: Axes, table: pd.DataFrame, title: str, names: Sequence[str]) -> None:
    """The columns `names` by the number of the epoch, stage by stage."""
    for place, (_, stage) in enumerate(table.groupby("stage", sort=False)):
        for name, colour in zip(names, COLOURS, strict=False):
            axes.plot(stage.index, stage[name], color=colour, marker=marker(table), markersize=3, label=name)
        if place:
            axes.axvline(stage.index[0] - 0.5, color="grey", linewidth=0.8, linestyle=":")
    if len(names) > 1:
        lines, labels = axes.get_legend_handles_labels()
        axes.legend(lines[: len(names)], labels[: len(names)], fontsize=8, frameon=False)
    finish_epoch_axis(axes, title)
    axes.set_ylim(bottom=0)


def marker(table: pd.DataFrame) -> str | None:
    """A dot an epoch, where they are few."""
    return "o" if len(table) < 25 else None


def finish_epoch_axis(axes: Axes, title: str) -> None:
    """Whole epochs, a light grid, a title."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.25)


def outcome_kind(labels: Floats, scores: Floats) -> Outcome:
    """What such labels are: 0 and 1 with scores of 0 … 1, whole numbers over a range of at most ten, or any numbers."""
    if np.isin(labels, (0, 1)).all() and scores.min() >= 0 and scores.max() <= 1:
        return "probability"
    is_whole = bool((labels == np.rint(labels)).all())
    return "grades" if is_whole and np.ptp(labels) < MOST_GRADES else "number"


def outcome_figure(labels: Floats, scores: Floats, known: Floats | None = None) -> Figure:
    """How scores (n,) agree with labels (n,), both finite, in two panels.

    `known`: all values that the label has, where these cases may lack some; they tell its kind and its range.
    """
    known = labels if known is None else known
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    match outcome_kind(known, scores):
        case "grades":
            draw_confusion(left, labels, scores, known)
            draw_scores(right, labels, scores)
        case "probability":
            draw_reliability(left, labels, scores)
            draw_scores(right, labels, scores)
        case "number":
            draw_agreement(left, labels, scores)
            draw_residuals(right, labels, scores)
    return figure


def draw_confusion(axes: Axes, labels: Floats, scores: Floats, known: Floats) -> None:
    """Cases by true and predicted label, as numbers and as shares of their row; scores clipped to `known`, rounded."""
    grades = np.arange(known.min(), known.max() + 1).astype(int)
    rounded = np.rint(np.clip(scores, grades[0], grades[-1])).astype(int)
    counts = np.zeros((len(grades), len(grades)), int)
    np.add.at(counts, (labels.astype(int) - grades[0], rounded - grades[0]), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        if counts[row].any():
            text = f"{counts[row, column]}\n{shares[row, column]:.0%}" if counts[row, column] else "0"
            colour = "white" if shares[row, column] > 0.6 else "black" if counts[row, column] else "#9aa3ab"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(grades)), grades)
    axes.set_yticks(
        range(len(grades)), [f"{grade} (n={n})" for grade, n in zip(grades, counts.sum(axis=1), strict=True)]
    )
    axes.set(xlabel="predicted (score rounded, clipped)", ylabel="true")
    axes.set_title("confusion: cases, share of the row", fontsize=10)


def draw_scores(axes: Axes, labels: Floats, scores: Floats) -> None:
    """The raw scores by true label, a point a case and a line at their median."""
    values, places = np.unique(labels, return_inverse=True)
    aside = np.random.default_rng(0).uniform(-0.18, 0.18, len(labels))
    axes.plot(places + aside, scores, "o", color=COLOURS[0], markersize=3, alpha=0.5)
    medians = [np.median(scores[labels == value]) for value in values]
    axes.hlines(medians, np.arange(len(values)) - 0.3, np.arange(len(values)) + 0.3, color=COLOURS[1])
    axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    axes.set(xlabel="true", ylabel="score")
    axes.set_title("raw score by true label, with the median", fontsize=10)
    axes.grid(alpha=0.25, axis="y")


def draw_reliability(axes: Axes, labels: Floats, scores: Floats) -> None:
    """How often the label is 1 among cases of about the same score, in ten bins; Wilson's 95 % intervals."""
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    for number in np.unique(bins):
        chosen = bins == number
        positive, count = int(labels[chosen].sum()), int(chosen.sum())
        low, high = binomtest(positive, count).proportion_ci(method="wilson")
        axes.plot([scores[chosen].mean()] * 2, [low, high], color=COLOURS[0], linewidth=1)
        axes.plot(scores[chosen].mean(), positive / count, "o", color=COLOURS[0], markersize=5)
        axes.annotate(
            f"{count}", (scores[chosen].mean(), high), (0, 3), textcoords="offset points", ha="center", fontsize=7
        )
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    brier = float(np.mean((labels - scores) ** 2))
    axes.set(xlabel="mean score of the bin", ylabel="share with label 1", xlim=(-0.02, 1.02), ylim=(-0.02, 1.09))
    axes.set_title(f"reliability, Brier score {brier:.3f}; cases of each bin, Wilson 95 %", fontsize=10)
    axes.set_aspect("equal")


def draw_agreement(axes: Axes, labels: Floats, scores: Floats) -> None:
    """True labels over scores, the identity and the calibration line true = intercept + slope · score."""
    axes.plot(scores, labels, "o", color=COLOURS[0], markersize=3, alpha=0.5)
    ends = np.array([min(scores.min(), labels.min()), max(scores.max(), labels.max())])
    axes.plot(ends, ends, color="grey", linestyle=":", label="identity")
    if np.ptp(scores) > 0:
        line = linregress(scores, labels)
        label = f"true = {line.intercept:.3g} {'+' if line.slope >= 0 else '−'} {abs(line.slope):.3g} · score"
        axes.plot(ends, line.intercept + line.slope * ends, color=COLOURS[1], label=label)
    axes.set(xlabel="score", ylabel="true")
    axes.set_title("predicted and true", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.25)


def draw_residuals(axes: Axes, labels: Floats, scores: Floats) -> None:
    """Score − true over their mean, with bias and limits of agreement (Bland and Altman)."""
    difference = scores - labels
    axes.plot((scores + labels) / 2, difference, "o", color=COLOURS[0], markersize=3, alpha=0.5)
    bias, spread = difference.mean(), 1.96 * difference.std(ddof=1) if len(difference) > 1 else 0.0
    for height, style in ((bias, "-"), (bias - spread, "--"), (bias + spread, "--")):
        axes.axhline(height, color=COLOURS[1], linestyle=style, linewidth=1)
    axes.set(xlabel="mean of score and true", ylabel="score − true")
    axes.set_title(f"bias {bias:.3g}, 95 % limits of agreement ± {spread:.3g}", fontsize=10)
    axes.grid(alpha=0.25)
