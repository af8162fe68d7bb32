"""The lesions of diabetic retinopathy: how many by grade, where they lie, how they look, and their exact masks."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from storage.sources.fundus.anatomy import BLOOD, DISC_RADIUS, Eye, Look
from storage.sources.fundus.difficulty import MASK_SHARE, Difficulty, LesionKind
from storage.sources.fundus.spots import Grid, Plane, Points, Spots, draw_range, draw_spots, paint

EXUDATE = np.array([1.00, 0.86, 0.42])
COTTON_WOOL = np.array([1.00, 0.84, 0.58])
_CLEAR_OF_RIM = 0.04  # free field between a lesion's edge and the rim
_TO_VESSEL = (
    1.1  # reds keep this many of their radii from the centre of a large vessel, where they could not be told from it
)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Lesions:
    """All lesions of one eye, by class."""

    red: Spots
    exudate: Spots
    cotton_wool: Spots

    def counts(self) -> dict[str, int]:
        """Number of lesions by class."""
        return {name: len(spots) for name, spots in vars(self).items()}


def draw_lesions(rng: np.random.Generator, grade: int, look: Look, eye: Eye, difficulty: Difficulty) -> Lesions:
    """Lesions of an eye of `grade`; grade 0 has none, every other grade at least one microaneurysm."""
    return Lesions(
        red=_draw_red(rng, grade, look, eye, difficulty),
        exudate=_draw_exudates(rng, grade, look, eye, difficulty),
        cotton_wool=_draw_cotton_wool(rng, grade, look, eye, difficulty.cotton_wool),
    )


def _draw_red(rng: np.random.Generator, grade: int, look: Look, eye: Eye, difficulty: Difficulty) -> Spots:
    """Microaneurysms and dot or blot haemorrhages over the whole retina, off the large vessels."""
    small = max(int(rng.poisson(difficulty.microaneurysm.count[grade])), min(grade, 1))
    large = int(rng.poisson(difficulty.haemorrhage.count[grade]))
    n = 3 * (small + large)
    radius = np.concatenate(
        [_radii(rng, difficulty.microaneurysm, 3 * small), _radii(rng, difficulty.haemorrhage, 3 * large)]
    )
    contrast = np.concatenate(
        [_contrasts(rng, difficulty.microaneurysm, 3 * small), _contrasts(rng, difficulty.haemorrhage, 3 * large)]
    )
    centre = np.where(rng.random((n, 1)) < 0.5, _around(rng, eye.fovea, 0.42, n), rng.uniform(-0.95, 0.95, (n, 2)))
    allowed = inside_field(centre, radius, look) & off_disc(centre, radius, eye) & off_vessels(centre, radius, eye)
    is_large = np.arange(n) >= 3 * small
    chosen = np.concatenate([_first(allowed & ~is_large, small), _first(allowed & is_large, large)])
    return draw_spots(
        rng, centre[chosen], radius[chosen], contrast[chosen], aspect=1.6, softness=0.45, irregularity=0.3
    )


def _draw_exudates(rng: np.random.Generator, grade: int, look: Look, eye: Eye, difficulty: Difficulty) -> Spots:
    """Hard exudates in clumps or partial rings around the macula, each clump with a brightness of its own."""
    kind = difficulty.exudate_cluster
    clusters = int(rng.poisson(kind.count[grade]))
    per_cluster = 2 + rng.poisson(max(difficulty.exudates_per_cluster - 2, 0), clusters)
    cluster = np.repeat(np.arange(clusters), per_cluster)
    n = len(cluster)
    middle = eye.fovea + _polar(rng.uniform(0.08, 0.52, clusters), rng.uniform(0, 2 * np.pi, clusters))
    ring = np.where(rng.random(clusters) < 0.45, rng.uniform(0.07, 0.15, clusters), 0.0)[cluster]
    along = rng.uniform(0, 2 * np.pi, clusters)[cluster] + rng.uniform(-1.7, 1.7, n)
    spread = np.where(ring > 0, 0.014, 0.05)[:, None] * rng.normal(0, 1, (n, 2))
    centre = middle[cluster] + _polar(ring, along) + spread
    radius = _radii(rng, kind, n)
    contrast = np.clip(
        _contrasts(rng, kind, clusters)[cluster] * rng.uniform(0.75, 1.25, n), kind.contrast[0], kind.contrast[1]
    )
    chosen = inside_field(centre, radius, look) & off_disc(centre, radius, eye)
    return draw_spots(rng, centre[chosen], radius[chosen], contrast[chosen], aspect=1.7, softness=0.3, irregularity=0.3)


def _draw_cotton_wool(rng: np.random.Generator, grade: int, look: Look, eye: Eye, kind: LesionKind) -> Spots:
    """Cotton-wool spots: soft, larger, in the nerve-fibre layer within three disc diameters of the disc."""
    count = int(rng.poisson(kind.count[grade]))
    n = 4 * count
    centre = eye.disc + _polar(rng.uniform(0.28, 0.95, n), rng.uniform(0, 2 * np.pi, n))
    radius, contrast = _radii(rng, kind, n), _contrasts(rng, kind, n)
    away_from_fovea = np.hypot(*(centre - eye.fovea).T) > 0.2
    chosen = _first(inside_field(centre, radius, look) & off_disc(centre, radius, eye) & away_from_fovea, count)
    return draw_spots(
        rng, centre[chosen], radius[chosen], contrast[chosen], aspect=1.8, softness=0.7, irregularity=0.25
    )


def _radii(rng: np.random.Generator, kind: LesionKind, n: int) -> Points:
    return draw_range(rng, kind.radius, n, kind.radius_skew)


def _contrasts(rng: np.random.Generator, kind: LesionKind, n: int) -> Points:
    return draw_range(rng, kind.contrast, n, kind.contrast_skew)


def _around(rng: np.random.Generator, middle: Points, spread: float, n: int) -> Points:
    return np.asarray(middle + spread * rng.normal(0.0, 1.0, (n, 2)))


def _polar(radius: Points, angle: Points) -> Points:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def _first(allowed: Mask, n: int) -> npt.NDArray[np.int64]:
    """Indices of the first `n` allowed candidates (fewer where there are fewer)."""
    return np.flatnonzero(allowed)[:n]


def inside_field(centre: Points, radius: Points, look: Look) -> Mask:
    """Whether spots (N,) lie wholly in the visible field, some way from its rim and from the camera's frame."""
    margin = 2.0 * radius + _CLEAR_OF_RIM
    return np.asarray((np.hypot(*centre.T) + margin < 1.0) & (np.abs(centre[:, 1]) + margin < look.clip))


def off_disc(centre: Points, radius: Points, eye: Eye) -> Mask:
    """Whether spots (N,) lie clear of the optic disc."""
    return np.asarray(np.hypot(*(centre - eye.disc).T) > 1.25 * DISC_RADIUS + radius)


def off_vessels(centre: Points, radius: Points, eye: Eye) -> Mask:
    """Whether spots (N,) lie clear of trunks and their branches."""
    points = np.concatenate([level.points.reshape(-1, 2) for level in eye.vessels[:2]])
    width = np.concatenate([level.width.ravel() for level in eye.vessels[:2]])
    distance, nearest = cKDTree(points).query(centre)
    return np.asarray(distance > width[nearest] / 2 + _TO_VESSEL * radius)


def add_red(colour: Plane, red: Spots, grid: Grid) -> Mask:
    """See `colour` (3, H, W) through the red lesions' blood, in place; their mask (H, W)."""
    profile, strength = paint(red, grid)
    for channel in range(3):
        colour[channel] *= np.exp(strength * np.float32(-1.15 * BLOOD[channel]))
    return profile > MASK_SHARE


def add_bright(colour: Plane, spots: Spots, tint: Points, light: Plane, grid: Grid) -> Mask:
    """Lay bright spots of colour `tint` (3,) under `light` (3, H, W) over `colour` (3, H, W), in place; their mask."""
    profile, strength = paint(spots, grid)
    for channel in range(3):
        colour[channel] += strength * (np.float32(tint[channel]) * light[channel] - colour[channel])
    return profile > MASK_SHARE
