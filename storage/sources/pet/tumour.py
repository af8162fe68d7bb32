"""One tumour: its nature (how large, how hot, how uneven), its shape, and the exact share that it fills of each voxel.

The uptake inside is fixed by its histogram: a share q of the tumour takes up less than SUVmax · f(q). Smooth noise only
decides which part takes which value. So volume, SUVmax and coefficient of variation are what `Nature` says, on any grid
that is fine enough, before the scanner blurs them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from storage.sources.pet.shapes import Axes, Box, Mask, Place, Values, axes_of, draw_within, place_of, smooth_noise

LARGEST_ML, SMALLEST_ML = 120.0, 3.0
_SUBVOXEL_MM = 2.0  # a voxel is cut into pieces no larger than this, and into at least eight
_LOBES = 8
_LOBE_SHARPNESS = 4.0
_REACH = 1.75  # radius of the box around a tumour, over its radius without lobes

Allowed = Callable[[Axes], Mask]
Path = Callable[[Values], tuple[Values, Values]]


@dataclass(frozen=True)
class Nature:
    """What a tumour is, apart from where: `depth` is how far uptake falls from SUVmax to the coolest viable part.

    `necrotic` is the share of the volume that is dead, 0 for most tumours; its coolest point takes up `cold` of the
    coolest viable part.
    """

    volume_ml: float
    suv_max: float
    depth: float
    necrotic: float
    cold: float

    def uptake(self, q: Values) -> Values:
        """f(q): uptake over SUVmax that a share `q` (0 to 1) of the tumour does not exceed."""
        viable = np.clip((q - self.necrotic) / (1 - self.necrotic), 0, 1)
        hot = 1 - self.depth * (1 - viable)
        if not self.necrotic:
            return np.asarray(hot)
        edge = 1 - self.depth
        core = edge * (self.cold + (1 - self.cold) * np.clip(q / self.necrotic, 0, 1) ** 3)
        return np.asarray(np.where(q < self.necrotic, core, hot))

    @property
    def cov(self) -> float:
        """Coefficient of variation of the uptake inside: IBSI's `stat_cov` without blur and noise."""
        edge, w, c = 1 - self.depth, self.necrotic, self.cold
        viable = (1 + edge) / 2, (1 + edge + edge**2) / 3  # means of f and of f² over each part
        core = edge * (c + (1 - c) / 4), edge**2 * (c**2 + c * (1 - c) / 2 + (1 - c) ** 2 / 7)
        mean, square = (w * dead + (1 - w) * alive for dead, alive in zip(core, viable, strict=True))
        return float(np.sqrt(square / mean**2 - 1))


@dataclass(frozen=True, eq=False)
class Tumour:
    """A tumour in its place: `centre` in mm, `stretch` how much longer along z, `lobes` (N, 4) direction and height.

    `core` is where it is dead, in its radii from the centre; `noise_seed` draws which part of it is hot.
    """

    nature: Nature
    centre: Place
    stretch: float
    lobes: Values
    core: Values
    noise_seed: int
    is_hidden: bool

    @property
    def radii(self) -> Place:
        """(z, y, x) in mm of the ellipsoid of its volume."""
        across = (self.nature.volume_ml * 1000 * 3 / (4 * np.pi * self.stretch)) ** (1 / 3)
        return float(self.stretch * across), float(across), float(across)


def draw_nature(rng: np.random.Generator) -> Nature:
    """Volume and SUVmax log-normal; three in ten necrotic, large ones more often."""
    volume = draw_within(rng, 22.0, 0.9, SMALLEST_ML, LARGEST_ML)
    suv_max = draw_within(rng, 9.0, 0.42, 4.0, 20.0)
    depth = rng.uniform(0.3, 0.8)
    odds = np.exp(-0.95 + 0.9 * np.log(volume / 22.0) / 0.9)
    necrotic = rng.uniform(0.12, 0.40) if rng.random() < odds / (1 + odds) else 0.0
    return Nature(volume, suv_max, depth, necrotic, rng.uniform(0.15, 0.5))


def draw_tumour(
    rng: np.random.Generator, nature: Nature, centre: Place, stretch: float, is_hidden: bool = False
) -> Tumour:
    """Its outline and where it is hot, at random."""
    ways = rng.standard_normal((_LOBES, 3))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    heights = rng.normal(0.0, 0.22, (_LOBES, 1))
    return Tumour(
        nature=nature,
        centre=centre,
        stretch=stretch,
        lobes=np.hstack([ways, heights]).astype(np.float32),
        core=rng.uniform(-0.3, 0.3, 3).astype(np.float32),
        noise_seed=int(rng.integers(2**62)),
        is_hidden=is_hidden,
    )


def rendered(
    tumour: Tumour, axes: Axes, spacing: float, allowed: Allowed, path: Path | None
) -> tuple[Box, Values, Values]:
    """The box of voxels around a tumour, the share of each that it fills, and its SUV over the whole voxel.

    It grows only where `allowed` says so, and keeps its volume. `path` gives y and x, in mm, of the tube that it grows
    along, for places z; without one it grows straight.
    """
    reach = _REACH * np.array(tumour.radii) + spacing
    box = axes.around(place_of(tumour.centre - reach), place_of(tumour.centre + reach))
    pieces = max(2, int(np.ceil(spacing / _SUBVOXEL_MM)))
    fine = _refined(axes.cut(box), spacing, pieces)
    own = _own_coordinates(tumour, fine, path)
    radius = np.where(allowed(fine), _lobed_radius(tumour, own), np.float32(np.inf))
    cells = min(round(tumour.nature.volume_ml * 1000 / (spacing / pieces) ** 3), int(np.isfinite(radius).sum()))
    edge = np.partition(radius, cells - 1, axis=None)[cells - 1]
    inside = radius <= edge
    suv = np.zeros(inside.shape, np.float32)
    suv[inside] = _uptake(tumour, fine, own, radius / edge, inside)
    return box, _coarsened(inside.astype(np.float32), pieces), _coarsened(suv, pieces)


def _refined(axes: Axes, spacing: float, pieces: int) -> Axes:
    """The centres of all pieces of all voxels."""
    within = ((np.arange(pieces) + 0.5) / pieces - 0.5) * spacing
    return axes_of(*((axis.ravel()[:, None] + within).ravel() for axis in axes.along()))


def _coarsened(values: Values, pieces: int) -> Values:
    """The mean of all pieces of each voxel."""
    z, y, x = (size // pieces for size in values.shape)
    return np.asarray(values.reshape(z, pieces, y, pieces, x, pieces).mean(axis=(1, 3, 5)))


def _own_coordinates(tumour: Tumour, axes: Axes, path: Path | None) -> Values:
    """(3, Z, Y, X): places from the centre, or from the tube, in radii."""
    z, y, x = (axis - np.float32(middle) for axis, middle in zip(axes.along(), tumour.centre, strict=True))
    if path:
        (there_y, there_x), (here_y, here_x) = path(axes.z), path(np.float32(tumour.centre[0]) + 0 * axes.z[:1])
        y, x = y - (there_y - here_y), x - (there_x - here_x)
    return np.stack(np.broadcast_arrays(*(one / np.float32(r) for one, r in zip((z, y, x), tumour.radii, strict=True))))


def _lobed_radius(tumour: Tumour, own: Values) -> Values:
    """Distance from the centre, shortened where a lobe bulges; every ray meets each value once, so it is one piece."""
    distance = np.sqrt((own**2).sum(axis=0)) + np.float32(1e-6)
    log_reach = np.zeros_like(distance)
    for way_z, way_y, way_x, height in tumour.lobes:
        towards = (own[0] * way_z + own[1] * way_y + own[2] * way_x) / distance
        log_reach += height * np.exp(np.float32(_LOBE_SHARPNESS) * (towards - 1))
    return np.asarray(distance * np.exp(-log_reach))


def _uptake(tumour: Tumour, axes: Axes, own: Values, radius: Values, inside: Mask) -> Values:
    """SUV of the places inside: their order by smooth noise, the centre or, if necrotic, the rim; values by f(q)."""
    reach = 2.2 * np.array(tumour.radii)
    low, high = place_of(tumour.centre - reach), place_of(tumour.centre + reach)
    cell = float(np.clip(0.45 * tumour.radii[1], 4.0, 9.0))
    order = smooth_noise(np.random.default_rng(tumour.noise_seed), axes, low, high, cell)[inside]
    if tumour.nature.necrotic:
        from_core = own[:, inside] - tumour.core[:, None]
        order = 0.45 * order + 2.5 * np.minimum(np.sqrt((from_core**2).sum(axis=0)), np.float32(0.75))
    else:
        order -= np.float32(1.2) * radius[inside] ** 2
    q = np.empty(len(order), np.float32)
    q[np.argsort(order)] = (np.arange(len(order), dtype=np.float32) + 0.5) / len(order)
    return np.float32(tumour.nature.suv_max) * tumour.nature.uptake(q)
