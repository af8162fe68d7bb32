"""The retinal vessel tree: arteries and veins in arcades around the macula, grown level by level, painted as blood."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from storage.sources.fundus.spots import FIELD_SHARE, Plane, Points

_VEIN_WIDTH, _ARTERY_WIDTH = 0.033, 0.024  # of an arcade at the disc
_TRUNK_SHARES = (1.0, 0.6, 0.42, 0.22)  # widths of the arcade, two nasal trunks and the macular twig over the arcade's
_TRUNK_STEPS = 32  # points along a trunk
_BLOOD_OF_LEVEL = (1.0, 0.8, 0.6, 0.42)  # thin vessels hold less blood in depth
_ARTERY_SHARE = 0.72  # arterial blood is brighter
_REFLEX = {False: 0.45, True: 0.8}  # what the light streak along an artery / a vein leaves of the density
_SHIFT = 4  # fractional bits of cv2's drawing coordinates


@dataclass(frozen=True, eq=False)
class Vessels:
    """N vessels of one level, each a polyline: `points` (N, M, 2) as x, y, `width` (N, M), in field-of-view radii."""

    points: Points
    width: Points
    is_vein: npt.NDArray[np.bool_]  # (N,)


def grow_tree(rng: np.random.Generator, disc: Points, fovea: Points, tortuosity: float) -> tuple[Vessels, ...]:
    """Four levels of vessels, trunks first, for an eye whose disc and fovea lie at `disc` and `fovea` (x, y)."""
    nasal = float(np.sign(disc[0] - fovea[0]))
    trunks = _trunks(rng, disc, nasal, tortuosity)
    branches = _branches(rng, trunks, 5, 0.36, (0.40, 0.66), fovea, tortuosity, 14)
    twigs = _branches(rng, branches, 3, 0.45, (0.5, 0.75), fovea, tortuosity, 8)
    return trunks, branches, twigs, _branches(rng, twigs, 1, 0.5, (0.55, 0.8), fovea, tortuosity, 4)


def _trunks(rng: np.random.Generator, disc: Points, nasal: float, tortuosity: float) -> Vessels:
    """Trunks above and below the disc, veins first."""
    kinds = [(is_vein, up) for is_vein in (True, False) for up in (-1.0, 1.0)]
    control = np.concatenate([_trunk_controls(rng, up, is_vein) for is_vein, up in kinds])
    control += rng.normal(0.0, 0.025, control.shape) * np.array([0.0, 1.0, 1.0, 1.0])[:, None]
    control[:, 0] += rng.uniform(-0.03, 0.03, (len(control), 2))
    points = _wander(rng, _bezier(control * [nasal, 1.0] + disc, _TRUNK_STEPS), 1.0, tortuosity)
    is_vein = np.repeat([kind for kind, _ in kinds], len(_TRUNK_SHARES))
    first = np.where(is_vein, _VEIN_WIDTH, _ARTERY_WIDTH) * np.tile(_TRUNK_SHARES, len(kinds))
    first = first * rng.uniform(0.85, 1.1, len(control))
    return Vessels(points, first[:, None] * np.linspace(1.0, 0.5, _TRUNK_STEPS), is_vein)


def _trunk_controls(rng: np.random.Generator, up: float, is_vein: bool) -> Points:
    """Bézier controls (4, 4, 2), from the disc and towards the nose: an arcade, two nasal trunks, a macular twig."""
    apart = 0.0 if is_vein else rng.choice([-0.08, 0.08])
    bow, steep, flat = rng.uniform(0.66, 0.92) + apart, rng.uniform(-0.1, 0.3), rng.uniform(0.2, 0.7)
    arcade = [[0, 0], [rng.uniform(-0.05, 0.12), 0.45], [-0.55, bow], [-1.75, bow - 0.45]]
    steep_trunk = [[0, 0], [0.04 + apart, 0.25], [0.5 * steep, 0.6], [steep, 1.2]]
    flat_trunk = [[0, 0], [0.16, 0.16], [0.36, 0.6 * flat], [0.8, flat]]
    twig = [[0, 0], [-0.16, 0.06], [-0.34, rng.uniform(0.1, 0.2)], [-0.5, rng.uniform(0.12, 0.26)]]
    return np.array([arcade, steep_trunk, flat_trunk, twig]) * [1.0, up]


def _branches(
    rng: np.random.Generator,
    parents: Vessels,
    per_parent: int,
    length: float,
    width_ratio: tuple[float, float],
    fovea: Points,
    tortuosity: float,
    steps: int,
) -> Vessels:
    """Branches of each parent, about `length` of its chord long, to both sides, clear of the fovea."""
    n_points = parents.points.shape[1]
    parent = np.repeat(np.arange(len(parents.points)), per_parent)
    number = np.tile(np.arange(per_parent), len(parents.points))
    at = ((0.17 + 0.78 * (number + rng.random(len(parent))) / per_parent) * (n_points - 2)).astype(np.int64)
    side = np.where((number + rng.integers(0, 2, len(parents.points))[parent]) % 2, 1.0, -1.0)
    start = parents.points[parent, at]
    tangent = parents.points[parent, at + 1] - start
    leave = np.arctan2(tangent[:, 1], tangent[:, 0]) + side * rng.uniform(0.45, 1.15, len(parent))
    settle = leave - side * rng.uniform(-0.2, 0.9, len(parent))
    chord = np.linalg.norm(parents.points[:, -1] - parents.points[:, 0], axis=-1)[parent]
    reach = length * chord * rng.uniform(0.45, 1.3, len(parent))
    middle = start + 0.5 * reach[:, None] * _unit(leave)
    end = _clear_of(middle + 0.5 * reach[:, None] * _unit(settle), fovea, 0.13)
    points = _wander(rng, _bezier(np.stack([start, middle, end], axis=1), steps), 0.5, tortuosity)
    first = parents.width[parent, at] * rng.uniform(*width_ratio, len(parent))
    return Vessels(points, first[:, None] * np.linspace(1.0, 0.3, steps), parents.is_vein[parent])


def _unit(angle: Points) -> Points:
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _clear_of(points: Points, fovea: Points, radius: float) -> Points:
    """Points (N, 2) within `radius` of the fovea moved out to that distance: its middle carries no vessels."""
    away = points - fovea
    distance = np.maximum(np.hypot(away[:, 0], away[:, 1]), 1e-6)[:, None]
    return np.asarray(fovea + away * np.maximum(1.0, radius / distance))


def _bezier(control: Points, steps: int) -> Points:
    """Bézier curves with control points (N, K, 2), sampled at (N, steps, 2)."""
    t = np.linspace(0.0, 1.0, steps)[:, None]
    if control.shape[1] == 4:
        basis = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    else:
        basis = np.hstack([(1 - t) ** 2, 2 * t * (1 - t), t**2])
    return np.asarray(np.einsum("sk,nkd->nsd", basis, control))


def _wander(rng: np.random.Generator, points: Points, span: float, tortuosity: float) -> Points:
    """Curves displaced across their course by a few random waves, growing from nothing at the start."""
    t = np.linspace(0.0, 1.0, points.shape[1])
    waves = np.array([1.3, 2.7, 4.9, 7.9]) * span
    chord = np.linalg.norm(points[:, -1] - points[:, 0], axis=-1)[:, None]
    height = 0.018 * tortuosity * chord**0.8 * rng.normal(0.0, 1.0, (len(points), 4)) / waves
    phase = rng.uniform(0.0, 2 * np.pi, (len(points), 4, 1))
    offset = np.einsum("nw,nwt->nt", height, np.sin(2 * np.pi * waves[:, None] * t + phase)) * np.minimum(1.0, 4 * t)
    tangent = np.gradient(points, axis=1)
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    return np.asarray(points + offset[..., None] * normal)


def paint_blood(tree: tuple[Vessels, ...], size: int, zoom: float = 1.0) -> Plane:
    """Blood in depth (H, W): about 1 in the thickest vein, adding up where vessels cross."""
    canvas_size = max(512, 2 * size)
    depth = np.zeros((size, size), np.float32)
    for is_vein in (True, False):
        canvas = np.zeros((canvas_size, canvas_size), np.uint8)
        for level in reversed(range(len(tree))):
            _draw_level(canvas, tree[level], is_vein, _BLOOD_OF_LEVEL[level], zoom)
        _draw_level(canvas, tree[0], is_vein, _REFLEX[is_vein], zoom, thinner=0.3)
        layer = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
        depth += layer.astype(np.float32) * ((1.0 if is_vein else _ARTERY_SHARE) / 255)
    return depth


def _draw_level(
    canvas: npt.NDArray[np.uint8], vessels: Vessels, is_vein: bool, depth: float, zoom: float, thinner: float = 1.0
) -> None:
    """Draw the arteries or veins of one level into `canvas`, segments of one thickness together."""
    scale = FIELD_SHARE * len(canvas) / 2 * zoom
    chosen = vessels.is_vein == is_vein
    points = vessels.points[chosen] * scale + (len(canvas) - 1) / 2
    fixed = np.rint(points * 2**_SHIFT).astype(np.int32)
    thickness = np.maximum(np.rint(vessels.width[chosen] * scale * thinner), 1).astype(np.int64)[:, :-1]
    segments = np.stack([fixed[:, :-1], fixed[:, 1:]], axis=2)
    for pixels in np.unique(thickness):
        cv2.polylines(
            canvas, list(segments[thickness == pixels]), False, round(255 * depth), int(pixels), cv2.LINE_8, _SHIFT
        )
