"""Where a cohort's grid lies on the voxels of its source and in the patient, and the way back."""

from storage.geometry.geometry import Geometry, plain
from storage.geometry.operations import Crop, Grid, Interpolator, Operation, Orient, Project, Resample

__all__ = ["Crop", "Geometry", "Grid", "Interpolator", "Operation", "Orient", "Project", "Resample", "plain"]
