"""A series from its files: every slice decoded once, put in order, given its meaning, with its masks beside it."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom import Dataset

from storage.sources.dicom.deidentify import acquisition
from storage.sources.dicom.files import UnusableError, read_dataset, tag, text
from storage.sources.dicom.frames import Frame, frames_of, image_name
from storage.sources.dicom.pixels import hounsfield, rescaled, signal, stored_frames
from storage.sources.dicom.rtstruct import contour_masks
from storage.sources.dicom.segmentation import segment_masks
from storage.sources.dicom.stack import Stack, stacked
from storage.sources.dicom.suv import PetHeader, pet_header, suv_factors, uptake_s
from storage.sources.listing import is_own_file
from storage.sources.volumes.volume import Volume

Units = Literal["suv", "raw"]


@dataclass(frozen=True, eq=False)
class Series:
    """A volume on the grid of its series, and what its physics needs."""

    volume: Volume
    acquisition: dict[str, str | float]


@dataclass(frozen=True, eq=False)
class _Slice:
    frame: Frame
    stored: np.ndarray
    header: Dataset


def read_series(
    encoded: Iterable[bytes], mask_files: Sequence[Path], masks_folder: Path, lesions: Collection[str], units: Units
) -> Series:
    """The series whose files hold `encoded`; UnusableError says what is wrong with it."""
    slices = [one for file in encoded for one in _slices(read_dataset(file))]
    if not slices:
        raise UnusableError("has no slices")
    stack = stacked([one.frame for one in slices], lambda i, j: _same(slices[i], slices[j]))
    slices = [slices[index] for index in stack.order]
    values, found = _values(slices, units)
    masks = None
    if mask_files:
        masks = _masks([_mask_dataset(path, masks_folder) for path in mask_files], stack, lesions)
    return Series(Volume(values[None], stack.affine_ras, masks), found)


def file_bytes(path: Path, folder: Path) -> bytes:
    """The bytes of a file of `folder`."""
    if not is_own_file(path, folder):
        raise UnusableError("one of its files is gone, or is a link that leads outside of the folder")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableError(f"one of its files cannot be read: {error.strerror}") from error


def combined_digest(digests: Iterable[bytes]) -> str:
    """SHA-256 over the SHA-256 of files, in their order; a second copy of a file does not count."""
    return hashlib.sha256(b"".join(dict.fromkeys(digests))).hexdigest()


def _slices(dataset: Dataset) -> Iterator[_Slice]:
    if text(dataset, "BurnedInAnnotation").upper() == "YES":
        raise UnusableError(
            f"{image_name(dataset)} has text burned into its pixels, which may name the patient "
            f"({tag('BurnedInAnnotation')} is YES)"
        )
    frames = frames_of(dataset)
    pixels = list(stored_frames(dataset))
    if len(pixels) != len(frames):
        raise UnusableError(f"{image_name(dataset)} has {len(pixels)} of {len(frames)} frames: damaged")
    del dataset.PixelData
    for frame, stored in zip(frames, pixels, strict=True):
        if stored.shape != frame.shape:
            raise UnusableError(f"{frame.name} is {stored.shape} pixels, its header says {frame.shape}: damaged")
        yield _Slice(frame, stored, dataset)


def _same(one: _Slice, other: _Slice) -> bool:
    meanings = [(each.frame.slope, each.frame.intercept) for each in (one, other)]
    return meanings[0] == meanings[1] and np.array_equal(one.stored, other.stored)


def _values(slices: Sequence[_Slice], units: Units) -> tuple[np.ndarray, dict[str, str | float]]:
    """(z, y, x) in HU, SUV, Bq/ml or as stored, and what the header says of the acquisition."""
    stored, frames = [one.stored for one in slices], [one.frame for one in slices]
    header = slices[0].header
    found = acquisition(header)
    modality = text(header, "Modality")
    if modality == "CT":
        return hounsfield(stored, frames), found
    if modality != "PT":
        return signal(stored, frames), found
    pet = _pet_headers(slices)
    if (uptake := uptake_s(pet)) is not None:
        found["uptake_minutes"] = round(uptake / 60.0, 3)
    if units == "raw":
        return rescaled(stored, frames), found
    factors = np.array(suv_factors(pet), np.float64)[:, None, None]
    return (rescaled(stored, frames) * factors).astype(np.float32), found


def _pet_headers(slices: Sequence[_Slice]) -> list[PetHeader]:
    """Of each slice; the frames of one file share theirs."""
    of_file = {id(one.header): one.header for one in slices}
    read = {key: pet_header(header) for key, header in of_file.items()}
    return [read[id(one.header)] for one in slices]


def _mask_dataset(path: Path, folder: Path) -> Dataset:
    try:
        return read_dataset(file_bytes(path, folder))
    except UnusableError as error:
        raise UnusableError(f"its RTSTRUCT or SEG: {error}") from error


def _masks(files: Sequence[Dataset], stack: Stack, lesions: Collection[str]) -> dict[str, np.ndarray]:
    """The masks of all files; where two show the same lesion class, their union."""
    masks: dict[str, np.ndarray] = {}
    for dataset in files:
        kind = text(dataset, "Modality")
        try:
            found = (segment_masks if kind == "SEG" else contour_masks)(dataset, stack, lesions)
        except UnusableError as error:
            raise UnusableError(f"its {kind}: {error}") from error
        for name, mask in found.items():
            masks[name] = masks[name] | mask if name in masks else mask
    return masks
