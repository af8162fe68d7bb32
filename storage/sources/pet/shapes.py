"""Where things lie in a simulated body: axes in mm, ellipsoids with the share of a voxel that they fill, smooth noise.

Places and lengths are (z, y, x) in mm; z grows to the head, y to the back, x to the patient's left.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]
Positions = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]
Place = tuple[float, float, float]
Box = tuple[slice, slice, slice]
Frame = tuple[Place, Place, Place]

UPRIGHT: Frame = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
_CUBIC = 315 / 151  # over the mean sum of squared weights of a cubic B-spline: makes noise of variance 1 along one axis


@dataclass(frozen=True, eq=False)
class Axes:
    """The centres of voxels along z (Z, 1, 1), y (1, Y, 1) and x (1, 1, X) in mm."""

    z: Values
    y: Values
    x: Values

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        return self.z.size, self.y.size, self.x.size

    def around(self, low: Place, high: Place) -> Box:
        """The box of all voxels whose centres lie between two corners."""
        z, y, x = (
            slice(*np.searchsorted(axis.ravel(), (a, b))) for axis, a, b in zip(self.along(), low, high, strict=True)
        )
        return z, y, x

    def cut(self, box: Box) -> "Axes":
        """The axes of a box."""
        return axes_of(*(axis.ravel()[part] for axis, part in zip(self.along(), box, strict=True)))

    def along(self) -> tuple[Values, Values, Values]:
        """z, y, x."""
        return self.z, self.y, self.x


def axes_of(z: Positions, y: Positions, x: Positions) -> Axes:
    """Axes from three lists of positions."""
    return Axes(
        z.astype(np.float32)[:, None, None], y.astype(np.float32)[None, :, None], x.astype(np.float32)[None, None]
    )


@dataclass(frozen=True)
class Ellipsoid:
    """`frame` holds its own three axes as unit vectors, in the order of `radii`."""

    centre: Place
    radii: Place
    frame: Frame = field(default=UPRIGHT)

    def along(self, axes: Axes) -> list[Values]:
        """How far each voxel lies along each of the ellipsoid's own axes, in its radii; to be broadcast."""
        offsets = [axis - np.float32(middle) for axis, middle in zip(axes.along(), self.centre, strict=True)]
        return [
            sum((np.float32(part / radius) * offset for part, offset in zip(way, offsets, strict=True) if part), _ZERO)
            for way, radius in zip(self.frame, self.radii, strict=True)
        ]

    def depth(self, axes: Axes) -> Values:
        """How far below the surface a voxel's centre lies, in mm: exact to first order at the surface, else roughly."""
        inside = self.along(axes)
        steepness = sum(
            ((share / np.float32(radius)) ** 2 for share, radius in zip(inside, self.radii, strict=True)), _ZERO
        )
        rho = np.sqrt(sum((share**2 for share in inside), _ZERO))
        return np.asarray((1 - rho) * rho / np.sqrt(steepness + np.float32(1e-9)) + np.float32(1e-3) * (1 - rho))

    def box(self, axes: Axes, margin: float) -> Box:
        """The voxels that it may touch."""
        reach = np.sqrt(((np.array(self.frame) * np.array(self.radii)[:, None]) ** 2).sum(axis=0)) + margin
        return axes.around(place_of(self.centre - reach), place_of(self.centre + reach))


_ZERO: Any = np.float32(0)


def filled(depth: Values, spacing: float) -> Values:
    """The share of a voxel that a body fills, from how deep the voxel's centre lies in it (mm)."""
    return np.asarray(np.clip(depth / np.float32(spacing) + np.float32(0.5), 0, 1))


def frame_along(way: Place) -> Frame:
    """Three axes at right angles: the first along `way`, the second as near to y as can be. `way` must not be y."""
    first = np.array(way) / np.linalg.norm(way)
    second = np.array((0.0, 1.0, 0.0)) - first[1] * first
    second /= np.linalg.norm(second)
    return place_of(first), place_of(second), place_of(np.cross(first, second))


def place_of(values: npt.NDArray[np.floating[Any]]) -> Place:
    """Three numbers as a tuple."""
    z, y, x = map(float, values)
    return z, y, x


def smooth_noise(rng: np.random.Generator, axes: Axes, low: Place, high: Place, cell_mm: float) -> Values:
    """Noise of mean 0 and variance 1 (Z, Y, X) that changes over about `cell_mm`.

    It is drawn between the corners `low` and `high`, so that it is the same noise on every grid.
    """
    sizes = [int(np.ceil((b - a) / cell_mm)) + 4 for a, b in zip(low, high, strict=True)]
    lattice = rng.standard_normal(sizes, np.float32)
    z, y, x = (
        _spline((axis.ravel() - start) / cell_mm, size)
        for axis, start, size in zip(axes.along(), low, sizes, strict=True)
    )
    planes = y @ (lattice @ x.T)
    return np.asarray((z @ planes.reshape(len(planes), -1)).reshape(axes.shape) * np.float32(_CUBIC**1.5))


def _spline(places: Values, size: int) -> Values:
    """The weight of each of `size` lattice points at each place, which is in cells from the second point on."""
    away = np.abs(places[:, None] + 1 - np.arange(size, dtype=np.float32))
    near = 2 / 3 - away**2 + away**3 / 2
    return np.where(away < 1, near, np.clip(2 - away, 0, None) ** 3 / 6).astype(np.float32)


def draw_within(rng: np.random.Generator, median: float, spread: float, low: float, high: float) -> float:
    """A log-normal number, drawn again until it lies within its limits; `spread` is of its logarithm."""
    while not low <= (value := median * float(np.exp(spread * rng.standard_normal()))) <= high:
        pass
    return value
