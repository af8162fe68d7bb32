"""NRRD: .nrrd, or .nhdr with its voxels in a file beside it; raw or gzip-compressed.

Read without ITK, which trusts the sizes that a damaged header declares. Places as ITK reads them: a space that says
nothing of the patient is taken for (left, posterior, superior).
"""

import re

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

LONGEST_HEADER = 1 << 16
NAMES = {
    "i1": "signed char,int8,int8_t",
    "u1": "uchar,unsigned char,uint8,uint8_t",
    "i2": "short,short int,signed short,signed short int,int16,int16_t",
    "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
    "i4": "int,signed int,int32,int32_t",
    "u4": "uint,unsigned int,uint32,uint32_t",
    "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
    "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
    "f4": "float",
    "f8": "double",
}
TYPES = {name: code for code, names in NAMES.items() for name in names.split(",")}
TO_RAS = {"right-anterior-superior": (1, 1, 1), "left-anterior-superior": (-1, 1, 1)}
TO_RAS |= {"ras": (1, 1, 1), "las": (-1, 1, 1)}
LPS = (-1, -1, 1)
SPATIAL = frozenset({"domain", "space"})
COMPRESSED = frozenset({"gzip", "gz"})


def describe_nrrd(start: bytes) -> Described:
    """From the first kilobytes of a file."""
    fields, _ = _fields(start)
    sizes = _sizes(fields)
    channel = _channel_axis(fields, len(sizes))
    return Described(1 if channel is None else sizes[channel], stored_dtype(_dtype(fields)))


def nrrd_data_file(start: bytes) -> str | None:
    """The file that holds the voxels; None where they are in this one."""
    name = _fields(start)[0].get("datafile")
    if name is not None and (name.startswith("LIST") or "%" in name):
        raise UnreadableError("has its voxels in several files; one is expected (data file)")
    return name


def read_nrrd(encoded: bytes, beside: Beside) -> Voxels:
    """Decode a whole file; UnreadableError says what is wrong with it."""
    fields, end = _fields(encoded)
    name = nrrd_data_file(encoded)
    sizes, dtype = _sizes(fields), _dtype(fields)
    needed = checked_shape(sizes, dtype.itemsize)
    content = memoryview(encoded)[end:].tobytes() if name is None else beside(name)
    if _encoding(fields) in COMPRESSED:
        content = bytes(inflated(content, needed))
    raw = np.frombuffer(cut(content, 0, needed), dtype).reshape(sizes[::-1])
    channel = _channel_axis(fields, len(sizes))
    image = raw[None] if channel is None else np.moveaxis(raw, len(sizes) - 1 - channel, 0)
    image = image.reshape(image.shape[0], *[1] * (4 - image.ndim), *image.shape[1:])
    return Voxels(cast(np.ascontiguousarray(image), stored_dtype(dtype)), _affine(fields, len(sizes), channel))


def _fields(start: bytes) -> tuple[dict[str, str], int]:
    """The header's fields, names in lower case without blanks, and where the voxels begin."""
    if not start.startswith(b"NRRD000"):
        raise UnreadableError("is not a NRRD file (it does not begin with NRRD000)")
    fields, place = dict[str, str](), 0
    while True:
        end = start.find(b"\n", place, LONGEST_HEADER)
        if end < 0 and not ("datafile" in fields and len(start) < LONGEST_HEADER):
            raise UnreadableError("has a damaged header: no empty line ends it")
        line = start[place : end if end >= 0 else len(start)].decode("latin-1").strip()
        if line and ":" in line and ":=" not in line and not line.startswith("#"):
            name, _, value = line.partition(":")
            fields[name.strip().lower().replace(" ", "")] = value.strip()
        if not line or end < 0:
            return fields, end + 1
        place = end + 1


def _sizes(fields: dict[str, str]) -> list[int]:
    try:
        sizes = [int(size) for size in fields["sizes"].split()]
        if len(sizes) != int(fields["dimension"]) or not 2 <= len(sizes) <= 4:
            raise ValueError
    except (KeyError, ValueError):
        raise UnreadableError(
            f"has a damaged header: sizes '{fields.get('sizes', '')}' with dimension '{fields.get('dimension', '')}'; "
            "2 to 4 whole numbers are expected"
        ) from None
    return sizes


def _dtype(fields: dict[str, str]) -> np.dtype:
    name = fields.get("type", "").lower()
    if name not in TYPES:
        raise UnreadableError(f"declares an unknown type of voxels ({name or 'none'})")
    dtype = np.dtype(TYPES[name])
    endian = fields.get("endian", "little" if dtype.itemsize == 1 else "").lower()
    if endian not in ("little", "big"):
        raise UnreadableError(f"has a damaged header: endian '{endian}', little or big is expected")
    return dtype.newbyteorder("<" if endian == "little" else ">")


def _encoding(fields: dict[str, str]) -> str:
    encoding = fields.get("encoding", "").lower()
    if encoding not in COMPRESSED | {"raw"}:
        raise UnreadableError(f"has its voxels encoded as '{encoding}'; raw or gzip is expected")
    skipped = [name for name in ("lineskip", "byteskip") if fields.get(name, "0") != "0"]
    if skipped:
        raise UnreadableError(f"skips the start of its data ({skipped[0]}), which is not read")
    return encoding


def _channel_axis(fields: dict[str, str], axes: int) -> int | None:
    """The one axis, counted from the fastest, that is none of space."""
    kinds, directions = fields.get("kinds", "").lower().split(), _directions(fields)
    if directions:
        apart = [axis for axis, vector in enumerate(directions) if vector is None]
    elif kinds:
        apart = [axis for axis, kind in enumerate(kinds) if kind not in SPATIAL]
    else:
        apart = [3] if axes == 4 else []
    if (directions and len(directions) != axes) or (not directions and kinds and len(kinds) != axes):
        raise UnreadableError("has a damaged header: space directions or kinds are not one for each axis")
    if len(apart) > 1 or axes - len(apart) not in (2, 3):
        raise UnreadableError(
            f"has {axes - len(apart)} axes of space; 2 or 3, and at most one of channels, are expected"
        )
    if apart and not 1 <= _sizes(fields)[apart[0]] <= MOST_CHANNELS:
        raise UnreadableError(f"declares {_sizes(fields)[apart[0]]} channels; 1 to {MOST_CHANNELS} are expected")
    return apart[0] if apart else None


def _directions(fields: dict[str, str]) -> list[list[float] | None]:
    """The vector of each axis; None for one that is none of space."""
    found = re.findall(r"none|\([^)]*\)", fields.get("spacedirections", ""))
    return [None if vector == "none" else _vector(vector) for vector in found]


def _vector(text: str) -> list[float]:
    try:
        return [float(number) for number in text.strip("() ").split(",")]
    except ValueError:
        raise UnreadableError(f"has a damaged header: '{text}' is no vector") from None


def _affine(fields: dict[str, str], axes: int, channel: int | None) -> np.ndarray:
    """RAS; a 2-D image lies in the plane z = 0 and is 1 mm thick."""
    affine, flips = np.eye(4), TO_RAS.get(fields.get("space", "").lower(), LPS)
    vectors = [vector for vector in _directions(fields) if vector is not None]
    origin = _vector(fields["spaceorigin"]) if "spaceorigin" in fields else []
    if not vectors:
        lengths = _spacings(fields, axes, channel)
        vectors = [
            [float(mm) if row == column else 0.0 for row in range(len(lengths))] for column, mm in enumerate(lengths)
        ]
    if any(len(vector) != len(vectors) for vector in vectors) or len(origin) not in (0, len(vectors)):
        raise UnreadableError("has a damaged header: space directions and space origin differ in their dimension")
    affine[: len(vectors), : len(vectors)] = np.array(vectors).T
    affine[: len(origin), 3] = origin
    return checked_affine(np.diag([*flips, 1.0]) @ affine)


def _spacings(fields: dict[str, str], axes: int, channel: int | None) -> list[float]:
    try:
        lengths = [float(text) for text in fields.get("spacings", " ".join(["1"] * axes)).split()]
    except ValueError:
        raise UnreadableError(f"has a damaged header: spacings '{fields['spacings']}'") from None
    lengths = [mm for axis, mm in enumerate(lengths) if axis != channel]
    if len(lengths) != axes - (channel is not None):
        raise UnreadableError(f"has a damaged header: {len(lengths)} spacings for {axes} axes")
    checked_spacing(lengths)
    return lengths
