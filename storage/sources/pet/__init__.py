"""Simulated whole-body FDG-PET: anatomy, one tumour with its exact extent, three scanners, and a planted outcome.

An `Exam` is drawn from a seed as parameters and imaged on a grid of any spacing.
"""

from storage.sources.pet.exam import Exam, draw_exam, grid_origin, grid_shape, imaged
from storage.sources.pet.outcome import best_auc, best_c_index, log_hazard, response_logit
from storage.sources.pet.scanner import SCANNERS

__all__ = [
    "SCANNERS",
    "Exam",
    "best_auc",
    "best_c_index",
    "draw_exam",
    "grid_origin",
    "grid_shape",
    "imaged",
    "log_hazard",
    "response_logit",
]
