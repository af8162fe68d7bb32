"""Figures of a reproduction: how its trainings went, its curves, and the maps of all arms side by side."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from models.metrics import FrocCurve, PrecisionRecallCurve
from storage.cohort import Cohort
from tasks.figures import outline_lesions, overlay, picture, show_image, view_of
from tasks.training.figures import COLOURS, counted_on, logarithmic

ABREAST = 8
PANELS_ABREAST, MOST_PANELS = 3, 6
FULL_HEAT = 0.999
Epochs = Sequence[Mapping[str, Any]]


def training_curves(trainings: Mapping[str, Epochs], monitor: str | None) -> Figure:
    """A panel a logged value, a line a training."""
    values = shown_values(trainings.values(), monitor)
    columns = min(PANELS_ABREAST, max(1, len(values)))
    rows = -(-max(1, len(values)) // columns)
    figure = Figure(figsize=(2.2 + 3.6 * columns, 2.9 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, value in zip(panels, values, strict=False):
        for (name, lines), colour in zip(trainings.items(), colours_of(len(trainings)), strict=True):
            draw_training(axes, name, lines, value, colour)
        finish_panel(axes, value)
    for axes in panels[len(values) :]:
        axes.set_visible(False)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def shown_values(trainings: Iterable[Epochs], monitor: str | None) -> list[str]:
    """The training loss and the monitored value where the last stages log both, else what these log, six at most."""
    last = [line for lines in trainings if lines for line in lines if line["stage"] == lines[-1]["stage"]]
    logged = dict.fromkeys(name for line in last for name in line if name.startswith(("train/", "val/")))
    if monitor is not None and {"train/loss", monitor} <= logged.keys():
        return list(dict.fromkeys(("train/loss", monitor)))
    return sorted(logged)[:MOST_PANELS]


def draw_training(axes: Axes, name: str, lines: Epochs, value: str, colour: Any) -> None:
    """The epochs of one training that log the value; stages follow one another."""
    known = [(number, line[value]) for number, line in zip(counted_on(lines), lines, strict=True) if value in line]
    if known:
        marker = "o" if len(known) == 1 else None
        axes.plot(*zip(*known, strict=True), color=colour, linewidth=1.2, marker=marker, markersize=3, label=name)


def finish_panel(axes: Axes, value: str) -> None:
    """Title and axes; logarithmic for losses that are all positive."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch")
    axes.set_title(value, fontsize=10)
    axes.grid(alpha=0.25)
    if "loss" in value and all(np.min(np.asarray(line.get_ydata(), float)) > 0 for line in axes.get_lines()):
        logarithmic(axes)


def arm_curves(pr: Mapping[str, PrecisionRecallCurve], froc: Mapping[str, FrocCurve], prevalence: float) -> Figure:
    """Precision over recall of pooled pixels, and lesion sensitivity over false positives an image, a line an arm."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (arm, curve), colour in zip(pr.items(), colours_of(len(pr)), strict=True):
        left.plot(curve.recall, curve.precision, label=arm, color=colour)
        rates = froc[arm]
        right.step(rates.false_positives_per_image, rates.sensitivity, where="post", color=colour)
    left.axhline(prevalence, color="grey", linestyle=":", label=f"chance {prevalence:.3f}")
    left.set(xlabel="recall (pixels)", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    right.set(xlabel="false positives an image", ylabel="lesion sensitivity", xscale="log", xlim=(0.1, 40), ylim=(0, 1))
    right.axvline(10, color="grey", linestyle=":")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    return figure


def colours_of(count: int) -> list[Any]:
    """As many colours as there are lines: those of the other figures while they last."""
    return (
        list(COLOURS[:count]) if count <= len(COLOURS) else [colormaps["tab20"](place % 20) for place in range(count)]
    )


def gallery(cohort: Cohort, maps: Mapping[str, str], cases: Sequence[int], lesions: Sequence[str]) -> Figure:
    """Image, truth and each arm's map of some cases; a case takes as many rows as its arms need.

    A map's heat is full at the 99.9 % quantile of the arm's values over all these cases, which stands above it; maps
    of different methods have different units.
    """
    found, scales = heats(cohort, maps, cases)
    abreast = -(-len(maps) // -(-len(maps) // ABREAST))
    parts = [list(maps)[at : at + abreast] for at in range(0, len(maps), abreast)]
    figure, axes = pictures(len(cases) * len(parts), 2 + len(parts[0]))
    for number, case in enumerate(cases):
        image, masks = picture(cohort, case)
        view, first = view_of(cohort, cohort.image(case), cohort.masks(case)), axes[number * len(parts)]
        show_truth(first, image, of_lesions(masks, cohort, lesions), str(cohort.table.at[case, "case_id"]))
        for row, arms in zip(axes[number * len(parts) :], parts, strict=False):
            for place, arm in zip(row[2:], arms, strict=False):
                overlay(place, image, view.of(found[arm][number]), scales[arm])
                place.set_title(f"{arm}\nfull at {scales[arm]:.2g}", fontsize=6.5)
    return figure


def made_gallery(cohort: Cohort, maps: Mapping[str, str], cases: Sequence[int], lesions: Sequence[str]) -> Figure:
    """References with their truth, and for each arm the image that it makes after them with the map of that image."""
    found, scales = heats(cohort, maps, cases)
    figure, axes = pictures(len(cases), 2 + 2 * len(maps))
    for number, case in enumerate(cases):
        row = axes[number]
        masks = of_lesions(cohort.masks(case), cohort, lesions)
        show_truth(row, cohort.image(case), masks, str(cohort.table.at[case, "case_id"]))
        for place, (arm, name) in zip(range(2, len(row), 2), maps.items(), strict=True):
            made = cohort.maps(name).array("image", case)
            show_image(row[place], made)
            overlay(row[place + 1], made, found[arm][number], scales[arm])
            row[place].set_title(arm, fontsize=6.5)
            row[place + 1].set_title(f"full at {scales[arm]:.2g}", fontsize=6.5)
    return figure


def heats(
    cohort: Cohort, maps: Mapping[str, str], cases: Sequence[int]
) -> tuple[dict[str, list[np.ndarray]], dict[str, float]]:
    """Each arm's maps of the cases, and the value at which its heat is full."""
    opened = {arm: cohort.maps(name) for arm, name in maps.items()}
    found = {arm: [maps_of.saliency(case) for case in cases] for arm, maps_of in opened.items()}
    return found, {arm: float(np.quantile(of_arm, FULL_HEAT)) or 1.0 for arm, of_arm in found.items()}


def pictures(rows: int, columns: int) -> tuple[Figure, Any]:
    """A figure with places for so many pictures, without axes."""
    figure = Figure(figsize=(1.55 * columns, 1.75 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.flat:
        place.set_axis_off()
    return figure, axes


def of_lesions(masks: np.ndarray, cohort: Cohort, lesions: Sequence[str]) -> np.ndarray:
    """Of the masks of all classes (L, y, x) those that count."""
    return masks[[cohort.lesions.index(name) for name in lesions]] if len(masks) else masks


def show_truth(row: Sequence[Axes], image: np.ndarray, masks: np.ndarray, case_id: str) -> None:
    """The image, and the image with its lesions outlined."""
    show_image(row[0], image)
    show_image(row[1], image)
    outline_lesions(row[1], masks)
    row[0].set_title(case_id, fontsize=6.5)
    row[1].set_title("truth", fontsize=6.5)


def spread_cases(with_lesions: Sequence[int], without: Sequence[int], count: int = 4) -> list[int]:
    """Some cases evenly spaced among those given: one without lesions where there are any, the others with."""
    healthy = list(without[:1])
    places = np.linspace(0, len(with_lesions) - 1, count - len(healthy)).round().astype(int)
    return [*(with_lesions[place] for place in np.unique(places)), *healthy]
