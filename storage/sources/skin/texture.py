"""Simulated healthy skin as a dermatoscope shows it: tone, uneven light, mottling, furrows, pores, freckles, hairs.

A patient's `Look` holds for all of the patient's patches. Lengths are shares of the patch's side, so that a patch shows
the same at any size; colours are CIE L*a*b*.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]
TONES = ((38.0, 11.0, 16.0), (56.0, 13.0, 20.0), (70.0, 12.0, 15.0), (80.0, 7.0, 9.0))  # L*, a*, b*: dark to light
LAMP = (5.0, 4.0, 6.0)  # by how much cameras and lamps differ
_FIXED = 4  # bits of a fraction of a pixel in hairs that are drawn


@dataclass(frozen=True, eq=False)
class Look:
    """What a patient's patches share."""

    tone: np.ndarray  # L*, a*, b*
    mottling: float  # in L* and, more, in a*
    furrows: float  # depth, in L*
    furrow_spacing: float
    furrow_angle: float  # radians
    pores: float  # a patch, expected
    freckles: float  # a patch, expected
    hairs: float  # a patch, expected
    hair_shade: float  # L* below the skin's
    focus: float  # blur
    grain: float  # noise, in L*


def draw_look(rng: np.random.Generator) -> Look:
    """A patient; three in ten are hairy, and hairs run through their patches."""
    along = rng.uniform(0, len(TONES) - 1)
    tone = np.array([np.interp(along, range(len(TONES)), channel) for channel in zip(*TONES, strict=True)])
    hairy = rng.random() < 0.3
    return Look(
        tone=tone + rng.normal(0, LAMP),
        mottling=float(rng.uniform(0.6, 2.2)),
        furrows=float(rng.uniform(0.3, 2.0)),
        furrow_spacing=float(rng.uniform(0.05, 0.11)),
        furrow_angle=float(rng.uniform(0, np.pi)),
        pores=float(rng.uniform(0, 30)),
        freckles=float(rng.choice([0.0, 1.0, 4.0])),
        hairs=float(rng.uniform(0.5, 4)) if hairy else 0.0,
        hair_shade=float(rng.uniform(12, 40)),
        focus=float(rng.uniform(0.002, 0.008)),
        grain=float(rng.uniform(0.4, 1.3)),
    )


def skin_patch(look: Look, rng: np.random.Generator, size: int) -> npt.NDArray[np.uint8]:
    """(size, size, 3) uint8, a patch of the patient's skin."""
    light = _shade(rng, size) + look.mottling * _mottling(rng, size) + _furrows(look, rng, size)
    red = 0.9 * look.mottling * _mottling(rng, size)
    yellow = 0.6 * look.mottling * _mottling(rng, size)
    pores = _spots(rng, size, rng.poisson(look.pores), (0.006, 0.012), (1.5, 4.0))
    freckles = _spots(rng, size, rng.poisson(look.freckles), (0.012, 0.035), (2.0, 7.0))
    light -= pores + freckles + _hairs(look, rng, size)
    lab = np.stack([light, red + 0.25 * freckles, yellow + 0.45 * freckles + 0.2 * pores], axis=-1)
    lab += look.tone.astype(np.float32)
    lab = cv2.GaussianBlur(lab, (0, 0), max(0.3, look.focus * size))
    lab[..., 0] += look.grain * rng.standard_normal((size, size), dtype=np.float32)
    lab[..., 0] = np.clip(lab[..., 0], 5, 98)
    colours = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.asarray(np.round(255 * colours.clip(0, 1)), np.uint8)


def _clouds(rng: np.random.Generator, size: int, length: float) -> Plane:
    """Smooth noise of zero mean and unit variance; `length` is the standard deviation of its blur."""
    knots = min(size, round(2.5 / length))
    coarse = cv2.GaussianBlur(rng.standard_normal((knots, knots), dtype=np.float32), (0, 0), length * knots)
    coarse = (coarse - coarse.mean()) / coarse.std()
    return np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _mottling(rng: np.random.Generator, size: int) -> Plane:
    """Clouds of three lengths: blotches, the pigment's fine net, and what lies between."""
    octaves = ((0.12, 0.6), (0.04, 0.6), (0.015, 0.55))
    return np.asarray(sum(weight * _clouds(rng, size, length) for length, weight in octaves), np.float32)


def _shade(rng: np.random.Generator, size: int) -> Plane:
    """Light that falls off to one side, and the skin's own slow changes."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    angle, slope = rng.uniform(0, 2 * np.pi), rng.gamma(2.0, 1.2)
    return np.asarray(slope * (np.cos(angle) * x + np.sin(angle) * y) + 1.2 * _clouds(rng, size, 0.3), np.float32)


def _furrows(look: Look, rng: np.random.Generator, size: int) -> Plane:
    """Two families of warped parallel lines that cross: the fine net of the skin's surface."""
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j].astype(np.float32)
    depth = np.zeros((size, size), np.float32)
    for turn in (0.0, rng.uniform(0.9, 1.4)):
        angle = look.furrow_angle + turn
        across = np.cos(angle) * x + np.sin(angle) * y + 0.3 * look.furrow_spacing * _clouds(rng, size, 0.06)
        wave = 0.5 + 0.5 * np.cos(2 * np.pi * (across / look.furrow_spacing + rng.random()))
        depth -= look.furrows * wave**6 * (0.75 + 0.35 * _clouds(rng, size, 0.1))
    return depth


def _spots(
    rng: np.random.Generator, size: int, count: int, radius: tuple[float, float], depth: tuple[float, float]
) -> Plane:
    """The sum of `count` Gaussian spots."""
    plane = np.zeros((size, size), np.float32)
    for _ in range(count):
        centre, spread = rng.uniform(0, size, 2), max(0.5, rng.uniform(*radius) * size)
        reach = int(np.ceil(3 * spread))
        rows, columns = (
            np.arange(max(0, int(middle) - reach), min(size, int(middle) + reach + 1)) for middle in centre
        )
        profile = [
            np.exp(-0.5 * ((line - middle) / spread) ** 2) for line, middle in zip((rows, columns), centre, strict=True)
        ]
        plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += rng.uniform(*depth) * np.outer(*profile)
    return plane


def _hairs(look: Look, rng: np.random.Generator, size: int) -> Plane:
    """Curved dark lines across the patch."""
    coverage = np.zeros((size, size), np.uint8)
    for _ in range(rng.poisson(look.hairs)):
        start, angle, length = rng.uniform(-0.1, 1.1, 2), rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.2)
        along = np.linspace(0, 1, 24)
        heading = angle + rng.uniform(-1.5, 1.5) * along
        path = start + np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0) * length / len(along)
        points = np.round(path * size * 2**_FIXED).astype(np.int32)
        thickness = max(1, round(rng.uniform(0.004, 0.012) * size))
        cv2.polylines(coverage, [points], False, 255, thickness, cv2.LINE_AA, _FIXED)
    return np.asarray(look.hair_shade * coverage / 255, np.float32)
