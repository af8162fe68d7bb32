"""Where a tumour grows: in the tissue of a lung, or along the oesophagus; in some patients behind a hot heart.

Hidden tumours are among the small ones with moderate uptake, and their patients had eaten: the wall of the left
ventricle then outshines them in the coronal projection, or in the sagittal one.
"""

from collections.abc import Iterator

import numpy as np

from storage.sources.pet.anatomy import Patient, lung_depth, spine_depth
from storage.sources.pet.shapes import Axes, Ellipsoid, Mask, Place, Values, axes_of
from storage.sources.pet.tumour import Allowed, Nature, Path, Tumour, draw_tumour

HIDDEN_SHARE = 0.15
_HIDDEN_ML, _HIDDEN_SUV = 25.0, 11.0  # no tumour larger or hotter is hidden
_HIDEABLE = 0.386  # share of all tumours that are neither, over 20,000 drawn ones
_HEART_OVER_TUMOUR = (1.3, 1.8)  # uptake of the wall over the SUVmax of what it hides
_TRIES = 200


def draw_site(
    rng: np.random.Generator, patient: Patient, nature: Nature, is_oesophageal: bool
) -> tuple[Patient, Tumour]:
    """The tumour in its place, and the patient, whose heart is hot if it is to hide the tumour."""
    can_hide = nature.volume_ml < _HIDDEN_ML and nature.suv_max < _HIDDEN_SUV
    is_hidden = bool(rng.random() < HIDDEN_SHARE / _HIDEABLE) and can_hide
    if is_hidden:
        patient = patient.with_hot_heart(nature.suv_max * rng.uniform(*_HEART_OVER_TUMOUR))
    places = _oesophageal(rng, patient) if is_oesophageal else _pulmonary(rng, patient)
    centre = _first_behind_heart(places, patient, is_oesophageal) if is_hidden else next(places)
    stretch = rng.uniform(1.7, 3.2) if is_oesophageal else rng.uniform(0.85, 1.25)
    return patient, draw_tumour(rng, nature, patient.habitus.patient(centre), stretch, is_hidden)


def allowed_of(patient: Patient, is_oesophageal: bool) -> Allowed:
    """Where the tumour may grow, at places of the standard body."""
    return (lambda axes: _beside_spine(axes)) if is_oesophageal else (lambda axes: _in_chest(patient, axes))


def path_of(patient: Patient) -> Path:
    """The oesophagus in mm of the patient: y and x of its middle at heights z."""
    habitus = patient.habitus

    def middle(z: Values) -> tuple[Values, Values]:
        y, x = patient.oesophagus((z - np.float32(habitus.shift[0])) / np.float32(habitus.scale[0]))
        return (
            y * np.float32(habitus.scale[1]) + np.float32(habitus.shift[1]),
            x * np.float32(habitus.scale[2]) + np.float32(habitus.shift[2]),
        )

    return middle


def _beside_spine(axes: Axes) -> Mask:
    return np.asarray((spine_depth(axes) < 0) & (axes.y < 85))


def _in_chest(patient: Patient, axes: Axes) -> Mask:
    """In either lung or a little beyond its surface, but not in the heart."""
    heart = patient.organs["heart"][0]
    near_lung = np.maximum(lung_depth(patient, 0, axes), lung_depth(patient, 1, axes)) > -6
    return np.asarray(near_lung & (heart.depth(axes) < 0) & (patient.ventricle.depth(axes) < 0))


def _oesophageal(rng: np.random.Generator, patient: Patient) -> Iterator[Place]:
    """Places in its middle, from the upper third to the stomach, most of them in the lower half."""
    while True:
        z = rng.uniform(345, 540) if rng.random() < 0.5 else rng.uniform(345, 430)
        y, x = patient.oesophagus(np.array([z], np.float32))
        yield float(z), float(y[0]), float(x[0])


def _pulmonary(rng: np.random.Generator, patient: Patient) -> Iterator[Place]:
    """Places in either lung, at least 12 mm from its surface and outside of the heart."""
    heart = patient.organs["heart"][0]
    while True:
        side = int(rng.random() < 0.5)
        lung = patient.lungs[side]
        place = np.array(lung.centre) + np.array(lung.radii) * rng.uniform(-1, 1, 3)
        at = _point(place)
        in_heart = max(heart.depth(at).item(), patient.ventricle.depth(at).item()) > -4
        if lung_depth(patient, side, at).item() > 12 and not in_heart:
            yield float(place[0]), float(place[1]), float(place[2])


def _first_behind_heart(places: Iterator[Place], patient: Patient, is_oesophageal: bool) -> Place:
    """The first place whose ray from the front, or from the side, meets the middle of the left ventricle."""
    best, least = next(places), np.inf
    for _, place in zip(range(_TRIES), places, strict=False):
        away = _off_ventricle(patient.ventricle, place, is_oesophageal)
        if away < least:
            best, least = place, away
        if least < 0.5:
            break
    return best


def _off_ventricle(ventricle: Ellipsoid, place: Place, only_from_the_front: bool) -> float:
    """Distance in radii of the ventricle from its middle, as seen from the front or, unless told, from the side."""
    z, y, x = ((p - c) / 40 for p, c in zip(place, ventricle.centre, strict=True))
    front = float(np.hypot(z, x))
    return front if only_from_the_front else min(front, float(np.hypot(z, y)))


def _point(place: np.ndarray) -> Axes:
    return axes_of(place[:1], place[1:2], place[2:])
