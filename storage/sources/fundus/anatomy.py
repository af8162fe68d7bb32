"""A retina without disease: what varies between patients, between a patient's eyes, and how both are painted.

Light is modelled as the eye absorbs it: exp(−optical density), the density made of skin, blood and pigment with their
own shares in red, green and blue. So vessels stay dark red on every skin, and crossings are darker than either vessel.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from storage.sources.fundus.spots import Grid, Plane, Points
from storage.sources.fundus.vessels import Vessels, grow_tree

BLOOD = np.array([0.20, 0.60, 0.42])  # optical density in red, green, blue of a vein's depth
PIGMENT = np.array([0.42, 0.62, 0.70])  # melanin and macular pigment
FALLOFF = np.array([0.62, 1.0, 1.15])  # light lost towards the rim: red least

DISC_RADIUS = 0.16  # of the field-of-view radius; the fovea lies five of them away
FOVEA_DISTANCE = 0.77
_DISC_RIM = np.array([0.62, 0.46, 0.20])
_DISC_CUP = np.array([0.86, 0.78, 0.46])
_SKINS = np.array(  # background colours seen in fundus photographs: orange, brick, salmon, gold, mahogany
    [[0.86, 0.43, 0.13], [0.68, 0.27, 0.11], [0.84, 0.52, 0.38], [0.80, 0.50, 0.13], [0.58, 0.25, 0.09]]
)


@dataclass(frozen=True, eq=False)
class Look:
    """What a patient's photographs share: colours, texture, camera; shares in 0–1, lengths in field-of-view radii."""

    skin: Points  # (3,) red, green, blue in 0–1
    exposure: float
    falloff: float  # share of light lost at the rim
    mottling: float  # fine pigment texture
    tessellation: float  # choroidal vessels showing through
    sheen: float  # nerve-fibre reflexes
    haze: float  # pale light scattered in at the rim
    focus: float  # standard deviation of the blur
    noise: float  # standard deviation of the sensor noise, in 0–1
    tortuosity: float
    blood: float  # how dark the vessels are
    macula: float  # how dark the macula is
    cup: float  # cup radius over disc radius
    clip: float  # half height of the camera's frame; above 1 nothing is cut off


@dataclass(frozen=True, eq=False)
class Eye:
    """One eye as photographed once; positions are x, y in field-of-view radii."""

    disc: Points
    fovea: Points
    disc_aspect: float  # height over width
    cup: Points
    vessels: tuple[Vessels, ...]
    light: Points  # where the flash is brightest
    focus: float
    exposure: float


def draw_look(rng: np.random.Generator) -> Look:
    """A patient."""
    skin = rng.dirichlet([0.8, 0.5, 0.35, 0.6, 0.35]) @ _SKINS * rng.uniform(0.93, 1.07, 3)
    return Look(
        skin=skin,
        exposure=rng.uniform(0.82, 1.10),
        falloff=rng.uniform(0.18, 0.55),
        mottling=rng.uniform(0.03, 0.10),
        tessellation=0.32 * rng.beta(1.0, 2.2),
        sheen=0.28 * rng.beta(0.6, 3.0),
        haze=0.25 * rng.beta(0.6, 3.0),
        focus=rng.uniform(0.002, 0.011),
        noise=rng.uniform(0.004, 0.011),
        tortuosity=rng.uniform(0.6, 1.5),
        blood=rng.uniform(0.75, 1.15),
        macula=rng.uniform(0.35, 0.85),
        cup=rng.uniform(0.35, 0.6),
        clip=rng.uniform(0.80, 0.95) if rng.random() < 0.5 else 1.1,
    )


def draw_eye(rng: np.random.Generator, look: Look, is_right: bool, aside: tuple[float, float] = (0.44, 0.62)) -> Eye:
    """One eye of a patient; the disc lies `aside` of the middle, to the right in a right eye."""
    nasal = 1.0 if is_right else -1.0
    disc = np.array([nasal * rng.uniform(*aside), rng.uniform(-0.12, 0.10)])
    tilt = rng.uniform(0.03, 0.16)
    fovea = disc + FOVEA_DISTANCE * rng.uniform(0.95, 1.05) * np.array([-nasal * np.cos(tilt), np.sin(tilt)])
    return Eye(
        disc=disc,
        fovea=fovea,
        disc_aspect=rng.uniform(1.0, 1.18),
        cup=disc + DISC_RADIUS * np.array([-nasal * rng.uniform(0.05, 0.25), rng.uniform(-0.1, 0.1)]),
        vessels=grow_tree(rng, disc, fovea, look.tortuosity),
        light=0.2 * disc + rng.normal(0.0, 0.16, 2),
        focus=look.focus * rng.uniform(0.8, 1.25),
        exposure=look.exposure * rng.uniform(0.93, 1.07),
    )


def skin_and_disc(look: Look, eye: Eye, grid: Grid) -> Plane:
    """Optical density (3, H, W) of the retina without blood and pigment: the skin, and the paler disc, cup and halo."""
    cup = np.hypot(grid.x - np.float32(eye.cup[0]), grid.y - np.float32(eye.cup[1])) / np.float32(
        DISC_RADIUS * look.cup
    )
    return skin_and_excavation(look, disc_distance(eye, grid), ramp((1.3 - cup) / 0.8))


def disc_distance(eye: Eye, grid: Grid) -> Plane:
    """Distance (H, W) of every pixel from the disc's middle, 1 at the disc's margin."""
    across, down = grid.x - np.float32(eye.disc[0]), grid.y - np.float32(eye.disc[1])
    stretch = np.float32(np.sqrt(eye.disc_aspect))
    return np.asarray(np.hypot(across * stretch, down / stretch) / np.float32(DISC_RADIUS), np.float32)


def within_disc(rho: Plane) -> Plane:
    """1 in the disc, 0 outside of it (H, W), from `disc_distance`."""
    return ramp((1.04 - rho) / 0.16)


def skin_and_excavation(look: Look, rho: Plane, excavation: Plane) -> Plane:
    """Optical density (3, H, W) of skin, halo and disc, whose rim has given way to the cup to a share (H, W) 0–1."""
    inside = within_disc(rho)
    excavated = inside * excavation
    skin, rim, pale = look.skin, 0.5 * look.skin + _DISC_RIM, 0.35 * look.skin + _DISC_CUP
    shares = [
        (inside, np.log(skin / rim)),
        (excavated, np.log(rim / pale)),
        (np.exp(-((rho / 1.9) ** 2)), np.full(3, -0.14)),
    ]
    return layered(-np.log(skin), shares)


def layered(base: Points, layers: list[tuple[Plane, Points]]) -> Plane:
    """`base` (3,) plus each plane (H, W) times its (3,) optical density in red, green and blue: (3, H, W)."""
    density = np.empty((3, *layers[0][0].shape), np.float32)
    for channel in range(3):
        density[channel] = base[channel]
        for plane, share in layers:
            density[channel] += plane * np.float32(share[channel])
    return density


def pigment_depth(rng: np.random.Generator, look: Look, eye: Eye, grid: Grid) -> Plane:
    """Pigment (H, W): the macula, mottled epithelium and choroidal streaks, thinned over the disc."""
    to_fovea = squared_distance(grid, eye.fovea)
    macula = look.macula * (0.40 * np.exp(-to_fovea / 0.085) + 0.45 * np.exp(-to_fovea / 0.009))
    coarse = smooth_noise(rng, grid.size, (5, 11, 23))
    fine = smooth_noise(rng, grid.size, (48, 110))
    streaks = choroid_streaks(rng, eye, grid)
    texture = look.mottling * (0.9 * coarse + 0.45 * fine) + look.tessellation * streaks
    bare = ramp(squared_distance(grid, eye.disc) / np.float32(DISC_RADIUS**2) - 0.6)
    return np.asarray(macula + texture * bare, np.float32)


def smooth_noise(rng: np.random.Generator, size: int, cells: tuple[int, ...]) -> Plane:
    """Noise (size, size) of about unit variance from octaves of `cells` across; the same picture at every size."""
    octaves = np.zeros((size, size), np.float32)
    for i, n in enumerate(cells):
        coarse = rng.standard_normal((n, n), np.float32)
        octaves += 0.7**i * cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return octaves


def polar_noise(rng: np.random.Generator, eye: Eye, grid: Grid, cells: tuple[int, int], swirl: float) -> Plane:
    """Noise (H, W) drawn out along rays from the disc: `cells` around and along, the rays bent by `swirl` radians."""
    across, down = grid.x - np.float32(eye.disc[0]), grid.y - np.float32(eye.disc[1])
    radius, angle = cv2.cartToPolar(across, down)
    angle += swirl * smooth_noise(rng, grid.size, (4, 9))
    table = rng.standard_normal((cells[1], cells[0]), np.float32)
    columns = np.mod(angle * np.float32(cells[0] / (2 * np.pi)), np.float32(cells[0]))
    rows = radius * np.float32((cells[1] - 1) / 2.2)
    return np.asarray(cv2.remap(table, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.float32)


def choroid_streaks(rng: np.random.Generator, eye: Eye, grid: Grid) -> Plane:
    """Pigment (H, W) between choroidal vessels, which run as paler streaks, clearest away from the macula."""
    noise = polar_noise(rng, eye, grid, (90, 26), 0.10) + 0.5 * smooth_noise(rng, grid.size, (19, 41))
    ridges = np.sqrt(noise * noise + np.float32(0.04)) - 0.9
    away = np.sqrt(squared_distance(grid, eye.fovea))
    return np.asarray(ridges * np.minimum(0.25 + 0.9 * away, 1.0), np.float32)


def nerve_sheen(rng: np.random.Generator, look: Look, eye: Eye, grid: Grid) -> Plane:
    """Silvery reflexes (H, W) of the nerve fibres: short streaks along the arcades, whatever the grade."""
    streaks = 0.8 * polar_noise(rng, eye, grid, (190, 14), 0.07) + 0.8 * smooth_noise(rng, grid.size, (9, 21))
    to_disc, to_fovea = np.sqrt(squared_distance(grid, eye.disc)), np.sqrt(squared_distance(grid, eye.fovea))
    band = np.exp(-(((to_disc - 0.42) / 0.26) ** 2)) * ramp((to_fovea - 0.22) / 0.3)
    return np.asarray(look.sheen * band * np.maximum(streaks - 0.3, 0), np.float32)


def light_loss(look: Look, eye: Eye, grid: Grid) -> Plane:
    """Light lost (H, W), as optical density: least where the flash points, most at the rim."""
    loss = np.float32(-np.log(1 - look.falloff)) * squared_distance(grid, eye.light)
    return np.asarray(loss - np.float32(np.log(eye.exposure)), np.float32)


def ramp(share: npt.NDArray[np.floating[Any]]) -> Plane:
    """`share` limited to 0–1 with soft ends."""
    limited = np.clip(share, 0.0, 1.0)
    return np.asarray(limited * limited * (3 - 2 * limited), np.float32)


def squared_distance(grid: Grid, place: Points) -> Plane:
    """Squared distance (H, W) of every pixel from `place` (x, y)."""
    return (grid.x - np.float32(place[0])) ** 2 + (grid.y - np.float32(place[1])) ** 2
