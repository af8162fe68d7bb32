"""What a system answered for a few cases after some epochs, as pictures.

What is compared shares one scale: a map is never stretched to its own maximum, which would make healthy images glow.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from storage.cohort import Cohort
from storage.errors import CohortError
from storage.export.display import LESION_COLOURS, View, grey, heated, outlined, views, window

MAPS, IMAGE = ("saliency", "mask"), "predicted_image"
TILE_INCHES = 1.55


@dataclass(frozen=True)
class Sample:
    """Answers after one epoch of a stage for k cases.

    `case`, `label` and `score` are (k,), NaN where unknown; `image` is (k, C, *grid) as stored; `answers` holds, of
    those the system gives, `saliency` and `mask` (k, *grid) and `predicted_image` (k, C, *grid).
    """

    stage: str
    epoch: int
    case: np.ndarray
    label: np.ndarray
    score: np.ndarray
    image: np.ndarray
    answers: dict[str, np.ndarray]


def read_sample(file: Path) -> Sample | None:
    """The sample of `samples/<stage>-<epoch>.npz`; None where the file is gone or only half there."""
    stage, _, epoch = file.stem.rpartition("-")
    try:
        with np.load(file) as arrays:
            known = {name: np.asarray(arrays[name]) for name in arrays.files}
        image, unknown = known["image"], np.full(len(known["case"]), np.nan)
        answers = {name: fitting(name, known[name], image) for name in (*MAPS, IMAGE) if name in known}
        return Sample(
            stage=stage,
            epoch=int(epoch),
            case=known["case"],
            label=known.get("label", unknown),
            score=known.get("score", unknown),
            image=image,
            answers={name: answer for name, answer in answers.items() if answer is not None},
        )
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def fitting(name: str, answer: np.ndarray, image: np.ndarray) -> np.ndarray | None:
    """A map without its axis of classes, the strongest of them shown; None for an answer on another grid."""
    plain = answer.max(axis=1) if name in MAPS and answer.ndim == image.ndim else answer
    grid = plain.shape[1:] if name in MAPS else plain.shape[2:]
    return plain if len(plain) == len(image) and grid == image.shape[2:] else None


@dataclass(frozen=True)
class Column:
    """One column of tiles: the images as stored, or one answer; `scale` is full heat."""

    title: str
    sample: Sample
    name: str = "image"
    scale: float = 1.0


def sample_figure(sample: Sample, cohort: Cohort) -> Figure:
    """A row a case: the image with the true lesions outlined, then every answer."""
    columns = [Column("image", sample)]
    for name in sample.answers:
        scale = common_scale([sample], name)
        columns.append(Column(f"{answer_name(name)}{scale_text(name, scale)}", sample, name, scale))
    return tiles(columns, cohort)


def samples_by_epoch(samples: Sequence[Sample], name: str, cohort: Cohort) -> Figure:
    """A row a case: the image with the true lesions outlined, then the answer `name` after each epoch, in one scale."""
    scale, newest = common_scale(samples, name), samples[-1]
    same = [sample for sample in samples if np.array_equal(sample.case, newest.case) and name in sample.answers]
    return tiles([Column("image", newest), *(Column(f"epoch {one.epoch}", one, name, scale) for one in same)], cohort)


def common_scale(samples: Sequence[Sample], name: str) -> float:
    """What is drawn as full heat: 1 for masks; for saliency the 99.9 % quantile over all cases, in the median epoch.

    An epoch in which the network runs wild does not pale the others so.
    """
    if name != "saliency":
        return 1.0
    known = [sample.answers[name] for sample in samples if name in sample.answers]
    scale = float(np.median([np.quantile(np.nan_to_num(maps), 0.999) for maps in known])) if known else 0.0
    return scale if scale > 0 else 1.0


def answer_name(name: str) -> str:
    """In words."""
    return name.replace("_", " ")


def scale_text(name: str, scale: float) -> str:
    """Which value is full heat."""
    return f", full at {scale:.3g}" if name == "saliency" else ""


def tiles(columns: Sequence[Column], cohort: Cohort) -> Figure:
    """The columns side by side, a row a case."""
    rows = len(columns[0].sample.case)
    figure = Figure(figsize=(TILE_INCHES * len(columns), (TILE_INCHES + 0.15) * rows + 0.2), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for row in range(rows):
        view, bounds = shown_part(columns[-1], row, cohort)
        for axes, column in zip(grid[row], columns, strict=True):
            draw_tile(axes, column, row, view, bounds, cohort)
            if row == 0:
                axes.annotate(
                    column.title, (0.5, 1), (0, 13), "axes fraction", "offset points", ha="center", fontsize=8
                )
    return figure


def shown_part(column: Column, row: int, cohort: Cohort) -> tuple[View, tuple[float, float]]:
    """The view of a case and the values drawn black and white; of a volume the slice with most lesion, else answer."""
    image = stored(column.sample.image[row], cohort)
    channel, lesion = cohort.channels[-1], true_lesion(int(column.sample.case[row]), image, cohort)
    bounds = window(channel, image if len(cohort.dims) == 2 else image[-1])
    maps = [np.abs(np.nan_to_num(column.sample.answers[name][row])) for name in MAPS if name in column.sample.answers]
    evidence = next((weight for weight in (lesion, *maps) if weight.any()), np.abs(image[-1]))
    seen = views(channel, cohort.dims, evidence)
    return seen[len(seen) // 2], bounds  # of three projections the coronal one


def stored(image: np.ndarray, cohort: Cohort) -> np.ndarray:
    """`image` in the dtype of the cohort, which says how it is shown."""
    return np.asarray(image.astype(cohort.dtype))


def true_lesion(case: int, image: np.ndarray, cohort: Cohort) -> np.ndarray:
    """The union of the case's masks on the grid of `image`; nothing where they are damaged or of another grid."""
    try:
        mask = cohort.mask(case)
    except CohortError:
        mask = np.zeros(0, bool)
    return mask if mask.shape == image.shape[1:] else np.zeros(image.shape[1:], bool)


def draw_tile(axes: Axes, column: Column, row: int, view: View, bounds: tuple[float, float], cohort: Cohort) -> None:
    """One picture, under its label or score."""
    sample, case = column.sample, int(column.sample.case[row])
    image = stored(sample.image[row], cohort)
    picture = in_colour(image, view, bounds)
    if column.name == "image":
        picture = outlined(picture, view.of(true_lesion(case, image, cohort)), LESION_COLOURS[0])
    elif column.name == IMAGE:
        picture = in_colour(sample.answers[IMAGE][row], view, bounds)
    else:
        picture = heated(picture, view.of(sample.answers[column.name][row].astype(np.float32)), column.scale)
    down, across = view.spacing(cohort.spacing(case))
    axes.imshow(picture, aspect=down / across)
    axes.set_axis_off()
    axes.set_title(caption(column, row, cohort), fontsize=7, pad=2)


def in_colour(image: np.ndarray, view: View, bounds: tuple[float, float]) -> np.ndarray:
    """(C, *grid) as a picture (y, x, 3) uint8: three channels of a picture are colours, else the last is grey."""
    if image.ndim == 3 and len(image) == 3:
        return np.stack([grey(plane, *bounds)[..., 0] for plane in image], axis=-1)
    return grey(view.of(image[-1]), *bounds)


def caption(column: Column, row: int, cohort: Cohort) -> str:
    """The case and its label over an image, the score over an answer."""
    sample = column.sample
    if column.name == "image":
        known = f", {sample.label[row]:g}" if np.isfinite(sample.label[row]) else ""
        return f"{cohort.table['case_id'].iloc[int(sample.case[row])]}{known}"
    return f"score {sample.score[row]:.2f}" if np.isfinite(sample.score[row]) else ""
