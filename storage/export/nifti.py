"""NIfTI: a folder a case with `image.nii.gz`, `mask_<lesion>.nii.gz` and `map_<name>.nii.gz`.

The header's affine is the cohort's own: index (x, y, z) to (right, anterior, superior) in mm, written as qform and
sform with code 1 (scanner); sheared axes as sform alone. A picture is one slice. Where nothing is known of the patient,
as for a photograph, x runs to the left and y to the back at the known spacing, or 1 mm, with code 2 (aligned): viewers
then show it as it was taken.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from storage.cohort import Cohort
from storage.errors import CohortError
from storage.export.content import Content, maps_of, masks_of
from storage.export.delivery import safe_names
from storage.geometry import Grid

SCANNER, ALIGNED = 1, 2
LONGEST = 32767
WIDER = {"bool": "uint8", "float16": "float32"}  # NIfTI has neither


def write_nifti(cohort: Cohort, case: int, folder: Path, content: Content) -> list[Path]:
    """Write the files of a case into the new `folder`; their paths.

    With `grid` "source", masks and maps lie on the voxels of the file that the case was read from, in its axis order;
    the image is that file.
    """
    geometry = cohort.geometry(case)
    to_source = content.grid == "source"
    grid = geometry.source if to_source else geometry.grid
    folder.mkdir()
    written = [] if to_source else _image(cohort, case, folder, grid)
    for name, mask in masks_of(cohort, case, content):
        there = geometry.mask_to_source(mask) if to_source else mask
        written.append(save_nifti(folder / f"mask_{name}.nii.gz", there.astype(np.uint8), grid))
    for name, saliency in maps_of(cohort, case, content):
        there = geometry.map_to_source(saliency) if to_source else saliency
        written.append(save_nifti(folder / f"map_{name}.nii.gz", there.astype(np.float32, copy=False), grid))
    return written


def _image(cohort: Cohort, case: int, folder: Path, grid: Grid) -> list[Path]:
    """One file a channel: a fourth axis means time to most readers of NIfTI."""
    image = cohort.image(case)
    if len(cohort.channels) == 1:
        return [save_nifti(folder / "image.nii.gz", image[0], grid)]
    names = safe_names(cohort.channels)
    return [save_nifti(folder / f"image_{name}.nii.gz", one, grid) for name, one in zip(names, image, strict=True)]


def save_nifti(file: Path, values: np.ndarray, grid: Grid) -> Path:
    """Write `values` (y, x) or (z, y, x) that lie on `grid`; the file. CohortError for a side beyond 16 bits."""
    import nibabel

    if max(values.shape) > LONGEST:
        raise CohortError(f"{file.name} has {max(values.shape)} pixels a side, NIfTI takes {LONGEST}; use ome-zarr")
    stored = WIDER.get(values.dtype.name, values.dtype.name)
    array = np.ascontiguousarray(values.astype(stored, copy=False).T)
    array = array if array.ndim == 3 else array[..., None]
    affine = placed(grid)
    image = nibabel.Nifti1Image(array, affine, dtype=stored)
    code = ALIGNED if grid.affine is None else SCANNER
    image.set_sform(affine, code)
    image.set_qform(affine, 0 if _is_sheared(affine) else code)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, file)
    return file


def _is_sheared(affine: np.ndarray) -> bool:
    """Whether the axes are not at right angles, as of a tilted gantry; a qform cannot say so."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() > 1e-4)


def placed(grid: Grid) -> np.ndarray:
    """The affine of `grid`, (4, 4); for one that lies nowhere: from its first voxel on, left, back and up."""
    if grid.affine is not None:
        return np.array(grid.affine, np.float64)
    return np.diag([*_signed(grid.spacing_mm), 1.0])


def _signed(spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    known = [mm if mm > 0 else 1.0 for mm in spacing_mm]  # NaN is not above 0
    z, y, x = [1.0] * (3 - len(known)) + known
    return -x, -y, z
