"""Figures of the reports: contact sheet, PR and FROC curves, gallery of refined maps."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.metrics import FrocCurve, PrecisionRecallCurve
from storage.cohort import Cohort
from storage.export.display import View, views, window

LESION_COLOURS = ("#00c2ff", "#ffe14d", "#ff5ad1", "#6bff6b", "#ff8c1a", "#b08cff")


def contact_sheet(cohort: Cohort, columns: int = 8, rows: int = 3) -> Figure:
    """Cases spread over the cohort, with their lesions outlined and their labels as titles."""
    chosen = np.unique(np.linspace(0, len(cohort) - 1, columns * rows).round().astype(int))
    figure = Figure(figsize=(1.6 * columns, 1.8 * -(-len(chosen) // columns)))
    for position, case in enumerate(chosen):
        axes = figure.add_subplot(-(-len(chosen) // columns), columns, position + 1)
        image, masks = picture(cohort, int(case))
        show_image(axes, image)
        outline_lesions(axes, masks)
        labels = [f"{label} {float(cohort.table[label].iloc[int(case)]):g}" for label in cohort.labels]
        axes.set_title(", ".join(labels), fontsize=7)
    figure.tight_layout(pad=0.4)
    return figure


def picture(cohort: Cohort, case: int) -> tuple[np.ndarray, np.ndarray]:
    """What a contact sheet shows of a case: (C, y, x) and masks (L, y, x); of a volume one view of its last channel."""
    image, masks = cohort.image(case), cohort.masks(case)
    if len(cohort.dims) == 2:
        return image, masks
    view = view_of(cohort, image, masks)
    low, high = window(cohort.channels[-1], image[-1])
    shown = np.clip((view.of(image[-1]) - low) / (high - low), 0, 1)
    return shown[None], np.array([view.of(mask) for mask in masks])


def view_of(cohort: Cohort, image: np.ndarray, masks: np.ndarray) -> View:
    """The view of a case that is shown alone: a picture itself, of three projections the coronal one, or a slice."""
    marked = np.asarray(masks.any(axis=0))
    seen = views(cohort.channels[-1], cohort.dims, marked if marked.any() else np.abs(image[-1]))
    return seen[len(seen) // 2]


def pr_and_froc(pr: Mapping[str, PrecisionRecallCurve], froc: Mapping[str, FrocCurve], prevalence: float) -> Figure:
    """Precision over recall (pooled pixels) and lesion sensitivity over false positives an image."""
    figure = Figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2)
    for name, curve in pr.items():
        left.plot(curve.recall, curve.precision, label=name)
    left.axhline(prevalence, color="grey", linestyle=":", label=f"chance {prevalence:.3f}")
    left.set(xlabel="recall (pixels)", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    left.legend()
    for name, rates in froc.items():
        right.step(rates.false_positives_per_image, rates.sensitivity, where="post", label=name)
    right.set(
        xlabel="false positives per image", ylabel="lesion sensitivity", xscale="log", xlim=(0.1, 40), ylim=(0, 1)
    )
    right.axvline(10, color="grey", linestyle=":")
    right.legend()
    figure.tight_layout()
    return figure


def refinement_gallery(cohort: Cohort, refined: str, initial: str, cases: Sequence[int], stop_score: float) -> Figure:
    """A row a case: image, truth, s_0, S, the inpainted image, the score's path. Maps share one scale a column pair."""
    final, first = cohort.maps(refined), cohort.maps(initial)
    scale = np.quantile([final.saliency(case) for case in cases], 0.999) or 1.0
    figure = Figure(figsize=(13, 2.2 * len(cases)))
    axes = figure.subplots(len(cases), 6, squeeze=False)
    for row, case in zip(axes, cases, strict=True):
        image = cohort.image(case)
        show_image(row[0], image)
        row[0].set_title(cohort.table.at[case, "case_id"], fontsize=7)
        show_image(row[1], image)
        outline_lesions(row[1], cohort.masks(case))
        overlay(row[2], image, first.saliency(case), scale)
        overlay(row[3], image, final.saliency(case), scale)
        show_image(row[4], final.array("inpainted", case))
        path = final.array("scores", case)
        row[5].plot(path[np.isfinite(path)], marker="o", markersize=3)
        row[5].axhline(stop_score, color="grey", linestyle=":")
        row[5].set_ylim(-0.2, 4.4)
    for column, title in enumerate(("", "truth", "s_0", "S", "inpainted", "score by iteration")):
        if title:
            axes[0, column].set_title(title, fontsize=9)
    figure.tight_layout(pad=0.5)
    return figure


def show_image(axes: Axes, image: np.ndarray) -> None:
    """A (C, H, W) image, colour or grey."""
    shown = np.moveaxis(image, 0, -1) if image.shape[0] == 3 else image[0]
    axes.imshow(shown, cmap="gray")
    axes.set_axis_off()


def outline_lesions(axes: Axes, masks: np.ndarray) -> None:
    """Contours of each lesion class of a (L, H, W) mask."""
    for mask, colour in zip(masks, LESION_COLOURS * 4, strict=False):
        if mask.any():
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=0.7)


def overlay(axes: Axes, image: np.ndarray, saliency: np.ndarray, scale: float) -> None:
    """The saliency over the image; `scale`, common to all cases, is full opacity."""
    show_image(axes, image.mean(axis=0, keepdims=True))
    axes.imshow(saliency, cmap="hot", alpha=np.clip(saliency / scale, 0, 1), vmin=0, vmax=scale)


def classification_figure(labels: np.ndarray, scores: np.ndarray) -> Figure:
    """Predicted score by true grade, with the referable boundary."""
    figure = Figure(figsize=(5, 3.2))
    axes = figure.subplots()
    grades = np.unique(labels)
    axes.boxplot([scores[labels == grade] for grade in grades], tick_labels=[f"{grade:g}" for grade in grades])
    axes.axhline(1.0, color="grey", linestyle=":")
    axes.set(xlabel="true grade", ylabel="predicted score")
    figure.tight_layout()
    return figure
