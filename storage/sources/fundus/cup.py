"""The cup of the optic disc, the notch by which glaucoma widens it, and the vessels that bend at its edge.

Positions are in disc coordinates: the disc is the unit circle, x and y run as in the picture.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.sources.fundus.anatomy import DISC_RADIUS, Eye, ramp
from storage.sources.fundus.spots import Grid, Plane, Points
from storage.sources.fundus.vessels import Vessels

_FINER = 6  # pieces that each segment of a trunk is cut into, so that it can bend within the disc
_BEND = 0.14  # width of the bend, in disc radii

Values = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Cup:
    """A cup without disease: nearly round, of any size up to three quarters of the disc."""

    centre: Points  # (2,)
    radius: float
    oval: float  # how much taller than wide
    pallor: float  # how pale against the rim, about 1
    softness: float  # width of its edge
    shift: Points  # (2,) by which vessels are displaced within the cup


@dataclass(frozen=True)
class Notch:
    """A part of the rim that is lost; angles in radians about the cup's centre."""

    angle: float
    half_width: float
    reach: float  # share of the rim that is gone in the notch's middle


def draw_cup(rng: np.random.Generator, radius: float, nasal: float) -> Cup:
    """The cup of one eye, of about the patient's usual `radius`; `nasal` is the sign of x towards the nose."""
    return Cup(
        centre=np.array([-nasal * rng.uniform(0.0, 0.12), rng.uniform(-0.05, 0.05)]),
        radius=radius * rng.uniform(0.94, 1.06),
        oval=rng.uniform(-0.06, 0.10),
        pallor=rng.uniform(0.6, 1.05),
        softness=rng.uniform(0.12, 0.32),
        shift=np.array([nasal * rng.uniform(0.08, 0.20), rng.uniform(-0.03, 0.03)]),
    )


def draw_notch(rng: np.random.Generator, nasal: float) -> Notch:
    """Loss of the rim, in five of six eyes above or below on the temporal side, otherwise anywhere."""
    pole = rng.choice([-1.0, 1.0])
    from_temporal = rng.uniform(0.25, 0.53) * np.pi if rng.random() < 5 / 6 else rng.uniform(0.0, np.pi)
    return Notch(
        angle=float(np.arctan2(pole * np.sin(from_temporal), -nasal * np.cos(from_temporal))),
        half_width=rng.uniform(0.95, 1.55),
        reach=rng.uniform(0.7, 1.0),
    )


def excavation(cup: Cup, notch: Notch | None, eye: Eye, grid: Grid) -> Plane:
    """Share (H, W) of the rim's depth that is hollowed out: 1 in the cup, 0 outside."""
    stretch = np.float32(np.sqrt(eye.disc_aspect))
    x = (grid.x - np.float32(eye.disc[0])) * stretch / np.float32(DISC_RADIUS)
    y = (grid.y - np.float32(eye.disc[1])) / stretch / np.float32(DISC_RADIUS)
    return ramp(_depth_inside(cup, notch, x, y) / np.float32(cup.softness) + 0.5)


def _depth_inside(cup: Cup, notch: Notch | None, x: Values, y: Values) -> Values:
    """How far (x, y) lies within the cup's edge, seen from its centre; negative outside."""
    across, down = x - cup.centre[0], y - cup.centre[1]
    angle = np.arctan2(down, across)
    edge = cup.radius * (1 - cup.oval * np.cos(2 * angle))
    if notch:
        apart = np.abs((angle - notch.angle + np.pi) % (2 * np.pi) - np.pi)
        share = notch.reach * ramp((notch.half_width - apart) / (0.6 * notch.half_width))
        edge = edge + share * np.maximum(_to_margin(cup.centre, angle) - edge, 0)
    return np.asarray(edge - np.hypot(across, down))


def _to_margin(place: Points, angle: Values) -> Values:
    """Distance from `place` to the unit circle at each angle."""
    along = place[0] * np.cos(angle) + place[1] * np.sin(angle)
    return np.asarray(np.sqrt(along**2 + 1 - place @ place) - along)


def bent(tree: tuple[Vessels, ...], cup: Cup, notch: Notch | None, eye: Eye) -> tuple[Vessels, ...]:
    """`tree` with the trunks displaced within the cup, so that they bend where they climb over its edge."""
    trunks = _finer(tree[0])
    stretch = np.array([np.sqrt(eye.disc_aspect), 1 / np.sqrt(eye.disc_aspect)])
    x, y = np.moveaxis((trunks.points - eye.disc) * stretch / DISC_RADIUS, -1, 0)
    share = ramp(_depth_inside(cup, notch, x, y) / _BEND + 0.5)[..., None]
    return replace(trunks, points=trunks.points + share * cup.shift * DISC_RADIUS / stretch), *tree[1:]


def _finer(vessels: Vessels) -> Vessels:
    """The same vessels with `_FINER` times as many segments."""
    count = vessels.points.shape[1]
    at = np.arange((count - 1) * _FINER + 1) / _FINER
    before = np.minimum(at.astype(np.int64), count - 2)
    share = at - before
    points, width = vessels.points, vessels.width
    return Vessels(
        points[:, before] + share[:, None] * (points[:, before + 1] - points[:, before]),
        width[:, before] + share * (width[:, before + 1] - width[:, before]),
        vessels.is_vein,
    )
