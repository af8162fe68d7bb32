"""Where the nerve fibres run from the disc in arcs around the macula, and the wedge that glaucoma takes out of them.

A fibre that leaves the disc at angle φ from the direction of the fovea is at distance ρ (disc radii) seen at the angle

    θ(ρ) = φ · (1 − (ρ / 11)²)                                                                                     (1)

so that it follows the vessels' arcades. A bundle of fibres between two φ is then a wedge that widens with distance.
"""

from dataclasses import dataclass

import numpy as np

from storage.sources.fundus.anatomy import DISC_RADIUS, Eye, disc_distance, ramp
from storage.sources.fundus.spots import Grid, Plane

_TURN = 11.0  # disc radii to where fibres from above and below would meet
TINT = np.array([0.45, 1.0, 0.95])  # optical density in red, green, blue: the layer reflects little red


@dataclass(frozen=True)
class Defect:
    """A wedge without nerve fibres; angles in radians at the disc, positive below the line from disc to fovea."""

    angle: float
    half_width: float
    length: float  # disc radii from the disc's middle
    softness: float  # width of its edges over the half width
    strength: float  # optical density in green


def draw_defect(rng: np.random.Generator) -> Defect:
    """A defect of the upper or the lower arcade."""
    return Defect(
        angle=rng.choice([-1.0, 1.0]) * rng.uniform(0.7, 1.25),
        half_width=rng.uniform(0.14, 0.23),
        length=rng.uniform(4.8, 6.0),
        softness=rng.uniform(0.2, 0.5),
        strength=rng.uniform(0.20, 0.50),
    )


def fibre_angle(eye: Eye, grid: Grid) -> Plane:
    """φ of equation (1) for the fibre through each pixel (H, W), from −π to π and beyond."""
    across, down = grid.x - np.float32(eye.disc[0]), grid.y - np.float32(eye.disc[1])
    to_fovea = eye.fovea - eye.disc
    towards = (across * to_fovea[0] + down * to_fovea[1]).astype(np.float32)
    aside = (down * abs(to_fovea[0]) - across * to_fovea[1] * np.sign(to_fovea[0])).astype(np.float32)
    rho = np.hypot(across, down) / np.float32(DISC_RADIUS)
    return np.asarray(np.arctan2(aside, towards) / np.maximum(1 - (rho / _TURN) ** 2, 0.1), np.float32)


def thinned(defect: Defect, eye: Eye, grid: Grid) -> Plane:
    """Share (H, W) of the nerve fibres that is lost: 1 in the wedge's middle, 0 outside."""
    rho = disc_distance(eye, grid)
    inside = defect.half_width - np.abs(fibre_angle(eye, grid) - np.float32(defect.angle))
    across = ramp(inside / np.float32(defect.softness * defect.half_width) + 0.5)
    along = ramp((rho - 1.0) / 0.1) * ramp((defect.length - rho) / 1.2 + 0.5)
    return np.asarray(across * along, np.float32)
