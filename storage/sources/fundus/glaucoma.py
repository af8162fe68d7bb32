"""Simulated fundus photographs of glaucoma: a compact lesion at the disc and a diffuse one along the arcades.

A glaucomatous eye has at least one of two, which come independently of each other: a notch, where the cup has taken a
part of the rim away, and a wedge without nerve fibres. All else (cup size, sheen, texture, look-alikes) is drawn alike
for all eyes. The camera shows a narrower field than for retinopathy, so that the disc is large.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from storage.sources.fundus.anatomy import (
    FALLOFF,
    Eye,
    Look,
    disc_distance,
    draw_eye,
    draw_look,
    layered,
    light_loss,
    skin_and_excavation,
    within_disc,
)
from storage.sources.fundus.cup import Cup, Notch, bent, draw_cup, draw_notch, excavation
from storage.sources.fundus.difficulty import MASK_SHARE, Difficulty
from storage.sources.fundus.distractors import draw_distractors
from storage.sources.fundus.nerve_fibres import TINT, Defect, draw_defect, thinned
from storage.sources.fundus.photograph import Sitting, expose, field_of_view, under_flash
from storage.sources.fundus.spots import Plane, grid_of
from storage.sources.fundus.vessels import paint_blood
from storage.sources.simulated import stream

PATHOLOGIES = ("rim_loss", "nerve_fibre_defect")
KNOBS = Difficulty()  # of the look-alikes
_PREVALENCE = 0.5
_AGREEMENT = 0.8  # share of second eyes that are what the first one is
_BEFORE_NOTCH = 0.75  # radius of a cup before it is notched over a healthy one's, lest the pale area tell them apart
_VESSEL_WIDTH = 0.75  # of what is drawn for retinopathy: a vein of 0.15 mm at a disc of 1.9 mm
_VESSEL_SHARE = 0.25  # of the thickest vein's blood, from which on a pixel belongs to a vessel
_FRAGMENT = 1 / 16  # of the side of the picture: fewer pixels in a row are what remains of a twig too thin to show
_PATIENT, _ANATOMY, _DISTRACTORS, _DISEASE, _CUP, _NOTCH, _DEFECT = range(6, 13)  # streams; 0–5 are the photograph's

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class GlaucomaScene(Sitting):
    """What one photograph shows; `zoom` is how much narrower its field is than one of 12 mm."""

    zoom: float
    cup: Cup
    notch: Notch | None
    defect: Defect | None

    @property
    def is_glaucomatous(self) -> bool:
        """Whether there is a notch, a defect or both."""
        return self.notch is not None or self.defect is not None


def draw_glaucoma_scene(seed: int, patient: int, visit: int) -> GlaucomaScene:
    """The scene of one eye; a patient's two eyes share the look, about the cup's size, and mostly the diagnosis."""
    rng = stream(seed, patient, _PATIENT)
    look = draw_look(rng)
    zoom, cup_radius = rng.uniform(1.38, 1.72), rng.uniform(0.36, 0.74)
    is_right = (rng.random() < 0.5) == (visit == 0)
    is_glaucomatous = (rng.random() < _PREVALENCE) == (visit == 0 or rng.random() < _AGREEMENT)
    eye = _seen_closer(stream(seed, patient, _ANATOMY, visit), look, is_right)
    nasal = 1.0 if is_right else -1.0
    has_notch, has_defect = _drawn(stream(seed, patient, _DISEASE, visit)) if is_glaucomatous else (False, False)
    return GlaucomaScene(
        seed=seed,
        patient=patient,
        visit=visit,
        is_right=is_right,
        look=look,
        eye=eye,
        distractors=draw_distractors(stream(seed, patient, _DISTRACTORS, visit), look, eye, KNOBS),
        zoom=zoom,
        cup=draw_cup(stream(seed, patient, _CUP, visit), cup_radius * (_BEFORE_NOTCH if has_notch else 1.0), nasal),
        notch=draw_notch(stream(seed, patient, _NOTCH, visit), nasal) if has_notch else None,
        defect=draw_defect(stream(seed, patient, _DEFECT, visit)) if has_defect else None,
    )


def _seen_closer(rng: np.random.Generator, look: Look, is_right: bool) -> Eye:
    """An eye whose disc lies nearer to the middle, so that a narrower field shows both disc and macula."""
    eye = draw_eye(rng, look, is_right, (0.16, 0.32))
    return replace(eye, vessels=tuple(replace(level, width=_VESSEL_WIDTH * level.width) for level in eye.vessels))


def _drawn(rng: np.random.Generator) -> tuple[bool, bool]:
    """Two fair coins, of which at least one shows heads."""
    return ((True, False), (False, True), (True, True))[rng.integers(3)]


def healthy(scene: GlaucomaScene) -> GlaucomaScene:
    """The same eye before the disease."""
    return replace(scene, notch=None, defect=None)


def photograph_glaucoma(scene: GlaucomaScene, size: int) -> tuple[npt.NDArray[np.uint8], dict[str, Mask]]:
    """Image (3, H, W) uint8 and the masks (H, W) of both pathologies and of the vessels that show at this size."""
    camera, grid = grid_of(size), grid_of(size, scene.zoom)
    rho = disc_distance(scene.eye, grid)
    usual = excavation(scene.cup, None, scene.eye, grid)
    hollow = excavation(scene.cup, scene.notch, scene.eye, grid) if scene.notch else usual
    lost = thinned(scene.defect, scene.eye, grid) if scene.defect else np.zeros_like(rho)
    depth = scene.defect.strength if scene.defect else 0.0
    skin = skin_and_excavation(scene.look, rho, np.float32(scene.cup.pallor) * hollow)
    skin += layered(np.zeros(3), [(lost, depth * TINT)])
    blood = paint_blood(bent(scene.eye.vessels, scene.cup, scene.notch, scene.eye), size, scene.zoom)
    loss = light_loss(scene.look, scene.eye, camera)
    light = np.exp(-layered(np.zeros(3), [(loss, FALLOFF)]))
    retina = under_flash(scene, skin, blood, loss, light, grid, 1 - lost)
    shown = field_of_view(scene.look, camera) > 0.5
    masks = {
        "rim_loss": shown & (within_disc(rho) * (hollow - usual) > MASK_SHARE),
        "nerve_fibre_defect": shown & (lost > MASK_SHARE),
        "vessels": shown & _vessels(blood),
    }
    return expose(retina, scene, camera), masks


def _vessels(blood: Plane) -> Mask:
    """Where vessels show (H, W): blood of some depth that hangs together."""
    deep = (blood > _VESSEL_SHARE).astype(np.uint8)
    _, part, measures, _ = cv2.connectedComponentsWithStats(deep, connectivity=8)
    is_long = measures[:, cv2.CC_STAT_AREA] >= max(2, _FRAGMENT * len(blood))
    is_long[0] = False  # what is no vessel
    return np.asarray(is_long[part], np.bool_)
