"""Volumes of one patient on one grid: same place or not, and how one comes onto another's voxels."""

import numpy as np
from scipy import ndimage

from storage.sources.photographs.file import UnreadableError
from storage.sources.volumes.voxels import Voxels

SAME_PLACE = 0.05  # voxels: writers round affines to float32, and contouring tools to 1e-3 mm


def on_grid(moving: Voxels, fixed: Voxels) -> np.ndarray:
    """The image (C, z, y, x) of `moving` on the voxels of `fixed`, linearly in world space, dtype kept.

    Itself where both have one grid. What lies outside is the least value of its channel: air in CT, nothing in PET.
    UnreadableError where the two do not overlap.
    """
    if _same_grid(moving, fixed):
        return moving.image
    inside = _resampled(np.ones(moving.image.shape[1:], np.uint8), moving, fixed, 0) > 0
    if not inside.any():
        raise UnreadableError("does not overlap with the first channel")
    channels = []
    for channel in moving.image:
        values = _resampled(channel.astype(np.float32), moving, fixed, 1)
        if channel.dtype.kind in "iu":
            values = np.rint(values)
        channels.append(np.where(inside, values, channel.min()).astype(channel.dtype))
    return np.stack(channels)


def mask_on_grid(mask: Voxels, image: Voxels) -> np.ndarray:
    """The labels (z, y, x) of `mask` on the voxels of `image`, those of the nearest voxel.

    UnreadableError where the mask does not cover the whole image: nobody looked for lesions in the rest.
    """
    if _same_grid(mask, image):
        return np.asarray(mask.image[0])
    covered = _resampled(np.ones(mask.image.shape[1:], np.uint8), mask, image, 0) > 0
    if not covered.all():
        sizes = " × ".join(map(str, mask.image.shape[1:])), " × ".join(map(str, image.image.shape[1:]))
        raise UnreadableError(
            f"has another grid than the image ({sizes[0]} and {sizes[1]} voxels) and covers {covered.mean():.0%} of it"
        )
    return _resampled(mask.image[0], mask, image, 0)


def _same_grid(one: Voxels, other: Voxels) -> bool:
    """Whether both have the same voxels in the same place: no corner of the one is off by SAME_PLACE in the other."""
    shape = one.image.shape[1:]
    if shape != other.image.shape[1:]:
        return False
    corners = np.array([[x, y, z, 1] for z in (0, shape[0]) for y in (0, shape[1]) for x in (0, shape[2])]).T
    moved = np.linalg.inv(other.affine) @ one.affine @ corners
    return bool(np.abs(moved - corners).max() < SAME_PLACE)


def _resampled(values: np.ndarray, moving: Voxels, fixed: Voxels, order: int) -> np.ndarray:
    """`values` (z, y, x) of `moving` at the voxels of `fixed`; half a voxel outside they go on, beyond they are 0."""
    matrix = (np.linalg.inv(moving.affine) @ fixed.affine)[:3]
    swapped = matrix[::-1, [2, 1, 0, 3]]  # affines speak of (x, y, z), arrays of (z, y, x)
    return np.asarray(
        ndimage.affine_transform(
            np.pad(values, 1, mode="constant" if order == 0 else "edge"),
            swapped[:, :3],
            swapped[:, 3] + 1,
            output_shape=fixed.image.shape[1:],
            order=order,
            mode="constant",
        )
    )
