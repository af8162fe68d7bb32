"""A patient from the head to the thighs: habitus, organs that vary in place, size and uptake, and where tumours grow.

Places are (z, y, x) in mm of a standard body whose crotch lies at z = 0 and whose head ends at 845, y to the back, x to
the left, x = 0 in the midline; a `Habitus` makes it a patient. Uptake is FDG in SUV.
"""

from dataclasses import dataclass, replace

import numpy as np

from storage.sources.pet.shapes import Axes, Ellipsoid, Place, Values, axes_of, draw_within, frame_along, place_of

FIELD_LOW: Place = (-70.0, -168.0, -216.0)  # corners of the scanner's field of view
FIELD_HIGH: Place = (890.0, 168.0, 216.0)

# median, spread of the logarithm, least, most; Wang et al. (J Nucl Med 2007) and others, in round numbers
_UPTAKE = {
    "fat": (0.28, 0.15, 0.2, 0.4),
    "muscle": (0.65, 0.15, 0.45, 0.9),
    "lung": (0.38, 0.15, 0.28, 0.55),
    "blood": (1.6, 0.15, 1.1, 2.2),
    "brain": (9.0, 0.18, 6.0, 13.0),
    "liver": (2.3, 0.14, 1.7, 3.2),
    "spleen": (1.9, 0.15, 1.3, 2.6),
    "stomach": (1.8, 0.30, 0.9, 3.5),
    "kidney": (3.4, 0.25, 2.0, 6.0),
    "kidney_pelvis": (8.0, 0.60, 2.5, 25.0),
    "bladder": (25.0, 0.50, 8.0, 60.0),
    "bowel": (1.3, 0.35, 0.8, 3.5),
    "marrow": (1.3, 0.18, 0.8, 2.0),
    "salivary": (2.2, 0.30, 1.0, 4.5),
    "oesophagus": (1.5, 0.15, 1.1, 2.1),
    "bone": (0.85, 0.15, 0.6, 1.2),
    "ureter": (3.0, 0.80, 0.8, 15.0),
}
# centre, radii, uptake; in the order in which they are laid over each other
_ORGANS: dict[str, tuple[Place, Place, str]] = {
    "great_vessels": ((478, -4, 4), (62, 38, 30), "blood"),
    "aorta": ((400, 44, 20), (110, 13, 13), "blood"),
    "heart": ((394, -32, 20), (52, 46, 58), "blood"),
    "liver": ((296, -2, -72), (76, 80, 68), "liver"),
    "left_liver": ((322, -36, -4), (34, 42, 66), "liver"),
    "spleen": ((312, 46, 98), (52, 38, 24), "spleen"),
    "stomach": ((304, -22, 60), (44, 38, 38), "stomach"),
    "right_kidney": ((234, 48, -64), (54, 26, 27), "kidney"),
    "left_kidney": ((246, 48, 64), (54, 26, 27), "kidney"),
    "right_pelvis": ((232, 40, -54), (20, 9, 9), "kidney_pelvis"),
    "left_pelvis": ((244, 40, 54), (20, 9, 9), "kidney_pelvis"),
    "right_ureter": ((140, 26, -38), (26, 4, 4), "ureter"),
    "left_ureter": ((165, 28, 38), (26, 4, 4), "ureter"),
    "right_ilium": ((108, 36, -68), (52, 13, 34), "bone"),
    "left_ilium": ((108, 36, 68), (52, 13, 34), "bone"),
    "right_hip": ((30, 4, -92), (24, 22, 24), "bone"),
    "left_hip": ((30, 4, 92), (24, 22, 24), "bone"),
    "sternum": ((445, -92, 0), (72, 6, 16), "marrow"),
    "bladder": ((50, -16, 0), (26, 32, 38), "bladder"),
    "right_parotid": ((694, 14, -58), (26, 18, 11), "salivary"),
    "left_parotid": ((694, 14, 58), (26, 18, 11), "salivary"),
    "tonsils": ((672, -10, 0), (20, 13, 24), "salivary"),
    "mouth": ((652, -46, 0), (15, 22, 22), "salivary"),
    "larynx": ((606, -20, 0), (11, 11, 13), "salivary"),
}
_BOWEL: tuple[tuple[Place, Place], ...] = (
    ((155, -28, 0), (72, 52, 82)),
    ((170, -8, -92), (72, 25, 23)),
    ((195, 6, 94), (88, 23, 20)),
    ((236, -60, 0), (18, 20, 88)),
    ((85, 2, 34), (24, 24, 38)),
)
_TILT: dict[str, Place] = {  # where an organ's first axis points, if not to the head
    "liver": (0.93, 0.0, 0.36),
    "left_liver": (0.9, 0.0, -0.43),
    "spleen": (0.8, -0.25, 0.5),
    "right_kidney": (0.97, 0.1, 0.2),
    "left_kidney": (0.97, 0.1, -0.2),
    "right_ilium": (0.9, 0.0, -0.43),
    "left_ilium": (0.9, 0.0, 0.43),
}
_BRAIN: tuple[Place, Place] = ((772, -4, 0), (60, 82, 66))
_LUNG: tuple[Place, Place] = ((432, 6, 80), (134, 90, 62))
_DOME = 352.0  # of the diaphragm
_VENTRICLE: Place = (380, -38, 46)
_APEX_WAY: Place = (-0.50, -0.55, 0.67)


@dataclass(frozen=True)
class Habitus:
    """How a patient's body differs from the standard one."""

    scale: Place
    shift: Place
    fat_mm: float

    def standard(self, axes: Axes) -> Axes:
        """Places in the patient as places in the standard body."""
        scaled = ((a - s) / k for a, s, k in zip(axes.along(), self.shift, self.scale, strict=True))
        return axes_of(*(axis.ravel() for axis in scaled))

    def patient(self, place: Place) -> Place:
        """A place of the standard body in the patient."""
        z, y, x = (k * p + s for p, s, k in zip(place, self.shift, self.scale, strict=True))
        return z, y, x


@dataclass(frozen=True)
class Patient:
    """`organs` have a shape and an uptake each; `uptake` is that of what is no organ of its own."""

    habitus: Habitus
    uptake: dict[str, float]
    organs: dict[str, tuple[Ellipsoid, float]]
    bowel: tuple[Ellipsoid, ...]
    brain: Ellipsoid
    lungs: tuple[Ellipsoid, Ellipsoid]
    ventricle: Ellipsoid
    ventricle_uptake: float
    bend: tuple[float, float]

    def with_hot_heart(self, suv: float) -> "Patient":
        """The same patient who had eaten: the wall of the left ventricle takes up `suv`."""
        return replace(self, ventricle_uptake=suv)

    def oesophagus(self, z: Values) -> tuple[Values, Values]:
        """y and x of its middle at heights `z` of the standard body."""
        y = np.interp(z, (300, 340, 400, 480, 600), (8, 20, 30, 27, 14)) + self.bend[0] * np.sin(z / 55)
        x = np.interp(z, (300, 340, 400, 480, 600), (34, 22, 9, 2, 0)) + self.bend[1] * np.sin(z / 70)
        return y.astype(np.float32), x.astype(np.float32)


def draw_patient(rng: np.random.Generator) -> Patient:
    """A patient without a tumour."""
    uptake = {name: draw_within(rng, *numbers) for name, numbers in _UPTAKE.items()}
    organs = {
        name: (_tilted(_jittered(rng, centre, radii), name), uptake[tissue] * rng.uniform(0.93, 1.07))
        for name, (centre, radii, tissue) in _ORGANS.items()
    }
    ventricle_at = _jittered(rng, _VENTRICLE, (50, 37, 37))
    has_eaten = rng.random() < 0.4
    return Patient(
        habitus=_draw_habitus(rng),
        uptake=uptake,
        organs=organs,
        bowel=tuple(_jittered(rng, *part) for part in _BOWEL),
        brain=_jittered(rng, *_BRAIN, shift=2, size=0.03),
        lungs=_draw_lungs(rng),
        ventricle=replace(ventricle_at, frame=frame_along(place_of(_APEX_WAY + 0.1 * rng.standard_normal(3)))),
        ventricle_uptake=draw_within(rng, 7.0, 0.4, 4.0, 16.0) if has_eaten else draw_within(rng, 2.3, 0.3, 1.5, 4.0),
        bend=(float(rng.normal(0, 2.5)), float(rng.normal(0, 2.5))),
    )


def body_depth(patient: Patient, axes: Axes) -> Values:
    """Depth below the skin in mm, negative outside, at `axes` of the standard body."""
    extra = patient.habitus.fat_mm - 15.0
    z = axes.z.ravel()
    half_x, half_y, middle = (np.interp(z, _OUTLINE[:, 0], _OUTLINE[:, column]) for column in (1, 2, 3))
    torso = np.interp(z, (20, 60, 500, 570), (0.3, 1, 0.7, 0.1))
    across, front = half_x + extra * torso, half_y + 0.9 * extra * torso
    depth = _elliptic(axes.y - _column(middle), axes.x, _column(front), _column(across))
    depth = np.minimum(depth, np.minimum(axes.z - np.float32(_OUTLINE[0, 0]), np.float32(_OUTLINE[-1, 0]) - axes.z))
    for side in (-1.0, 1.0):
        wide = np.interp(z, (-80, 0, 40), (76, 83, 70)) + extra / 2
        leg = _elliptic(axes.y - 5, axes.x - np.float32(side * 89), _column(wide * 1.04), _column(wide))
        depth = np.maximum(depth, np.minimum(leg, 45 - axes.z))
    return depth


def lung_depth(patient: Patient, side: int, axes: Axes) -> Values:
    """Depth in mm in the right (0) or left (1) lung above the diaphragm, at `axes` of the standard body."""
    lung = patient.lungs[side]
    middle = lung.centre[2]
    dome = _DOME - 6 * side - 55 * ((axes.x - middle) / 70) ** 2 - 45 * ((axes.y + 8) / 85) ** 2
    return np.asarray(np.minimum(lung.depth(axes), axes.z - dome))


def spine_depth(axes: Axes) -> Values:
    """Depth in mm in the vertebral bodies, at `axes` of the standard body."""
    z = axes.z.ravel()
    y = np.interp(z, (30, 60, 110, 200, 300, 400, 500, 560, 640), (84, 74, 56, 42, 56, 66, 60, 46, 28))
    radius = np.interp(z, (30, 60, 200, 400, 560, 640), (10, 22, 22, 18, 14, 11))
    depth = _column(radius) - np.hypot(axes.y - _column(y), axes.x)
    return np.asarray(np.minimum(depth, np.minimum(axes.z - 35, 655 - axes.z)))


# z, half width, half depth, y of the middle
_OUTLINE = np.array(
    [
        (-12, 2, 2, 5),
        (5, 110, 60, 5),
        (30, 165, 102, 5),
        (90, 168, 108, 5),
        (170, 150, 98, 0),
        (240, 140, 96, -2),
        (320, 147, 103, -3),
        (400, 157, 108, -2),
        (470, 163, 103, 0),
        (525, 178, 86, 8),
        (552, 165, 70, 12),
        (575, 108, 62, 13),
        (597, 66, 58, 11),
        (628, 57, 60, 4),
        (648, 62, 78, -12),
        (690, 72, 94, -10),
        (765, 77, 98, -5),
        (810, 63, 82, -4),
        (835, 36, 48, -4),
        (846, 2, 2, -4),
    ]
)


def _elliptic(y: Values, x: Values, half_y: Values, half_x: Values) -> Values:
    """Depth in mm in an ellipse in each slice."""
    v, u = y / half_y, x / half_x
    rho = np.sqrt(u**2 + v**2)
    steepness = np.sqrt((u / half_x) ** 2 + (v / half_y) ** 2)
    return np.asarray((1 - rho) * rho / (steepness + np.float32(1e-6)) + np.float32(1e-2) * (1 - rho))


def _column(values: np.ndarray) -> Values:
    return np.asarray(values, np.float32)[:, None, None]


def _draw_habitus(rng: np.random.Generator) -> Habitus:
    height = float(np.clip(rng.normal(0.98, 0.035), 0.89, 1.035))
    girth = float(np.clip(height + rng.normal(0.02, 0.04), 0.9, 1.09))
    return Habitus(
        scale=(height, girth * rng.uniform(0.97, 1.03), girth * rng.uniform(0.97, 1.03)),
        shift=(rng.uniform(-8, 8), rng.uniform(-8, 8), rng.uniform(-8, 8)),
        fat_mm=draw_within(rng, 16, 0.4, 6, 34),
    )


def _jittered(rng: np.random.Generator, centre: Place, radii: Place, shift: float = 4, size: float = 0.08) -> Ellipsoid:
    """An organ moved by a few mm, larger or smaller, a little longer or shorter."""
    whole = np.exp(size * rng.standard_normal())
    moved = np.array(centre) + shift * np.clip(rng.standard_normal(3), -2, 2)
    grown = np.array(radii) * whole * np.exp(size / 2 * rng.standard_normal(3))
    return Ellipsoid(place_of(moved), place_of(grown))


def _tilted(organ: Ellipsoid, name: str) -> Ellipsoid:
    return replace(organ, frame=frame_along(_TILT[name])) if name in _TILT else organ


def _draw_lungs(rng: np.random.Generator) -> tuple[Ellipsoid, Ellipsoid]:
    """Alike in size, mirrored."""
    centre, radii = _LUNG
    inflated = float(np.clip(np.exp(0.04 * rng.standard_normal()), 0.92, 1.06))
    grown = place_of(np.array(radii) * (inflated, min(inflated, 1.03), inflated))
    right, left = (Ellipsoid((centre[0] + rng.uniform(-6, 6), centre[1], side * centre[2]), grown) for side in (-1, 1))
    return right, left
