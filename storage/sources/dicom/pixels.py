"""Stored values of a DICOM image and what they mean."""

from collections.abc import Iterator, Sequence

import numpy as np
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, RLELossless

from storage.sources.dicom.files import UnusableError, missing, number
from storage.sources.dicom.frames import Frame, frame_count, image_name

FRAME_BYTES = 2**24  # a frame of this many bytes may be compressed as far as it goes, as an empty one is; a larger one
RATIO = 1000  # by this factor, so that a flipped Rows cannot ask for gigabytes
RLE_DECODER = "pydicom"  # 15 ms a slice of 512 × 512; pylibjpeg-rle takes 2, and panics past `except` on damaged bytes
HOUNSFIELD = frozenset({"", "HU", "HU_MOD", "US"})  # what scanners write for the unit of a CT; US: unspecified


def stored_frames(dataset: Dataset) -> Iterator[np.ndarray]:
    """Each frame (y, x) as the integers that were stored, sign and unused bits put right."""
    where = image_name(dataset)
    _check_declared(dataset, where)
    is_rle = dataset.file_meta.TransferSyntaxUID == RLELossless
    try:
        for frame in iter_pixels(dataset, raw=True, decoding_plugin=RLE_DECODER if is_rle else ""):
            yield _used_bits(frame, dataset)
    except UnusableError:
        raise
    except Exception as error:  # a decoder raises whatever the damaged bytes lead to
        raise UnusableError(f"the pixels of {where} cannot be decoded: the file is damaged") from error


def _check_declared(dataset: Dataset, where: str) -> None:
    """UnusableError unless the bytes can hold what the header declares; nothing is decoded for it."""
    if "PixelData" not in dataset or not dataset.PixelData:
        raise UnusableError(f"{where} is cut off or empty: it has no pixels")
    if (number(dataset, "SamplesPerPixel") or 1) != 1:
        raise UnusableError(f"{where} is a colour picture, not a measurement")
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    rows, columns, bits = (int(number(dataset, name) or 0) for name in ("Rows", "Columns", "BitsAllocated"))
    frame_bits, frames = rows * columns * bits, frame_count(dataset)
    if frame_bits <= 0 or frames < 1:
        raise UnusableError(f"{where} does not say how large it is")
    if not syntax.is_compressed:
        expected = -(-frame_bits * frames // 8)
        if len(dataset.PixelData) < expected or dataset.PixelData[expected:].strip(b"\0"):
            what = "cut off" if len(dataset.PixelData) < expected else "damaged"
            raise UnusableError(f"{where} is {what}: {len(dataset.PixelData):,} bytes of pixels, not {expected:,}")
        return
    _check_decoder(syntax, where)
    _check_encoded(dataset.PixelData, frame_bits // 8, frames, where)


def _check_decoder(syntax: UID, where: str) -> None:
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError as error:
        raise UnusableError(f"{where} has transfer syntax {syntax}, which is not read") from error
    if not available:
        raise UnusableError(f"{syntax.name} in {where} needs a decoder: pip install 'lesionflow[jpeg]'")


def _check_encoded(encoded: bytes, frame_bytes: int, frames: int, where: str) -> None:
    try:
        lengths = [len(frame) for frame in generate_frames(encoded, number_of_frames=frames)]
    except Exception as error:  # damaged fragments raise anything
        raise UnusableError(f"the pixels of {where} are cut off or damaged") from error
    if len(lengths) != frames:
        raise UnusableError(f"{where} is cut off: {len(lengths)} of {frames} frames")
    if frame_bytes > FRAME_BYTES + RATIO * min(lengths):
        raise UnusableError(f"{where} declares {frame_bytes:,} bytes a frame and has {min(lengths):,}: it is damaged")


def _used_bits(frame: np.ndarray, dataset: Dataset) -> np.ndarray:
    """`frame` without what lies above (old overlays) or below its stored bits, its sign extended."""
    allocated = frame.dtype.itemsize * 8
    stored = int(number(dataset, "BitsStored") or allocated)
    if frame.dtype.kind not in "iu" or stored >= allocated:
        return frame
    compressed = UID(dataset.file_meta.TransferSyntaxUID).is_compressed
    high = stored - 1 if compressed else int(number(dataset, "HighBit") or stored - 1)
    if not stored - 1 <= high < allocated:
        raise UnusableError(f"High Bit (0028,0102) of {image_name(dataset)} does not fit its Bits Stored (0028,0101)")
    return (frame << (allocated - 1 - high)) >> (allocated - stored)


def hounsfield(stored: Sequence[np.ndarray], frames: Sequence[Frame]) -> np.ndarray:
    """(z, y, x) in HU: int16, or float32 where it does not fit."""
    for frame in frames:
        if frame.slope is None or frame.intercept is None:
            raise UnusableError(
                f"{missing('RescaleSlope' if frame.slope is None else 'RescaleIntercept')} in {frame.name}"
            )
        if frame.unit not in HOUNSFIELD:
            raise UnusableError(f"the values of {frame.name} are in '{frame.unit}', not in Hounsfield units")
    values = rescaled(stored, frames)
    limits = np.iinfo(np.int16)
    fits = limits.min <= values.min() and values.max() <= limits.max and not np.any(values % 1)
    return values.astype(np.int16) if fits else values


def signal(stored: Sequence[np.ndarray], frames: Sequence[Frame]) -> np.ndarray:
    """(z, y, x) as stored, int16 or uint16; float32 where a rescale gives the values another meaning or more bits."""
    if any((frame.slope, frame.intercept) not in {(None, None), (1, 0)} for frame in frames):
        return rescaled(stored, frames)
    kinds = {frame.dtype.kind for frame in stored}
    if kinds <= {"i", "u"} and max(frame.dtype.itemsize for frame in stored) <= 2 and len(kinds) == 1:
        return np.stack(stored).astype(np.int16 if kinds == {"i"} else np.uint16)
    return np.stack(stored).astype(np.float32)


def rescaled(stored: Sequence[np.ndarray], frames: Sequence[Frame]) -> np.ndarray:
    """(z, y, x) float32, slope and intercept of each slice applied."""
    values = np.empty((len(stored), *stored[0].shape), np.float32)
    for plane, frame, own in zip(values, frames, stored, strict=True):
        slope, intercept = frame.slope if frame.slope is not None else 1.0, frame.intercept or 0.0
        np.add(own.astype(np.float64) * slope, intercept, out=plane, casting="same_kind")
    return values
