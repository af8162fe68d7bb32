"""A whole photograph: the scene is drawn once as parameters, then taken at any size, with or without its lesions."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from storage.sources.fundus.anatomy import (
    BLOOD,
    FALLOFF,
    PIGMENT,
    Eye,
    Look,
    draw_eye,
    draw_look,
    layered,
    light_loss,
    nerve_sheen,
    pigment_depth,
    skin_and_disc,
)
from storage.sources.fundus.difficulty import Difficulty
from storage.sources.fundus.distractors import DRUSEN, Distractors, draw_distractors, flare_light
from storage.sources.fundus.lesions import COTTON_WOOL, EXUDATE, Lesions, add_bright, add_red, draw_lesions
from storage.sources.fundus.spots import Grid, Plane, grid_of, paint
from storage.sources.fundus.vessels import paint_blood
from storage.sources.simulated import stream

_HAZE = (0.62, 0.56, 0.44)  # red, green, blue of the light scattered in at the rim
_PATIENT, _ANATOMY, _DISTRACTORS, _LESIONS, _TEXTURE, _NOISE = range(6)  # streams of random numbers


@dataclass(frozen=True, eq=False)
class Sitting:
    """An eye before the camera, decided by `seed`, `patient` and `visit` (the patient's eye, 0 or 1)."""

    seed: int
    patient: int
    visit: int
    is_right: bool
    look: Look
    eye: Eye
    distractors: Distractors


@dataclass(frozen=True, eq=False)
class Scene(Sitting):
    """What one photograph of diabetic retinopathy shows."""

    grade: int
    lesions: Lesions


def draw_scene(seed: int, patient: int, visit: int, difficulty: Difficulty) -> Scene:
    """The scene of one eye; a patient's two eyes share the look and have equal or neighbouring grades."""
    rng = stream(seed, patient, _PATIENT)
    look = draw_look(rng)
    first_is_right = bool(rng.random() < 0.5)
    grade = int(rng.choice(5, p=np.array(difficulty.grade_share) / sum(difficulty.grade_share)))
    step = int(rng.choice([-1, 0, 1], p=[0.2, 0.6, 0.2]))
    if visit == 1:
        grade = int(np.clip(grade + step, 0, 4))
    is_right = first_is_right == (visit == 0)
    eye = draw_eye(stream(seed, patient, _ANATOMY, visit), look, is_right)
    return Scene(
        seed=seed,
        patient=patient,
        visit=visit,
        is_right=is_right,
        grade=grade,
        look=look,
        eye=eye,
        distractors=draw_distractors(stream(seed, patient, _DISTRACTORS, visit), look, eye, difficulty),
        lesions=draw_lesions(stream(seed, patient, _LESIONS, visit), grade, look, eye, difficulty),
    )


def photograph(
    scene: Scene, size: int, *, with_lesions: bool = True
) -> tuple[npt.NDArray[np.uint8], dict[str, npt.NDArray[np.bool_]]]:
    """Image (3, H, W) uint8 and the lesion masks (H, W) by class; all else is the same with or without the lesions."""
    grid = grid_of(size)
    loss = light_loss(scene.look, scene.eye, grid)
    light = np.exp(-layered(np.zeros(3), [(loss, FALLOFF)]))
    skin, blood = skin_and_disc(scene.look, scene.eye, grid), paint_blood(scene.eye.vessels, size)
    retina = under_flash(scene, skin, blood, loss, light, grid)
    masks = {name: np.zeros((size, size), np.bool_) for name in scene.lesions.counts()}
    if with_lesions and scene.grade > 0:
        masks["red"] = add_red(retina, scene.lesions.red, grid)
        masks["cotton_wool"] = add_bright(retina, scene.lesions.cotton_wool, COTTON_WOOL, light, grid)
        masks["exudate"] = add_bright(retina, scene.lesions.exudate, EXUDATE, light, grid)
    return expose(retina, scene, grid), masks


def under_flash(
    scene: Sitting, skin: Plane, blood: Plane, loss: Plane, light: Plane, grid: Grid, fibres: Plane | float = 1.0
) -> Plane:
    """Colour (3, H, W) of the retina and its look-alikes under the flash.

    `skin` (3, H, W) is the optical density of skin and disc, `blood` (H, W) the depth of the vessels, `fibres` (H, W)
    the share of the nerve fibres that is left to shine.
    """
    rng = stream(scene.seed, scene.patient, _TEXTURE, scene.visit)
    blood = scene.look.blood * blood + paint(scene.distractors.vessel_blobs, grid)[1]
    pigment = pigment_depth(rng, scene.look, scene.eye, grid) + paint(scene.distractors.pigment, grid)[1]
    density = skin + layered(np.zeros(3), [(blood, BLOOD), (pigment, PIGMENT), (loss, FALLOFF)])
    colour = np.exp(-density)
    add_bright(colour, scene.distractors.drusen, DRUSEN, light, grid)
    colour += light * (fibres * nerve_sheen(rng, scene.look, scene.eye, grid))
    return np.asarray(colour, np.float32)


def expose(retina: Plane, scene: Sitting, grid: Grid) -> npt.NDArray[np.uint8]:
    """Focus, flare, haze, dust, the round field on black, sensor noise: image (3, H, W) uint8."""
    field = field_of_view(scene.look, grid)
    haze = np.float32(scene.look.haze) * np.clip((grid.r - 0.72) / 0.28, 0, 1) ** 2
    through = field * (1 - paint(scene.distractors.dark_dust, grid)[1])
    added = 0.6 * field * paint(scene.distractors.bright_dust, grid)[1]
    flare = flare_light(scene.distractors.flare, grid)
    grain = _grain(stream(scene.seed, scene.patient, _NOISE, scene.visit), scene.look.noise, field)
    for channel in range(3):
        focused = cv2.GaussianBlur(retina[channel], (0, 0), max(scene.eye.focus * grid.scale, 0.25))
        scattered = (focused + flare) * (1 - haze) + _HAZE[channel] * haze
        grain[channel] += scattered * through + added
    return np.asarray(np.rint(np.clip(grain, 0.0, 1.0) * 255), np.uint8)


def field_of_view(look: Look, grid: Grid) -> Plane:
    """The field of view (H, W): 1 inside, 0 outside, over a pixel or so and a slight penumbra in between."""
    edge = np.float32(1.2 / grid.scale + 0.008)
    inside = np.clip((1.0 - grid.r) / edge, 0.0, 1.0)
    return np.asarray(inside * np.clip((look.clip - np.abs(grid.y)) * np.float32(grid.scale), 0.0, 1.0), np.float32)


def _grain(rng: np.random.Generator, noise: float, field: Plane) -> Plane:
    """Sensor noise (3, H, W): sharp in brightness, coarser in colour as cameras store it, faint outside the field."""
    size = len(field)
    brightness = rng.standard_normal((size, size), np.float32)
    colour = rng.standard_normal((3, (size + 1) // 2, (size + 1) // 2), np.float32)
    strength = np.float32(noise) * (0.15 + 0.85 * field)
    planes = [brightness + 0.6 * cv2.resize(plane, (size, size), interpolation=cv2.INTER_LINEAR) for plane in colour]
    return np.asarray(np.stack(planes) * strength, np.float32)
