"""Figures of a search: its course, what matters, and the value along each setting."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tasks.search.space import Choice, Range, Space

DOT, BEST, CROSS = "#2b6cb0", "#b4442a", "#97a1ab"
FAR = 20.0  # values further apart than this factor are drawn on a logarithmic scale


def trials_of(study: Study, *states: TrialState) -> list[FrozenTrial]:
    """The trials that ended so."""
    return study.get_trials(deepcopy=False, states=states)


def values_of(trials: Sequence[FrozenTrial]) -> np.ndarray:
    """What they ended with: (n,)."""
    return np.array([trial.value for trial in trials], float)


def search_history(study: Study, monitor: str) -> Figure:
    """Value by trial, with the best so far; pruned trials at their last value."""
    figure = Figure(figsize=(9, 3.4))
    axes = figure.subplots()
    complete, pruned = trials_of(study, TrialState.COMPLETE), trials_of(study, TrialState.PRUNED)
    draw_trials(axes, complete, pruned, [trial.number for trial in complete], [trial.number for trial in pruned])
    for trial in trials_of(study, TrialState.FAIL):
        axes.axvline(trial.number, color=CROSS, linestyle=":", linewidth=1, label="failed")
    running = np.minimum if study.direction == StudyDirection.MINIMIZE else np.maximum
    bests = running.accumulate(values_of(complete))
    last = study.get_trials(deepcopy=False)[-1].number
    steps = [*(trial.number for trial in complete), last]
    axes.step(steps, [*bests, bests[-1]], where="post", color=BEST, label="best so far")
    axes.set(xlabel="trial", ylabel=monitor)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    once = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(once.values(), once.keys(), fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.tight_layout()
    return figure


def importance_bars(importances: dict[str, float]) -> Figure:
    """A bar a setting, the most important one on top."""
    figure = Figure(figsize=(9, 0.8 + 0.4 * len(importances)))
    axes = figure.subplots()
    names = list(reversed(importances))
    bars = axes.barh(names, [importances[name] for name in names], color=DOT)
    axes.bar_label(bars, fmt="%.2f", padding=4)
    axes.set(xlabel="share of the variation between trials", xlim=(0, 1.08))
    figure.tight_layout()
    return figure


def slices(study: Study, space: Space, monitor: str, columns: int = 3) -> Figure:
    """The value along each setting, a panel a setting; the best trial in red."""
    rows = -(-len(space.parameters) // columns)
    columns = min(columns, len(space.parameters))
    figure = Figure(figsize=(4 * columns, 3 * rows))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    complete, pruned = trials_of(study, TrialState.COMPLETE), trials_of(study, TrialState.PRUNED)
    best = [study.best_trial]
    for axes, (key, parameter) in zip(panels, space.parameters.items(), strict=False):
        draw_trials(axes, complete, pruned, positions(complete, key, parameter), positions(pruned, key, parameter))
        axes.scatter(positions(best, key, parameter), values_of(best), color=BEST, s=40, zorder=4)
        show_scale(axes, parameter)
        axes.set_xlabel(key)
    for axes in panels[len(space.parameters) :]:
        axes.set_axis_off()
    for axes in panels[::columns]:
        axes.set_ylabel(monitor)
    figure.tight_layout()
    return figure


def draw_trials(
    axes: Axes,
    complete: Sequence[FrozenTrial],
    pruned: Sequence[FrozenTrial],
    x: Sequence[float],
    x_pruned: Sequence[float],
) -> None:
    """Complete trials as dots, pruned ones as crosses at their last value."""
    values, last = values_of(complete), values_of(pruned)
    axes.scatter(x, values, color=DOT, s=22, label="complete", zorder=3)
    axes.scatter(x_pruned, last, color=CROSS, s=22, marker="x", label="pruned, at its last epoch", zorder=2)
    shown = np.concatenate([values, last])
    if shown.min() > 0 and shown.max() / shown.min() > FAR:
        axes.set_yscale("log")


def positions(trials: Sequence[FrozenTrial], key: str, parameter: Range | Choice) -> list[float]:
    """Where a trial lies along a setting: its value, or the place of its choice in the list."""
    drawn = [trial.params[key] for trial in trials]
    return drawn if isinstance(parameter, Range) else [parameter.texts().index(text) for text in drawn]


def show_scale(axes: Axes, parameter: Range | Choice) -> None:
    """The whole of a range, or the name of each choice."""
    match parameter:
        case Choice():
            axes.set_xticks(range(len(parameter.choices)), parameter.texts())
            axes.set_xlim(-0.5, len(parameter.choices) - 0.5)
        case Range(log=True):
            axes.set_xscale("log")
            axes.set_xlim(parameter.low / 1.2, parameter.high * 1.2)
        case _:
            margin = 0.04 * (parameter.high - parameter.low)
            axes.set_xlim(parameter.low - margin, parameter.high + margin)
