"""The formats of volume files: how their files are named, which belong together, and what a sample of headers says."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

import numpy as np

from storage.errors import SourceError
from storage.sources.listing import is_own_file
from storage.sources.photographs.file import UnreadableError
from storage.sources.volumes.metaimage import describe_metaimage, metaimage_data_file, read_metaimage
from storage.sources.volumes.nifti import describe_nifti, read_nifti
from storage.sources.volumes.nrrd import describe_nrrd, nrrd_data_file, read_nrrd
from storage.sources.volumes.voxels import Beside, Described, Voxels

FormatName = Literal["nifti", "nrrd", "mha"]
START = 1 << 17  # bytes that hold any header


@dataclass(frozen=True)
class Format:
    """How files of one kind are named and read; those with `detached` as suffix have their voxels in another file."""

    suffixes: tuple[str, ...]
    describe: Callable[[bytes], Described]
    read: Callable[[bytes, Beside], Voxels]
    data_file: Callable[[bytes], str | None]
    detached: str


FORMATS: dict[str, Format] = {
    "nifti": Format((".nii.gz", ".nii"), describe_nifti, read_nifti, lambda start: None, "none"),
    "nrrd": Format((".nrrd", ".nhdr"), describe_nrrd, read_nrrd, nrrd_data_file, ".nhdr"),
    "mha": Format((".mha", ".mhd"), describe_metaimage, read_metaimage, metaimage_data_file, ".mhd"),
}


def format_named(name: str) -> Format:
    """SourceError for an unknown one."""
    if name not in FORMATS:
        raise SourceError(f"there is no volume format '{name}'; there is: {', '.join(FORMATS)}")
    return FORMATS[name]


def contents(folder: Path, file: str, kind: Format) -> list[bytes]:
    """The bytes of `file`, and of the one that holds its voxels where that is another; none outside of `folder`."""
    encoded = _bytes(folder, folder / file)
    data_file = _data_file(folder, file, encoded[:START], kind)
    return [encoded] if data_file is None else [encoded, _bytes(folder, data_file)]


def decoded(parts: Sequence[bytes], kind: Format) -> Voxels:
    """The volume in the `contents` of a file."""
    return kind.read(parts[0], lambda name: parts[1])


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 of one part after the other."""
    sum_of_all = hashlib.sha256()
    for part in parts:
        sum_of_all.update(part)
    return sum_of_all.hexdigest()


def paths_of(folder: Path, file: str, kind: Format) -> list[Path]:
    """All files that `file` consists of, as far as can be told; only headers are read."""
    path = folder / file
    if not file.lower().endswith(kind.detached):
        return [path]
    try:
        data_file = _data_file(folder, file, _bytes(folder, path, START), kind)
    except UnreadableError:
        return [path]
    return [path] if data_file is None else [path, data_file]


def describe_files(folder: Path, files: Iterable[str], kind: Format) -> list[Described]:
    """What the headers of `files` say, of those that can be read."""
    found = []
    for file in files:
        try:
            found.append(kind.describe(_bytes(folder, folder / file, START)))
        except UnreadableError:
            continue
    return found


def common_dtype(described: Sequence[Described]) -> np.dtype:
    """The dtype that holds the voxels of all; float32 where none can be told."""
    if not described:
        return np.dtype(np.float32)
    common = np.result_type(*(one.dtype for one in described))
    return common if common.itemsize < 8 else np.dtype(np.float32 if common.kind == "f" else np.int32)


def common_channels(described: Sequence[Described]) -> int:
    """The number of channels that most have; 1 where none can be told."""
    counts = Counter(one.channels for one in described)
    return counts.most_common(1)[0][0] if counts else 1


@contextmanager
def naming(what: str) -> Iterator[None]:
    """UnreadableErrors say which of several files they mean."""
    try:
        yield
    except UnreadableError as error:
        raise UnreadableError(f"{what} {error}".strip()) from error


def _data_file(folder: Path, file: str, start: bytes, kind: Format) -> Path | None:
    name = kind.data_file(start)
    if name is None:
        return None
    if not file.lower().endswith(kind.detached):
        raise UnreadableError(f"names another file for its voxels ('{name}'), which only a {kind.detached} may")
    given = PurePosixPath(name.replace("\\", "/"))
    path = (folder / file).parent / given
    escapes = given.is_absolute() or PureWindowsPath(name).drive or ".." in given.parts
    if escapes or "\0" in name or not is_own_file(path, folder):
        raise UnreadableError(f"names '{name}' for its voxels, which is no file inside of the source's folder")
    return path


def _bytes(folder: Path, path: Path, most: int = -1) -> bytes:
    try:
        if not is_own_file(path, folder):
            raise UnreadableError("is not a file of this folder: a link that leads outside of it is not followed")
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
