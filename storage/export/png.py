"""PNG overlays: a picture a case with the image, its lesions outlined, and each map as heat over it.

8-bit pictures are shown as they are, PET at 0–10 SUV in maximum projections from three sides, CT at −160–240 HU, all
else between its 0.5 % and 99.5 % quantiles; volumes but PET in the axial slice with most lesion, or without lesions
with most of the maps. Pixels are drawn true to mm. One heat scale a map set serves all cases of the cohort.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from storage.cohort import Cohort
from storage.export import display
from storage.export.content import Content, maps_of, masks_of
from storage.export.display import View

PICTURE_SIDE, VIEW_SIDE = 800, 400  # pixels of the longer side of a panel
GAP, LINE, TEXT = 6, 22, 14
INK, FAINT, PAPER = (235, 235, 235), (150, 150, 150), (18, 18, 18)


@dataclass(frozen=True)
class Layers:
    """What is drawn of a case: pixels (C, *grid), masks and maps by file name, spacing in mm."""

    image: np.ndarray
    masks: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]
    spacing_mm: tuple[float, ...]


def write_png(cohort: Cohort, case: int, file: Path, content: Content) -> list[Path]:
    """Draw a case into `file`."""
    layers = Layers(
        cohort.image(case),
        dict(masks_of(cohort, case, content)),
        dict(maps_of(cohort, case, content)),
        cohort.spacing(case),
    )
    rows = [row for channel in _shown_channels(cohort, layers) for row in _rows(cohort, layers, content, channel)]
    picture = _stacked([*(_beside(panels) for panels in rows), _legend(cohort, case, content, layers)])
    Image.fromarray(picture).save(file, format="PNG", compress_level=1)  # 6 takes 4 times as long for 15 % less
    return [file]


def _shown_channels(cohort: Cohort, layers: Layers) -> Sequence[int | None]:
    """Channels drawn each for itself; None: the three of a colour photograph at once."""
    is_colour = layers.image.dtype == np.uint8 and len(cohort.channels) == 3 and len(cohort.dims) == 2
    return [None] if is_colour else range(len(cohort.channels))


def _rows(cohort: Cohort, layers: Layers, content: Content, channel: int | None) -> Iterator[list[np.ndarray]]:
    """A row of panels for the outlines and one for each map; of a picture all in one row."""
    name = "" if channel is None else cohort.channels[channel]
    planes = display.views(name, cohort.dims, _evidence(layers))
    panels = [[_outlines(layers, view, channel, name) for view in planes]]
    for map_name, saliency in layers.maps.items():
        scale = content.scales[content.maps[map_name]]
        panels.append([_heat(layers, view, channel, name, saliency, scale) for view in planes])
    if len(planes) == 1:
        yield [panel for row in panels for panel in row]
    else:
        yield from panels


def _evidence(layers: Layers) -> np.ndarray:
    """What a slice is chosen by: the masks, else the positive part of the maps."""
    grid = layers.image.shape[1:]
    marked = np.any(list(layers.masks.values()), axis=0) if layers.masks else np.zeros(grid, bool)
    if marked.any() or not layers.maps:
        return np.asarray(marked)
    return np.asarray(np.sum([np.clip(saliency, 0, None) for saliency in layers.maps.values()], axis=0))


def _size(layers: Layers, view: View) -> tuple[int, int]:
    """Height and width of a panel."""
    height, width = view.of(layers.image[0]).shape
    down, across = view.spacing(layers.spacing_mm)
    side = PICTURE_SIDE if view.axis is None or view.place is not None else VIEW_SIDE
    factor = side / max(height * down, width * across)
    return max(1, round(height * down * factor)), max(1, round(width * across * factor))


def _picture(layers: Layers, view: View, channel: int | None, name: str) -> np.ndarray:
    """The image of a panel without anything on it."""
    if channel is None:
        return display.resized(np.ascontiguousarray(np.moveaxis(layers.image, 0, -1)), _size(layers, view))
    image = layers.image[channel]
    plane = view.of(image)
    return display.resized(display.grey(plane, *display.window(name, image)), _size(layers, view))


def _outlines(layers: Layers, view: View, channel: int | None, name: str) -> np.ndarray:
    return _outlined(layers, view, _picture(layers, view, channel, name))


def _heat(layers: Layers, view: View, channel: int | None, name: str, saliency: np.ndarray, scale: float) -> np.ndarray:
    shown = display.resized(view.of(saliency).astype(np.float32), _size(layers, view), smooth=False)
    return _outlined(layers, view, display.heated(_picture(layers, view, channel, name), shown, scale))


def _outlined(layers: Layers, view: View, picture: np.ndarray) -> np.ndarray:
    for position, mask in enumerate(layers.masks.values()):
        shown = display.shown_mask(view.of(mask), _size(layers, view))
        picture = display.outlined(picture, shown, _colour(position))
    return picture


def _colour(position: int) -> tuple[int, int, int]:
    return display.LESION_COLOURS[position % len(display.LESION_COLOURS)]


def _legend(cohort: Cohort, case: int, content: Content, layers: Layers) -> np.ndarray:
    """Lines of text: the case and its labels, lesion classes by colour, heat by value, what the panels show."""
    lines = [[(_readable(line), INK)] for line in _case_lines(cohort, case)]
    if layers.masks:
        names = [(_readable(content.lesions[name]), _colour(place)) for place, name in enumerate(layers.masks)]
        lines.append([("outlined:", FAINT), *names])
    else:
        lines.append([("no masks", FAINT)])
    lines += [[(_shown_channel(cohort, layers, channel), FAINT)] for channel in _shown_channels(cohort, layers)]
    strip = _text_lines(lines)
    bars = [_heat_bar(name, content.scales[content.maps[name]]) for name in layers.maps]
    return _stacked([strip, *bars])


def _case_lines(cohort: Cohort, case: int) -> list[str]:
    row = cohort.table.iloc[case]
    labels = [f"{label} {float(row[label]):g}" for label in cohort.labels]
    return [str(row["case_id"]), ", ".join([f"split {row['split']}", *labels])]


def _shown_channel(cohort: Cohort, layers: Layers, channel: int | None) -> str:
    if channel is None:
        return "colours as they are"
    name = cohort.channels[channel]
    low, high = display.window(name, layers.image[channel])
    planes = display.views(name, cohort.dims, _evidence(layers))
    kind = "maximum projections: " if len(planes) > 1 else ""
    titles = ", ".join(view.title for view in planes)
    return f"{name} from {low:g} (black) to {high:g} (white)" + (f"; {kind}{titles}" if titles else "")


def _readable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:90]


def _text_lines(lines: Sequence[Sequence[tuple[str, tuple[int, int, int]]]]) -> np.ndarray:
    """Lines of coloured words, (y, x, 3) uint8."""
    font = ImageFont.load_default(TEXT)
    widths = [sum(font.getlength(word) + 2 * GAP for word, _ in line) for line in lines]
    strip = Image.new("RGB", (int(max(widths)) + 2 * GAP, LINE * len(lines) + GAP), PAPER)
    pen = ImageDraw.Draw(strip)
    for row, line in enumerate(lines):
        left = float(GAP)
        for word, colour in line:
            pen.text((left, GAP // 2 + LINE * row), word, fill=colour, font=font)
            left += font.getlength(word) + 2 * GAP
    return np.asarray(strip)


def _heat_bar(name: str, scale: float) -> np.ndarray:
    """The colours of a map set from 0 to its scale."""
    bar = np.repeat(display.heat_colours(np.linspace(0, 1, 160))[None], TEXT, axis=0)
    framed = np.pad(bar, ((GAP, 0), (GAP, 0), (0, 0)), constant_values=PAPER[0])
    words = _text_lines([[(f"map {name}: 0 to {scale:.4g}, one scale for all cases", INK)]])
    return _beside([framed, words])


def _beside(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Panels in a row on dark paper."""
    height = max(panel.shape[0] for panel in panels)
    return np.concatenate([_padded(panel, height, panel.shape[1] + GAP) for panel in panels], axis=1)


def _stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Rows below each other on dark paper."""
    width = max(row.shape[1] for row in rows)
    return np.concatenate([_padded(row, row.shape[0] + GAP, width) for row in rows])


def _padded(panel: np.ndarray, height: int, width: int) -> np.ndarray:
    paper = np.full((height, width, 3), PAPER, np.uint8)
    paper[: panel.shape[0], : panel.shape[1]] = panel
    return paper
