"""What the page of a case says: facts, the path of the score, lesions in numbers, runs, which pictures there are."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from storage.errors import CohortError
from storage.export.display import heat_colours
from tasks.browser import pictures
from tasks.browser.cohorts import MapSet, Shown
from tasks.browser.radiomics import COLUMNS, TRUTH, Features, features_by_region, lesion_rows
from tasks.browser.runs import runs_of

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 190, 34, 14, 14, 26  # of the drawing of the score's path
STOPS = {"score": "score reached", "cap": "iteration cap", "empty": "nothing to inpaint"}
UNKNOWN = "–"
NOTED = {"score": "Score", "final_score": "Score at the end", "iterations": "Iterations", "stop_reason": "Stopped by"}
GRADIENT = [f"rgb({red} {green} {blue})" for red, green, blue in heat_colours(np.linspace(0, 1, 7)).tolist()]


@dataclass(frozen=True)
class Table:
    """Lesions in numbers: a head, rows of text, and where each lesion lies in shares of height and width."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]
    places: list[tuple[float, float] | None]


def case_context(shown: Shown, case: int, linked: bool) -> dict[str, Any]:
    """All that the template needs; `linked`: runs with addresses."""
    features = features_by_region(shown)
    marked, problem = _marked(shown, case)
    sets = [set_context(shown, maps, case, features, linked) for maps in shown.sets.values()]
    place = int(np.searchsorted(shown.cases, case))
    return {
        "case": case,
        "case_id": shown.case_ids[case],
        "position": place + 1,
        "count": len(shown.cases),
        "previous": int(shown.cases[place - 1]) if place > 0 else None,
        "next": int(shown.cases[place + 1]) if place + 1 < len(shown.cases) else None,
        "facts": facts(shown, case),
        "planes": planes(shown, case),
        "sets": sets,
        "lesions": lesions(shown, marked),
        "problem": problem,
        "annotated": bool(shown.cohort.table["has_masks"].iloc[case]),
        "truth_table": lesion_table(shown, case, "Annotated lesions", features.get(TRUTH)),
        "gradient": GRADIENT,
        "viewer": viewer(shown, case, sets, marked),
    }


def viewer(shown: Shown, case: int, sets: list[dict[str, Any]], marked: dict[int, list[str]]) -> dict[str, Any]:
    """What the page's script needs to know of the pictures."""
    keys = ("slug", "has", "strip", "inpainted", "iterations")
    return {
        "case": case,
        "channels": pictures.channel_suffixes(shown),
        "marked": {str(lesion): found for lesion, found in marked.items()},
        "sets": [{key: one[key] for key in keys} for one in sets],
    }


def _marked(shown: Shown, case: int) -> tuple[dict[int, list[str]], str]:
    """The planes in which lesions are marked, or why that is not known."""
    try:
        return pictures.marked_planes(shown, case), ""
    except CohortError as error:
        return {}, str(error)


def planes(shown: Shown, case: int) -> list[dict[str, Any]]:
    """The views that stand on the page; of a volume the axial slice with most lesion, and three projections."""
    grid = shown.cohort.shape(case)
    if len(grid) == 2:
        return [_plane(shown, case, "image", "")]
    titles = ("axial projection", "coronal projection", "sagittal projection")
    start = pictures.first_slice(shown, case)
    slices = {**_plane(shown, case, f"axial-{start}", "axial slice"), "start": start, "slices": grid[0]}
    return [slices, *(_plane(shown, case, f"mip-{axis}", title) for axis, title in enumerate(titles))]


def _plane(shown: Shown, case: int, name: str, title: str) -> dict[str, Any]:
    view = pictures.view_of(name, shown.cohort.shape(case))
    height, width = pictures.shown_size(shown, case, view, pictures.OUTLINED, grow=True)
    return {"name": name, "title": title, "height": height, "width": width, "start": 0, "slices": 0}


def lesions(shown: Shown, marked: dict[int, list[str]]) -> list[dict[str, Any]]:
    """The lesion classes with their colours; which are marked in the case."""
    return [
        {"number": number, "name": name, "colour": colour_text(number), "marked": number in marked}
        for number, name in enumerate(shown.cohort.lesions)
    ]


def colour_text(lesion: int) -> str:
    """The colour of a lesion class for a style sheet."""
    return "#{:02x}{:02x}{:02x}".format(*pictures.lesion_colour(lesion))


def facts(shown: Shown, case: int) -> list[tuple[str, str]]:
    """What the cohort knows of a case, whatever the map set."""
    cohort, row = shown.cohort, shown.cohort.table.iloc[case]
    spacing = cohort.spacing(case)
    known = all(math.isfinite(mm) for mm in spacing)
    return [
        ("Patient", str(row["patient_id"])),
        ("Split", str(row["split"])),
        *((label, number(row[label])) for label in cohort.labels),
        ("Size", " × ".join(map(str, cohort.shape(case))) + (" voxels" if len(spacing) == 3 else " pixels")),
        ("Spacing", " × ".join(f"{mm:.4g}" for mm in spacing) + " mm" if known else "unknown"),
        ("Channels", ", ".join(cohort.channels)),
        ("Annotated", "yes" if row["has_masks"] else "no"),
        ("File", str(row["file"])),
    ]


def set_context(shown: Shown, maps: MapSet, case: int, features: dict[str, Features], linked: bool) -> dict[str, Any]:
    """What a map set knows of a case."""
    has, threshold = case in maps.cases, features[maps.name].threshold if maps.name in features else None
    note = "" if threshold is None else f"where the map is at least {number(threshold)}"
    path, strip, problem = refinement(maps, case) if has else (np.array([]), None, "")
    return {
        "name": maps.name,
        "slug": maps.slug,
        "has": has,
        "problem": problem,
        "scale": number(_scale(maps)),
        "facts": set_facts(maps, case) if has else [],
        "path": score_path(path, _number_of(maps, "stop_score")) if len(path) > 1 else None,
        "iterations": max(0, len(path) - 1),
        "strip": strip,
        "inpainted": has and pictures.has_inpainted(maps),
        "table": lesion_table(shown, case, "Found lesions", features.get(maps.name), note) if has else None,
        "runs": runs_of(maps, linked),
    }


def refinement(maps: MapSet, case: int) -> tuple[np.ndarray, dict[str, int] | None, str]:
    """The path of the score, how the picture of the growing map is cut into frames, and what of it is damaged."""
    path = np.array([])
    try:
        path = pictures.scores(maps, case)
        if not pictures.has_steps(maps):
            return path, None, ""
        count, height, width = pictures.steps(maps, case).shape
        return path, {"count": count, "height": height, "width": width}, ""
    except CohortError as error:
        return path, None, str(error)


def _scale(maps: MapSet) -> float:
    try:
        return float(maps.scale)
    except CohortError:
        return math.nan


def set_facts(maps: MapSet, case: int) -> list[tuple[str, str]]:
    """What was noted of a case as its map was made."""
    row = maps.table.loc[case]
    return [(NOTED.get(str(name), str(name)), STOPS.get(str(value), number(value))) for name, value in row.items()]


def _number_of(maps: MapSet, name: str) -> float | None:
    value = maps.maps.attrs.get(name)
    return float(value) if isinstance(value, int | float) else None


def score_path(path: np.ndarray, stop: float | None) -> dict[str, Any]:
    """The score by iteration as a drawing: points, ticks, and the line below which the loop stops."""
    seen: list[float] = [*path.tolist(), *([stop] if stop is not None else [])]
    low, high = min(0.0, *seen), max(seen)
    ticks = nice_ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def across(iteration: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * iteration / max(1, len(path) - 1), 1)

    def down(score: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - score) / (high - low or 1.0), 1)

    places = range(0, len(path), max(1, -(-len(path) // 11)))
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "base": HEIGHT - BOTTOM,
        "points": [(across(place), down(score), number(score)) for place, score in enumerate(path.tolist())],
        "stop": None if stop is None else (down(stop), number(stop)),
        "ticks": [(down(tick), number(tick)) for tick in ticks],
        "places": [(across(place), place) for place in places],
    }


def nice_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that span low to high."""
    span = high - low or 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / 3))
    step = next(step for step in (1, 2, 5, 10) if span / (step * magnitude) <= 5) * magnitude
    return [round(step * place, 10) for place in range(math.floor(low / step), math.ceil(high / step - 1e-9) + 1)]


def lesion_table(shown: Shown, case: int, title: str, features: Features | None, note: str = "") -> Table | None:
    """The lesions of a case, the largest first; None without a table of radiomics, or without the case in it."""
    if features is None:
        return None
    rows = _rows_of(features, shown.case_ids[case])
    if rows.empty:
        return None
    each = rows[rows["lesion"] != 0].sort_values("n_pixels", ascending=False)
    names = [name for name in COLUMNS if name in rows]
    units = " mm" if len(each) and each["units"].iloc[0] == "mm" else ""
    measures = {"area": f"{units}²", "morph_pca_maj_axis": units} if units else {}
    counted = f"{len(each)} lesions" if len(each) != 1 else "1 lesion"
    grid = shown.cohort.shape(case)[-2:]
    return Table(
        title,
        ", ".join(part for part in (counted, note) if part),
        [COLUMNS[name] + measures.get(name, "") for name in names],
        [[number(value) for value in row] for row in each[names].itertuples(index=False, name=None)],
        [_place(y, x, grid) for y, x in each[["centroid_y", "centroid_x"]].itertuples(index=False, name=None)],
    )


@lru_cache(maxsize=64)
def _rows_of(features: Features, case_id: str) -> pd.DataFrame:
    return lesion_rows(features, case_id)


def _place(y: float, x: float, grid: tuple[int, ...]) -> tuple[float, float] | None:
    """The middle of a lesion in shares of height and width."""
    if not (math.isfinite(y) and math.isfinite(x)):
        return None
    return round((y + 0.5) / grid[0], 4), round((x + 0.5) / grid[1], 4)


def number(value: Any) -> str:
    """To four digits; a dash for what is no number."""
    if isinstance(value, float | np.floating):
        return f"{float(value):.4g}".replace("-", "−") if math.isfinite(value) else UNKNOWN
    return str(value)
