"""Look-alikes that mean nothing: dust, drusen, pigment, blobs on vessels and flare, drawn alike for every grade.

Each differs from the lesion it resembles in one learnable way: dust is colourless and sharp even in a blurred
photograph, drusen are greenish and soft, pigment is brown rather than blood-red, vessel blobs lie on vessels, flare is
wide and smooth.
"""

from dataclasses import dataclass

import numpy as np

from storage.sources.fundus.anatomy import DISC_RADIUS, Eye, Look
from storage.sources.fundus.difficulty import Difficulty, Distractor
from storage.sources.fundus.lesions import inside_field, off_disc
from storage.sources.fundus.spots import Grid, Plane, Points, Spots, draw_range, draw_spots

DRUSEN = np.array([0.88, 0.80, 0.36])


@dataclass(frozen=True, eq=False)
class Arcs:
    """N flare arcs: parts of circles at `centre` (N, 2) with `radius` and `width`, brightest towards `angle` (N,)."""

    centre: Points
    radius: Points
    width: Points
    angle: Points
    strength: Points


@dataclass(frozen=True, eq=False)
class Distractors:
    """All look-alikes of one photograph."""

    dark_dust: Spots
    bright_dust: Spots
    drusen: Spots
    pigment: Spots
    vessel_blobs: Spots
    flare: Arcs

    def counts(self) -> dict[str, int]:
        """Number of look-alikes by kind."""
        return {name: len(kind.radius) for name, kind in vars(self).items()}


def draw_distractors(rng: np.random.Generator, look: Look, eye: Eye, difficulty: Difficulty) -> Distractors:
    """The look-alikes of one photograph."""
    return Distractors(
        dark_dust=_scatter(rng, difficulty.dust, 0.6, look, eye, softness=0.05),
        bright_dust=_scatter(rng, difficulty.dust, 0.4, look, eye, softness=0.05),
        drusen=_scatter(rng, difficulty.drusen, rng.gamma(1.0), look, eye, softness=0.8),
        pigment=_scatter(rng, difficulty.pigment, 1.0, look, eye, softness=0.9),
        vessel_blobs=_draw_vessel_blobs(rng, difficulty.vessel_blob, look, eye),
        flare=_draw_flare(rng, difficulty.flare),
    )


def _scatter(
    rng: np.random.Generator, kind: Distractor, share: float, look: Look, eye: Eye, *, softness: float
) -> Spots:
    """`share` of the usual number of spots of one kind, anywhere on the visible retina."""
    n = int(rng.poisson(share * kind.count))
    centre = rng.uniform(-0.9, 0.9, (n, 2))
    radius = draw_range(rng, kind.radius, n)
    contrast = draw_range(rng, kind.contrast, n)
    kept = inside_field(centre, radius, look) & off_disc(centre, radius, eye)
    return draw_spots(rng, centre[kept], radius[kept], contrast[kept], softness=softness)


def _draw_vessel_blobs(rng: np.random.Generator, kind: Distractor, look: Look, eye: Eye) -> Spots:
    """Dark beads on trunks and branches, as kinks and crossings make them."""
    n = int(rng.poisson(kind.count))
    branches = eye.vessels[1]
    vessel = rng.integers(0, len(branches.points), n)
    at = rng.integers(1, branches.points.shape[1] // 2, n)
    centre = branches.points[vessel, at]
    radius = np.maximum(draw_range(rng, kind.radius, n), 0.8 * branches.width[vessel, at])
    contrast = draw_range(rng, kind.contrast, n)
    kept = inside_field(centre, radius, look) & (np.hypot(*(centre - eye.disc).T) > 1.5 * DISC_RADIUS)
    return draw_spots(rng, centre[kept], radius[kept], contrast[kept], aspect=2.0, softness=0.5)


def _draw_flare(rng: np.random.Generator, kind: Distractor) -> Arcs:
    n = int(rng.poisson(kind.count))
    return Arcs(
        centre=rng.uniform(-0.7, 0.7, (n, 2)),
        radius=draw_range(rng, kind.radius, n),
        width=rng.uniform(0.02, 0.07, n),
        angle=rng.uniform(0, 2 * np.pi, n),
        strength=draw_range(rng, kind.contrast, n),
    )


def flare_light(flare: Arcs, grid: Grid) -> Plane:
    """White light (H, W) of the flare arcs."""
    light = np.zeros((grid.size, grid.size), np.float32)
    for (x, y), radius, width, angle, strength in zip(
        flare.centre.astype(np.float32), flare.radius, flare.width, flare.angle, flare.strength, strict=True
    ):
        dx, dy = grid.x - x, grid.y - y
        distance = np.hypot(dx, dy)
        facing = (dx * np.float32(np.cos(angle)) + dy * np.float32(np.sin(angle))) / np.maximum(
            distance, np.float32(1e-3)
        )
        light += strength * np.exp(-(((distance - radius) / width) ** 2)) * np.clip(facing, 0, 1) ** 2
    return light
