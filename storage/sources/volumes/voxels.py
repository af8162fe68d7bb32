"""What the readers of volume files share: voxels with their place, and the checks a damaged header must not pass.

Every length is known before memory is asked for: a header that declares more than its file can hold is refused.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from storage.sources.photographs.file import UnreadableError

MOST_BYTES = 8 << 30  # of one volume: a whole-body CT of 0.7 mm voxels, 16 bit, is 2 GB
MOST_CHANNELS = 64
PIECE = 1 << 18  # bytes inflated at a time: at deflate's 1 : 1032 at most 256 MB before a lie is noticed
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

Beside = Callable[[str], bytes]  # the bytes of a file that a header names, refused outside of the source


@dataclass(frozen=True, eq=False)
class Voxels:
    """A decoded file: `image` (C, z, y, x) in the file's own axis order, `affine` (x, y, z, 1) → RAS mm."""

    image: np.ndarray
    affine: np.ndarray


@dataclass(frozen=True)
class Described:
    """What a header says without its voxels: how many channels, and the dtype they are to be stored in."""

    channels: int
    dtype: np.dtype


def stored_dtype(dtype: np.dtype, scaled: bool = False) -> np.dtype:
    """The dtype in which voxels of `dtype` are kept: integers as they are up to 32 bits, everything else float32."""
    if dtype.kind == "f" or (scaled and dtype.kind in "iu"):
        return np.dtype(np.float32)
    if dtype.kind not in "iu":
        raise UnreadableError(f"has voxels of the type {dtype}; whole numbers or floating-point ones are expected")
    return np.dtype(np.int32) if dtype.itemsize == 8 else dtype.newbyteorder("=")


def cast(image: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`image` as `dtype`; UnreadableError where whole numbers do not fit, or a value is no finite number."""
    if image.dtype.kind == "f":
        _check_finite(image)
    if image.dtype == dtype:
        return image
    with np.errstate(over="ignore", invalid="ignore"):
        changed = image.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(changed, image):
        low, high = image.min(), image.max()
        raise UnreadableError(
            f"has voxels ({image.dtype}, {low:g} to {high:g}) that do not fit into the {dtype} of the data set"
        )
    if dtype.kind == "f":
        _check_finite(changed)
    return changed


def _check_finite(image: np.ndarray) -> None:
    if broken := image.size - int(np.count_nonzero(np.isfinite(image))):
        raise UnreadableError(f"has {broken} of {image.size} voxels that are no finite number (NaN or infinite)")


def checked_shape(sizes: Sequence[int], itemsize: int) -> int:
    """The bytes of an array of `sizes`; UnreadableError where no volume can have them."""
    if any(size < 1 for size in sizes):
        raise UnreadableError(f"declares {_times(sizes)} voxels; each axis needs at least one")
    needed = prod(map(int, sizes)) * itemsize
    if needed > MOST_BYTES:
        raise UnreadableError(
            f"declares {_times(sizes)} voxels, {needed / 2**30:.0f} GiB; the most is {MOST_BYTES >> 30}"
        )
    return needed


def checked_spacing(spacing: Sequence[float]) -> None:
    """UnreadableError unless every spacing is a positive number of mm."""
    if not all(np.isfinite(mm) and mm > 0 for mm in spacing):
        raise UnreadableError(f"declares voxels of {_times(spacing)} mm; each spacing must be positive")


def checked_affine(affine: np.ndarray) -> np.ndarray:
    """`affine` as float64; UnreadableError where it is not finite or its axes span no volume."""
    affine = np.asarray(affine, np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise UnreadableError("has a position in the patient (affine) that is no number")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    checked_spacing(lengths.tolist())
    if abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise UnreadableError("has axes that span no volume (affine)")
    return affine


def inflated(encoded: bytes, expected: int) -> bytearray:
    """The content of the zlib or gzip stream `encoded`, read to its end so that its checksum is compared.

    UnreadableError where it is cut off, damaged, or not `expected` bytes long.
    """
    content, rest = bytearray(), memoryview(encoded)
    while len(rest) and not (content and not bytes(rest[:64]).strip(b"\0")):  # gzip files may be padded with zeros
        rest = rest[_inflate_member(rest, content, expected) :]
    if len(content) < expected:
        raise UnreadableError(_SHORT.format(len(content), expected))
    return content


def _inflate_member(encoded: memoryview, content: bytearray, most: int) -> int:
    """Append one member to `content`; how many bytes of `encoded` it took."""
    stream = zlib.decompressobj(wbits=47)  # zlib or gzip, whichever it is
    try:
        for start in range(0, len(encoded), PIECE):
            content += stream.decompress(encoded[start : start + PIECE])
            if len(content) > most:
                raise UnreadableError(f"unpacks to more than the {most} bytes that its header allows")
            if stream.eof:
                return start + len(encoded[start : start + PIECE]) - len(stream.unused_data)
    except zlib.error as error:
        raise UnreadableError(f"is damaged: its compressed data cannot be unpacked ({error})") from error
    raise UnreadableError(f"is cut off: its compressed data end after {len(content)} bytes unpacked")


def cut(encoded: bytes | bytearray, offset: int, needed: int) -> memoryview:
    """The `needed` bytes from `offset` to the end; UnreadableError where they are fewer or more.

    One byte more may have got in anywhere, and all voxels after it would be others.
    """
    held = len(encoded) - offset
    if offset < 0 or held < needed:
        raise UnreadableError(_SHORT.format(max(0, held), needed))
    if held > needed:
        raise UnreadableError(f"is damaged: its header declares {needed} bytes of voxels, it holds {held}")
    return memoryview(encoded)[offset:]


_SHORT = "is cut off or its header is damaged: it holds {} bytes of voxels, its header declares {}"


def _times(values: Sequence[float]) -> str:
    return " × ".join(f"{value:g}" for value in values)
