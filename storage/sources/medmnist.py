"""One .npz in the layout of MedMNIST: train_images, train_labels, and the same for val and test.

in   images (N, y, x) grey, (N, y, x, 3) RGB, or (N, z, y, x); labels (N,) or (N, k)
out  cases of one grid in the file's dtype, split as the arrays are named; nothing is known of mm or of the patient

Yang et al., MedMNIST v2, Scientific Data 2023.
"""

import hashlib
import threading
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import nan, prod
from pathlib import Path
from typing import IO

import numpy as np

from storage.case import Case, Listed, Rejected
from storage.errors import SourceError
from storage.geometry import Geometry, Resample, plain
from storage.sources.archives import listed_whole
from storage.sources.photographs.file import UnreadableError
from storage.sources.stamp import stamp_of
from storage.sources.volumes.voxels import cast, stored_dtype

SPLITS = {"train": "train", "val": "validation", "test": "test"}
LAYOUT = "an .npz in MedMNIST's layout holds train_images, train_labels and the same for val and test"
DEFLATE = 1100  # the most that deflate can shrink anything: more is a lie of the archive's directory
PIECE = 1 << 20
_LOCK = threading.Lock()


@dataclass(frozen=True)
class MedMnist:
    """An .npz as `open_medmnist` found it."""

    address: str
    grid: tuple[int, ...]
    channels: tuple[str, ...]
    labels: tuple[str, ...]
    listed: tuple[Listed, ...]
    lesions: tuple[str, ...] = ()
    name: str = "medmnist"

    @property
    def dims(self) -> tuple[str, ...]:
        """y, x; or z, y, x."""
        return ("z", "y", "x")[-len(self.grid) :]

    def listing(self) -> Sequence[Listed]:
        """The cases split by split, in the order of the arrays."""
        return self.listed

    def sha256(self, key: Listed) -> str:
        """Of the pixels and the place in the file: MedMNIST holds some images twice, and they are two cases."""
        try:
            return _digest(_pixels(self.address, key.file), key.file)
        except UnreadableError:
            return ""

    def read(self, key: Listed) -> Case | Rejected:
        """One image of its array."""
        digest = ""
        try:
            pixels = _pixels(self.address, key.file)
            digest = _digest(pixels, key.file)
            if key.problem:
                raise UnreadableError(key.problem)
            coloured = len(self.channels) == 3
            image = np.moveaxis(pixels, -1, 0) if coloured else pixels[None]
            image = cast(np.ascontiguousarray(image), stored_dtype(_number_type(pixels.dtype)))
        except UnreadableError as error:
            return Rejected(key.file, str(error), digest)
        geometry = _geometry(image.shape[1:], self.grid)
        return Case(
            case_id=key.case_id,
            patient_id=key.patient_id,
            file=key.file,
            sha256=digest,
            image=geometry.apply(image),
            labels=dict(key.labels),
            masks=None,
            geometry=geometry,
            split=key.split,
            stamp=key.stamp,
        )


def open_medmnist(address: str, *, size: int | None = None, label_name: str = "label") -> MedMnist:
    """The images in the .npz `address`, on its own grid or one of `size` pixels a side.

    One column of labels is called `label_name`, several `label_name`_0, _1 … Each image is a patient of its own.
    SourceError where the file is none of MedMNIST's, its arrays do not belong together, or labels are no numbers.
    """
    path = Path(address)
    arrays = _arrays(path)
    shapes = {array.shape[1:] for name, array in arrays.items() if name.endswith("_images")}
    dtypes = {array.dtype for name, array in arrays.items() if name.endswith("_images")}
    if len(shapes) != 1 or len(dtypes) != 1:
        raise SourceError(f"{path} has images of different shapes or types in its splits; one is expected")
    (shape,) = shapes
    coloured = len(shape) > 2 and shape[-1] == 3
    grid = shape[:-1] if coloured else shape
    if len(grid) not in (2, 3) or min(grid) < 1:
        raise SourceError(
            f"{path} has images of {' × '.join(map(str, shape))}; (y, x), (y, x, 3) or (z, y, x) is expected"
        )
    if size is not None and size < 1:
        raise SourceError(f"a grid of {size} pixels cannot hold an image; leave --size away for the file's own")
    labels, listed = _listed(path, arrays, label_name)
    return MedMnist(
        address=str(path),
        grid=grid if size is None else (size,) * len(grid),
        channels=("red", "green", "blue") if coloured else ("grey",),
        labels=labels,
        listed=listed,
    )


@dataclass(frozen=True)
class _Array:
    """An array in a zip: where it begins in its member, or in the whole file if it is not compressed."""

    member: str
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    offset: int
    offset_in_file: int | None

    @property
    def order(self) -> str:
        return "F" if self.fortran else "C"


def _arrays(path: Path) -> dict[str, _Array]:
    """The images and labels by name, from their headers alone."""
    if not path.is_file():
        raise SourceError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            names = {info.filename.removesuffix(".npy"): info for info in listed_whole(archive, path)}
            wanted = [f"{split}_{what}" for split in SPLITS for what in ("images", "labels")]
            arrays = {name: _array(archive, names[name], file) for name in wanted if name in names}
    except Exception as error:  # zipfile and numpy's header parser raise whatever the damaged bytes lead to
        reason = str(error).partition("\n")[0]
        raise SourceError(f"{path} cannot be read as an .npz: {reason}") from error
    if not any(name.endswith("_images") for name in arrays):
        raise SourceError(f"{path} holds {', '.join(sorted(names)[:9]) or 'nothing'}; {LAYOUT}")
    return arrays


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: IO[bytes]) -> _Array:
    """What the header of an array says, checked against the size of its member."""
    with archive.open(info) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(stream)
        except Exception as error:  # a header is Python's text: SyntaxError, TokenError, TypeError, RecursionError …
            raise ValueError(f"the header of {info.filename} is damaged") from error
        offset = stream.tell()
    if dtype.hasobject or dtype.kind not in "biuf":
        raise ValueError(f"{info.filename} holds {dtype}, numbers are expected")
    if offset + prod(shape) * dtype.itemsize != info.file_size or info.file_size > DEFLATE * max(1, info.compress_size):
        raise ValueError(f"{info.filename} declares {shape} of {dtype}, which is not what the archive holds")
    in_file = None
    if info.compress_type == zipfile.ZIP_STORED:
        file.seek(info.header_offset)
        local = file.read(30)
        in_file = (
            info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        )
    return _Array(
        info.filename, dtype, tuple(shape), bool(fortran), offset, None if in_file is None else in_file + offset
    )


def _pixels(address: str, file: str) -> np.ndarray:
    """One image by its name, as 'train/000123'."""
    split, _, index = file.partition("/")
    try:
        with _LOCK:
            images = _opened(address, f"{split}_images", stamp_of([Path(address)]))
        return np.array(images[int(index)])
    except (SourceError, KeyError, IndexError, ValueError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableError(f"cannot be read from {Path(address).name}: {error}") from error


@lru_cache(maxsize=2)  # a batch may reach from one split into the next
def _opened(address: str, name: str, stamp: str) -> np.ndarray:
    """The images of a split, once a process: mapped where the zip stores them as they are, else read into memory."""
    array = _arrays(Path(address))[name]
    if array.offset_in_file is not None:
        _check_sum(address, array)
        mapped = np.memmap(address, array.dtype, "r", array.offset_in_file, array.shape, array.order)  # type: ignore[call-overload]
        return np.asarray(mapped)
    with zipfile.ZipFile(address) as archive:
        content = archive.read(array.member)
    return np.frombuffer(content, array.dtype, offset=array.offset).reshape(array.shape, order=array.order)  # type: ignore[call-overload, no-any-return]


def _check_sum(address: str, array: _Array) -> None:
    """BadZipFile where the bytes are not those that were stored: a mapped file shows whatever is there."""
    with zipfile.ZipFile(address) as archive, archive.open(array.member) as content:
        while content.read(PIECE):
            pass  # compared at the end


def _listed(path: Path, arrays: dict[str, _Array], label_name: str) -> tuple[tuple[str, ...], tuple[Listed, ...]]:
    """Names of the labels, and a key for each image."""
    stamp, listed, names = stamp_of([path]), list[Listed](), None
    for split, meant in SPLITS.items():
        if f"{split}_images" not in arrays:
            continue
        count = arrays[f"{split}_images"].shape[0]
        labels = _labels(path, arrays.get(f"{split}_labels"), count, split)
        width = labels.shape[1]
        if names is not None and len(names) != width:
            raise SourceError(f"{path} has {len(names)} labels an image in one split and {width} in {split}")
        names = (label_name,) if width == 1 else tuple(f"{label_name}_{number}" for number in range(width))
        for index, row in enumerate(labels.tolist()):
            key = f"{split}/{index:06d}"
            listed.append(Listed(key, key, key, dict(zip(names, row, strict=True)), meant, "", stamp))
    return names or (), tuple(listed)


def _labels(path: Path, array: _Array | None, count: int, split: str) -> np.ndarray:
    """(count, labels) float64; no column where the split has no labels."""
    if array is None:
        return np.zeros((count, 0))
    if array.shape[:1] != (count,) or len(array.shape) > 2:
        raise SourceError(
            f"{path} has {count} images and labels of shape {array.shape} in {split}; one row an image is expected"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(array.member)
    except (zipfile.BadZipFile, OSError, zlib.error) as error:
        raise SourceError(f"{path} cannot be read as an .npz: {error}") from error
    flat = np.frombuffer(content, array.dtype, offset=array.offset)
    labels = flat.reshape(array.shape, order=array.order).reshape(count, -1).astype(np.float64)  # type: ignore[call-overload]
    return np.where(np.isfinite(labels), labels, nan)


def _number_type(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype


def _digest(pixels: np.ndarray, file: str) -> str:
    return hashlib.sha256(file.encode() + b"\0" + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _geometry(source: Sequence[int], grid: Sequence[int]) -> Geometry:
    """Averaged onto a coarser grid, interpolated onto a finer one; nothing is known of mm."""
    own = plain(source, [nan] * len(source))
    if tuple(source) == tuple(grid):
        return own
    scale = tuple(old / new for old, new in zip(source, grid, strict=True))
    return Geometry(own.source, (Resample(tuple(grid), scale, "area" if min(scale) >= 1 else "linear"),))
