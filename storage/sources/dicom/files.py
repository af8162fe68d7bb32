"""Reading DICOM files that may be damaged, and saying what is wrong with them without naming a person."""

import logging
import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, config, dcmread
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ImplicitVRLittleEndian

DEFLATED = b"1.2.840.10008.1.2.1.99"  # such a header could inflate to any size
META_BYTES = 2048
PIXELS = 0x7FE00010
UNDEFINED_LENGTH = 0xFFFFFFFF

# pydicom's warnings quote the values they warn of, which may be a person's name
config.settings.reading_validation_mode = config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"pydicom\.")


class UnusableError(Exception):
    """Why a series, a file or a mask cannot be used; its text holds no name, identifier, date or path."""


class _Bounded(BufferedReader):
    """A file that is never asked for more than it has: a flipped length field would otherwise allocate gigabytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(FileIO(path))
        self._end = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._end - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def looks_like_dicom(start: bytes) -> bool:
    """Whether a file that begins with `start` has the mark of DICOM, or without a preamble its first element."""
    return start[128:132] == b"DICM" or (start[:2] == b"\x08\x00" and start[3:4] == b"\x00")


def read_header(path: Path, keywords: Sequence[str]) -> Dataset:
    """Those elements of the file at `path`; its pixels are not read. UnusableError where it is no readable DICOM."""
    with _Bounded(path) as file:
        start = file.read(META_BYTES)
        if not looks_like_dicom(start):
            raise UnusableError("has no DICOM header")
        _refuse_deflated(start)
        file.seek(0)
        try:
            return dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(keywords))
        except Exception as error:  # pydicom raises whatever the damaged bytes lead to
            raise UnusableError(f"its DICOM header cannot be read ({type(error).__name__})") from error


def read_dataset(encoded: bytes) -> Dataset:
    """The whole data set of a file's bytes."""
    _refuse_deflated(encoded[:META_BYTES])
    try:
        dataset = dcmread(BytesIO(encoded), force=True)
        if not len(dataset):  # what pydicom makes of a file that is cut off within compressed pixels
            dataset = dcmread(BytesIO(encoded), force=True, stop_before_pixels=True)
    except Exception as error:  # as above
        raise UnusableError(f"its DICOM header cannot be read ({type(error).__name__})") from error
    _check_end(dataset, encoded)
    dataset.file_meta = getattr(dataset, "file_meta", FileMetaDataset())
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return dataset


def _check_end(dataset: Dataset, encoded: bytes) -> None:
    """UnusableError where something follows the pixels that may not: bytes that came in have shifted them."""
    pixels = dataset.get_item("PixelData") if "PixelData" in dataset else None
    if isinstance(pixels, RawDataElement) and pixels.length != UNDEFINED_LENGTH:
        rest = encoded[pixels.value_tell + pixels.length :].strip(b"\0")
        order = "little" if pixels.is_little_endian else "big"
        if rest and (len(rest) < 8 or int.from_bytes(rest[:2], order) < PIXELS >> 16):
            raise UnusableError("is damaged: bytes follow its pixels that are no element")


def _refuse_deflated(start: bytes) -> None:
    if DEFLATED in start:
        raise UnusableError("is deflated, which is not read; store it uncompressed (dcmconv +te)")


def tag(keyword: str) -> str:
    """A tag as a person looks it up: 'Patient's Weight (0010,1030)'."""
    number = tag_for_keyword(keyword) or 0
    return f"{dictionary_description(number)} ({number >> 16:04X},{number & 0xFFFF:04X})"


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The values of an element, () where it is absent or empty; UnusableError where one is no finite number."""
    value = _value(dataset, keyword)
    if value is None or value == "":
        return ()
    try:
        found = tuple(float(one) for one in (value if isinstance(value, Sequence | list) else [value]))
    except (TypeError, ValueError):
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise UnusableError(f"{tag(keyword)} is not a number")
    return found


def number(dataset: Dataset, keyword: str) -> float | None:
    """The only value of an element; None where it is absent or empty."""
    found = numbers(dataset, keyword)
    if len(found) > 1:
        raise UnusableError(f"{tag(keyword)} has {len(found)} values, not one")
    return found[0] if found else None


def needed(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """The `count` values of an element that must be there."""
    found = numbers(dataset, keyword)
    if len(found) != count:
        raise UnusableError(f"{tag(keyword)} has {len(found)} values, not {count}" if found else missing(keyword))
    return found


def missing(keyword: str) -> str:
    """What to say of an element that is not there."""
    return f"{tag(keyword)} is missing"


def text(dataset: Dataset, keyword: str) -> str:
    """An element as text, several values joined by a backslash; '' where it is absent."""
    value = _value(dataset, keyword)
    if value is None:
        return ""
    several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return "\\".join(map(str, value)).strip() if several else str(value).strip()


def items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence; none where it is absent or is no sequence."""
    value = _value(dataset, keyword)
    return value if isinstance(value, DicomSequence) else ()


def coordinates(dataset: Dataset, keyword: str) -> np.ndarray:
    """The numbers of an element that has thousands: pydicom checks each, which takes 20 times as long."""
    element = dataset.get_item(keyword)
    value = None if element is None else element.value
    try:
        found = np.array(value.split(b"\\") if isinstance(value, bytes) else value or (), np.float64)
    except (TypeError, ValueError):
        found = np.array(np.nan)
    if not np.isfinite(found).all():
        raise UnusableError(f"{tag(keyword)} is not a number")
    return found


_number_of = lru_cache(maxsize=None)(tag_for_keyword)


def _value(dataset: Dataset, keyword: str) -> Any:
    try:
        element = dataset.get(_number_of(keyword) or 0)  # by number: by keyword takes 3 times as long
        return None if element is None else element.value
    except Exception as error:  # an element is decoded when it is asked for; damaged bytes raise anything
        raise UnusableError(f"{tag(keyword)} cannot be read") from error
