"""How the folds of a cross-validation learnt, in one figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tasks.training.figures import COLOURS, counted_on, logarithmic

Epoch = Mapping[str, Any]
MOST_NAMED = 12


def fold_curves(epochs: Mapping[str, Sequence[Epoch]], best: Mapping[str, Epoch], monitored: str) -> Figure:
    """Training loss and the `monitored` value by epoch, a line a fold; a dot is the epoch that was kept.

    `epochs` and `best` are lines of `epochs.jsonl` by fold. Stages follow one another; one that does not log a value
    leaves a gap.
    """
    values = [name for name in dict.fromkeys(("train/loss", monitored)) if any(map(has(name), epochs.values()))]
    figure = Figure(figsize=(1 + 4.5 * max(1, len(values)), 3.6), layout="constrained")
    colours = line_colours(len(epochs))
    for axes, name in zip(figure.subplots(1, max(1, len(values)), squeeze=False).flat, values, strict=False):
        for (fold, lines), colour in zip(epochs.items(), colours, strict=True):
            draw_fold(axes, fold, lines, best[fold], name, colour)
        if all(line.get(name, 1.0) > 0 for lines in epochs.values() for line in lines) and "loss" in name:
            logarithmic(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", title=name)
        axes.grid(alpha=0.25)
    if values and len(epochs) <= MOST_NAMED:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def draw_fold(axes: Axes, fold: str, lines: Sequence[Epoch], best: Epoch, name: str, colour: str) -> None:
    """One fold's line of `name`, with its kept epoch."""
    numbers = counted_on(lines)
    axes.plot(numbers, [line.get(name, np.nan) for line in lines], color=colour, linewidth=1.2, label=fold)
    for number, line in zip(numbers, lines, strict=True):
        if (line["stage"], line["epoch"]) == (best["stage"], best["epoch"]):
            axes.plot(number, line.get(name, np.nan), "o", color=colour, markersize=5)


def line_colours(count: int) -> list[str]:
    """A colour a fold: those of the other figures while they last, else shades of one map."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    return [to_hex(shade) for shade in colormaps["viridis"](np.linspace(0, 0.95, count))]


def has(name: str) -> Any:
    """Whether lines of epochs log `name`."""
    return lambda lines: any(name in line for line in lines)
