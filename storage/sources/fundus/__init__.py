"""Simulated fundus photographs of diabetic retinopathy: anatomy, lesions with exact masks, and look-alikes.

A `Scene` is drawn from a seed as parameters and photographed at any size; `Difficulty` holds the knobs.
"""

from storage.sources.fundus.difficulty import LESIONS, Difficulty, Distractor, LesionKind
from storage.sources.fundus.photograph import Scene, draw_scene, photograph

__all__ = ["LESIONS", "Difficulty", "Distractor", "LesionKind", "Scene", "draw_scene", "photograph"]
