"""Small blobs of any kind (lesions and look-alikes): drawn as parameters, then painted on a grid of any size."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]

FIELD_SHARE = 0.97  # diameter of the field of view over the side of the grid
_WOBBLES = np.array([[2.0, 0.50], [3.0, 0.35], [5.0, 0.25]])  # angular frequency and weight of an outline's harmonics


@dataclass(frozen=True, eq=False)
class Grid:
    """Pixel centres of a square image in field-of-view radii, origin at its middle, y downwards."""

    size: int
    scale: float  # pixels a field-of-view radius
    x: Plane  # (H, W)
    y: Plane  # (H, W)
    r: Plane  # (H, W) distance from the middle


@lru_cache(maxsize=8)
def grid_of(size: int, zoom: float = 1.0) -> Grid:
    """The grid of side `size`, made once and shared (its arrays are read-only); `zoom` enlarges about the middle."""
    scale = FIELD_SHARE * size / 2 * zoom
    axis = ((np.arange(size) - (size - 1) / 2) / scale).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    r = np.hypot(x, y)
    for plane in (x, y, r):
        plane.setflags(write=False)
    return Grid(size, scale, x, y, r)


@dataclass(frozen=True, eq=False)
class Spots:
    """N blobs: `centre` (N, 2) as x, y and `radius` (N,) in field-of-view radii, the rest shares and radians.

    `softness` is the width of the edge, `irregularity` the depth of the outline's lobes, both over the radius.
    """

    centre: Points
    radius: Points
    contrast: Points
    aspect: Points
    angle: Points
    softness: Points
    irregularity: Points
    phase: Points  # (N, 3), one a harmonic of the outline

    def __len__(self) -> int:
        return len(self.radius)


def draw_spots(
    rng: np.random.Generator,
    centre: Points,
    radius: Points,
    contrast: Points,
    *,
    aspect: float = 1.3,
    softness: float = 0.4,
    irregularity: float = 0.25,
) -> Spots:
    """Spots at `centre` with random elongation up to `aspect`, orientation and outline."""
    n = len(radius)
    return Spots(
        centre=centre,
        radius=radius,
        contrast=contrast,
        aspect=rng.uniform(1.0, aspect, n),
        angle=rng.uniform(0.0, np.pi, n),
        softness=softness * rng.uniform(0.8, 1.2, n),
        irregularity=irregularity * rng.uniform(0.5, 1.5, n),
        phase=rng.uniform(0.0, 2 * np.pi, (n, len(_WOBBLES))),
    )


def draw_range(rng: np.random.Generator, limits: tuple[float, float], n: int, skew: float = 1.0) -> Points:
    """`n` values between the limits; a skew above 1 favours the low end."""
    return limits[0] + (limits[1] - limits[0]) * rng.random(n) ** skew


def paint(spots: Spots, grid: Grid) -> tuple[Plane, Plane]:
    """Return `(profile, strength)`, both (H, W) in 0–1: the highest profile and profile × contrast of any spot."""
    profile = np.zeros((grid.size, grid.size), np.float32)
    strength = np.zeros_like(profile)
    if len(spots):
        index, values = _stamps(spots, grid)
        inside = ((index >= 0) & (index < grid.size)).all(axis=-1)
        rows, columns = index[inside].T
        np.maximum.at(profile, (rows, columns), values[inside])
        faded = values * spots.contrast[:, None, None].astype(np.float32)
        np.maximum.at(strength, (rows, columns), faded[inside])
    return profile, strength


def _stamps(spots: Spots, grid: Grid) -> tuple[npt.NDArray[np.int64], Plane]:
    """Pixel indices (N, K, K, 2) as row, column and profile values (N, K, K) of a window around each spot."""
    edge = np.maximum(spots.softness * spots.radius * grid.scale, 0.7)  # pixels: an edge sharper than that would alias
    reach = spots.radius * grid.scale * np.sqrt(spots.aspect) * (1 + 1.1 * spots.irregularity) + edge
    half = int(np.ceil(reach.max())) + 1
    middle = (spots.centre * grid.scale + (grid.size - 1) / 2)[:, ::-1]
    nearest = np.rint(middle).astype(np.int64)
    window = np.arange(-half, half + 1)
    dy = (nearest[:, :1] + window - middle[:, :1]).astype(np.float32)[:, :, None]
    dx = (nearest[:, 1:] + window - middle[:, 1:]).astype(np.float32)[:, None, :]
    values = _profile(spots, dx, dy, grid.scale, edge)
    rows = np.broadcast_to((nearest[:, :1] + window)[:, :, None], values.shape)
    columns = np.broadcast_to((nearest[:, 1:] + window)[:, None, :], values.shape)
    return np.stack([rows, columns], axis=-1), values


def _profile(spots: Spots, dx: Plane, dy: Plane, scale: float, edge: Points) -> Plane:
    """Profile of each spot at pixel offsets (dx, dy): 1 inside, 0 outside, smooth over 2 `edge` pixels in between."""

    def each(values: Points) -> Plane:
        return values.astype(np.float32)[:, None, None]

    cosine, sine = each(np.cos(spots.angle)), each(np.sin(spots.angle))
    stretch = each(np.sqrt(spots.aspect))
    along, across = (dx * cosine + dy * sine) / stretch, (dy * cosine - dx * sine) * stretch
    theta = np.arctan2(across, along)
    lobes = sum(weight * np.cos(k * theta + each(spots.phase[:, i])) for i, (k, weight) in enumerate(_WOBBLES.tolist()))
    outline = each(spots.radius * scale) * (1 + each(spots.irregularity) * lobes)
    ramp = np.clip(0.5 + (outline - np.hypot(along, across)) / (2 * each(edge)), 0.0, 1.0)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)
