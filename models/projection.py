"""Projections of a volume onto two planes, and from masks on these planes back into the volume.

    coronal(z, x) = max_y V(z, y, x)        sagittal(z, y) = max_x V(z, y, x)                          (1)
    B(z, y, x) = min(coronal(z, x), sagittal(z, y))                                                    (2)

A cohort's volumes are (z, y, x): z along the body, y from front to back, x from side to side, so that the coronal
projection is the face and the sagittal one the profile. Of masks, (2) is the intersection of both beams: the
projections of a box give the box, those of another shape its visual hull from these two sides, which contains it.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CORONAL_AXIS, SAGITTAL_AXIS = -2, -1  # the axes that are looked along
Grid = tuple[int, int, int]  # z, y, x


class Views(NamedTuple):
    """The `coronal` (…, z, x) and the `sagittal` (…, z, y) side of something (…, z, y, x)."""

    coronal: Tensor
    sagittal: Tensor


def projections(volume: Tensor) -> Views:
    """Equation (1), of (…, z, y, x)."""
    return Views(volume.amax(dim=CORONAL_AXIS), volume.amax(dim=SAGITTAL_AXIS))


def back_projected(views: Views) -> Tensor:
    """Equation (2): (…, z, y, x) of any type that has an order; of bool, where both are True."""
    coronal, sagittal = views.coronal.unsqueeze(CORONAL_AXIS), views.sagittal.unsqueeze(SAGITTAL_AXIS)
    return torch.minimum(*torch.broadcast_tensors(coronal, sagittal))


def moved(views: Views, by: Tensor) -> Views:
    """Views (B, z, ·) of volumes that are moved `by` whole voxels (B, 3) along (z, y, x); zeros come in."""
    coronal = [_shifted(view, z, x) for view, (z, _, x) in zip(views.coronal, by.tolist(), strict=True)]
    sagittal = [_shifted(view, z, y) for view, (z, y, _) in zip(views.sagittal, by.tolist(), strict=True)]
    return Views(torch.stack(coronal), torch.stack(sagittal))


def _shifted(view: Tensor, down: int, across: int) -> Tensor:
    height, width = view.shape
    top, left = abs(down), abs(across)
    return F.pad(view, (left, left, top, top))[top - down :, left - across :][:height, :width]


def mirrored(views: Views, which: Tensor) -> Views:
    """Views (B, z, ·) of volumes whose left and right change sides where `which` (B,) is True."""
    return views._replace(coronal=torch.where(which[:, None, None], views.coronal.flip(-1), views.coronal))


def stacked(views: Views, multiple: tuple[int, int] = (1, 1)) -> Tensor:
    """Both views (B, z, ·) as one batch (2 B, 1, h, w), the coronal ones first.

    The sides are the larger of both, followed by zeros up to the next `multiple`, so that a place keeps its index.
    """
    height = -(-views.coronal.shape[-2] // multiple[0]) * multiple[0]
    width = -(-max(view.shape[-1] for view in views) // multiple[1]) * multiple[1]
    sides = [F.pad(view, (0, width - view.shape[-1], 0, height - view.shape[-2])) for view in views]
    return torch.cat(sides).unsqueeze(1)


def unstacked(both: Tensor, grid: Grid) -> Views:
    """(2 B, h, w) as the two views (B, z, ·) of volumes of `grid`: `stacked`, undone."""
    (z, y, x), (coronal, sagittal) = grid, both.chunk(2)
    return Views(coronal[..., :z, :x], sagittal[..., :z, :y])
