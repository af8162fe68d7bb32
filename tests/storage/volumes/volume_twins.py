"""Small volume files as nibabel and SimpleITK write them, for tests of the readers."""

from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

from storage.case import Case, Rejected
from storage.sources.volumes.files import VolumeFiles

LPS = np.diag([-2.0, -3.0, 4.0, 1.0])
LPS[:3, 3] = (10, 20, 30)


def voxels(shape=(5, 6, 7), seed=0, dtype=np.int16) -> np.ndarray:
    """(x, y, z)"""
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


def nifti(path: Path, array: np.ndarray, affine: np.ndarray = LPS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(array, affine).to_filename(path)
    return path


def itk(path: Path, array: np.ndarray, affine: np.ndarray = LPS, compress: bool = False, vector: bool = False) -> Path:
    """`array` (x, y, z) written by SimpleITK at the place that `affine` (RAS) says."""
    image = SimpleITK.GetImageFromArray(np.moveaxis(array, (0, 1, 2), (2, 1, 0)), isVector=vector)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((np.diag([-1, -1, 1]) @ affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin((np.diag([-1, -1, 1]) @ affine[:3, 3]).tolist())
    SimpleITK.WriteImage(image, path, useCompression=compress)
    return path


def read_all(source: VolumeFiles) -> dict[str, Case | Rejected]:
    return {key.case_id: source.read(key) for key in source.listing()}


def reason(source: VolumeFiles, case: str = "a") -> str:
    read = read_all(source)[case]
    assert isinstance(read, Rejected)
    assert "\n" not in read.reason
    return read.reason


def patched(path: Path, offset: int, value: np.generic) -> None:
    """`path` (.nii) with the bytes of `value` at `offset` of its header."""
    content = bytearray(path.read_bytes())
    content[offset : offset + value.nbytes] = value.tobytes()
    path.write_bytes(content)
