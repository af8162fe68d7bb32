"""NIfTI-1 and NIfTI-2 in one file (.nii, .nii.gz).

Axes beyond the third are channels. Place by nibabel's rule: the sform where it is set, else the qform, else the spacing
alone. Whole numbers stay as they are; `scl_slope` and `scl_inter` make them float32.
"""

import logging
import zlib
from typing import Any

import nibabel
import numpy as np

from storage.sources.photographs.file import UnreadableError
from storage.sources.volumes.voxels import (
    MOST_CHANNELS,
    Beside,
    Described,
    Voxels,
    cast,
    checked_affine,
    checked_shape,
    checked_spacing,
    cut,
    inflated,
    stored_dtype,
)

GZIP = b"\x1f\x8b"
LENGTHS = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
MM = {1: 1000.0, 3: 0.001}  # xyzt_units: metres, micrometres; anything else is taken for mm


def describe_nifti(start: bytes) -> Described:
    """From the first kilobytes of a file."""
    header = _header(_first_kilobyte(start))
    sizes = _sizes(header)
    return Described(sizes[3] if len(sizes) > 3 else 1, stored_dtype(_dtype(header), _scaling(header) is not None))


def read_nifti(encoded: bytes, beside: Beside | None = None) -> Voxels:
    """Decode a whole file; UnreadableError says what is wrong with it."""
    header = _header(_first_kilobyte(encoded))
    sizes, dtype, scaling, offset = _sizes(header), _dtype(header), _scaling(header), _offset(header)
    needed = checked_shape(sizes, dtype.itemsize)
    content = inflated(encoded, offset + needed) if encoded.startswith(GZIP) else encoded
    raw = np.frombuffer(cut(content, offset, needed), dtype).reshape([-1, *sizes[2::-1]])
    if scaling is not None:
        raw = raw * np.float64(scaling[0]) + scaling[1]
    return Voxels(cast(raw, stored_dtype(dtype, scaling is not None)), _affine(header, sizes))


def _first_kilobyte(start: bytes) -> bytes:
    if not start.startswith(GZIP):
        return start[:1024]
    try:
        return zlib.decompressobj(wbits=31).decompress(start[:65536], 1024)
    except zlib.error as error:
        raise UnreadableError(f"is damaged: its compressed data cannot be unpacked ({error})") from error


def _header(start: bytes) -> Any:
    """The header, unrepaired: nibabel would turn a spacing of 0 into 1 and a negative one into a positive."""
    for length, kind in LENGTHS.items():
        if len(start) >= length and length in (int.from_bytes(start[:4], order) for order in ("little", "big")):
            logging.getLogger("nibabel.global").setLevel(logging.ERROR)
            header = kind(start[:length], check=False)
            if header["magic"].item().rstrip(b"\0")[:3] not in (b"n+1", b"n+2"):
                raise UnreadableError("is not a NIfTI file with its voxels in it (magic n+1 or n+2)")
            return header
    raise UnreadableError("is not a NIfTI file (.nii or .nii.gz), or is cut off within its header")


def _sizes(header: Any) -> list[int]:
    """Three or four: x, y, z and, where there are any, channels."""
    count = int(header["dim"][0])
    if not 2 <= count <= 7:
        raise UnreadableError(f"declares {count} axes; 2 to 4 are expected")
    sizes = [int(size) for size in header["dim"][1 : 1 + count]] + [1] * (3 - count)
    sizes = sizes[:3] + [size for size in sizes[3:] if size != 1]
    if len(sizes) > 4 or (len(sizes) == 4 and not 1 <= sizes[3] <= MOST_CHANNELS):
        raise UnreadableError(
            f"has {' × '.join(map(str, sizes))} voxels; x, y, z and up to {MOST_CHANNELS} channels are expected"
        )
    return sizes


def _dtype(header: Any) -> np.dtype:
    try:
        dtype: np.dtype = np.dtype(header.get_data_dtype())
    except Exception as error:  # HeaderDataError, KeyError: a code that no NIfTI has
        raise UnreadableError(f"declares an unknown type of voxels ({int(header['datatype'])})") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnreadableError(f"has voxels of the type {dtype}; whole numbers or floating-point ones are expected")
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        raise UnreadableError(f"has a damaged header: voxels of the type {dtype} with {int(header['bitpix'])} bits")
    return dtype


def _scaling(header: Any) -> tuple[float, float] | None:
    """Slope and intercept where they change anything; a slope of 0 or NaN means none, as the standard says."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return None
    if not np.isfinite(intercept):
        raise UnreadableError(f"has a scaling that is no number (scl_slope {slope:g}, scl_inter {intercept:g})")
    return None if (slope, intercept) == (1, 0) else (slope, intercept)


def _offset(header: Any) -> int:
    offset = float(header["vox_offset"])
    least = int(header.sizeof_hdr) + 4
    if not np.isfinite(offset) or offset != int(offset) or (offset and offset < least):
        raise UnreadableError(f"says that its voxels begin at byte {offset:g}, within its header")
    return int(offset) or least


def _affine(header: Any, sizes: list[int]) -> np.ndarray:
    spacing = header["pixdim"][1:4]
    thin = [size == 1 and not mm > 0 for size, mm in zip(sizes, spacing, strict=False)]
    spacing[thin] = 1  # an axis of one voxel, as of a 2-D image, need not have a spacing
    checked_spacing(spacing.tolist())
    try:
        affine = np.array(header.get_best_affine(), np.float64)
    except Exception as error:  # a quaternion longer than 1, a sform of NaN
        raise UnreadableError(f"has a position in the patient that cannot be (qform or sform): {error}") from error
    affine[:3] *= MM.get(int(header["xyzt_units"]) & 7, 1.0)
    return checked_affine(affine)
