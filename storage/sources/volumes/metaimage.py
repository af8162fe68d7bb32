"""MetaImage: .mha, or .mhd with its voxels in a file beside it; raw or zlib-compressed.

Read without ITK, which trusts the sizes that a damaged header declares. Places as ITK reads them: world coordinates are
(left, posterior, superior), row i of `TransformMatrix` is the direction of axis i.
"""

import numpy as np

from storage.sources.photographs.file import UnreadableError
from storage.sources.volumes.voxels import (
    LPS_TO_RAS,
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
TYPES = {
    **{"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4"},
    **{"ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"},
}


def describe_metaimage(start: bytes) -> Described:
    """From the first kilobytes of a file."""
    fields, _ = _fields(start)
    return Described(_channels(fields), stored_dtype(_dtype(fields)))


def metaimage_data_file(start: bytes) -> str | None:
    """The file that holds the voxels; None where they are in this one."""
    name = _fields(start)[0]["elementdatafile"]
    if name.upper() == "LOCAL":
        return None
    if name.upper().startswith("LIST") or "%" in name:
        raise UnreadableError("has its voxels in several files; one is expected (ElementDataFile)")
    return name


def read_metaimage(encoded: bytes, beside: Beside) -> Voxels:
    """Decode a whole file; UnreadableError says what is wrong with it."""
    fields, end = _fields(encoded)
    name = metaimage_data_file(encoded)
    sizes = _numbers(fields, "dimsize", _axes(fields), int)
    dtype, channels = _dtype(fields), _channels(fields)
    needed = checked_shape([*sizes, channels], dtype.itemsize)
    content, offset = (encoded, end) if name is None else (beside(name), _header_size(fields))
    if fields.get("compresseddata", "False").lower() == "true":
        content, offset = bytes(inflated(memoryview(content)[offset:].tobytes(), needed)), 0
    raw = np.frombuffer(cut(content, offset, needed), dtype).reshape([1] * (3 - len(sizes)) + [*sizes[::-1], channels])
    image = np.ascontiguousarray(np.moveaxis(raw, -1, 0))
    return Voxels(cast(image, stored_dtype(dtype)), _affine(fields, len(sizes)))


def _fields(start: bytes) -> tuple[dict[str, str], int]:
    """The header's fields with names in lower case, and where it ends."""
    fields, place = dict[str, str](), 0
    while "elementdatafile" not in fields:
        end = start.find(b"\n", place, LONGEST_HEADER)
        if end < 0 and "ndims" in fields and start[place : place + 15] == b"ElementDataFile":
            end = min(len(start), LONGEST_HEADER)  # the last line of a .mhd may lack its end
        if end < 0:
            raise UnreadableError("is not a MetaImage, or its header is damaged (no ElementDataFile)")
        name, _, value = start[place:end].decode("latin-1").partition("=")
        fields[name.strip().lower()] = value.strip()
        place = end + 1
    return fields, place


def _axes(fields: dict[str, str]) -> int:
    count = _numbers(fields, "ndims", 1, int)[0]
    if count not in (2, 3):
        raise UnreadableError(f"declares {count} axes; 2 or 3 are expected (NDims)")
    return int(count)


def _numbers(fields: dict[str, str], name: str, count: int, kind: type[int] | type[float]) -> list[int] | list[float]:
    try:
        values = [kind(text) for text in fields[name].split()]
    except (KeyError, ValueError):
        values = []
    if len(values) != count:
        raise UnreadableError(f"has a damaged header: {name} = '{fields.get(name, '')}', {count} numbers are expected")
    return values


def _dtype(fields: dict[str, str]) -> np.dtype:
    name = fields.get("elementtype", "").upper().removeprefix("MET_").removesuffix("_ARRAY")
    if name not in TYPES:
        raise UnreadableError(f"declares an unknown type of voxels ({fields.get('elementtype', 'none')})")
    if fields.get("binarydata", "True").lower() != "true":
        raise UnreadableError("has its voxels as text; binary ones are expected (BinaryData)")
    big = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "False")).lower() == "true"
    return np.dtype((">" if big else "<") + TYPES[name])


def _channels(fields: dict[str, str]) -> int:
    channels = int(
        _numbers(
            {"n": "1"} | fields, "elementnumberofchannels" if "elementnumberofchannels" in fields else "n", 1, int
        )[0]
    )
    if not 1 <= channels <= MOST_CHANNELS:
        raise UnreadableError(f"declares {channels} channels; 1 to {MOST_CHANNELS} are expected")
    return channels


def _header_size(fields: dict[str, str]) -> int:
    size = int(_numbers(fields, "headersize", 1, int)[0]) if "headersize" in fields else 0
    if size < 0:
        raise UnreadableError("leaves open where its voxels begin (HeaderSize = -1)")
    return size


def _affine(fields: dict[str, str], axes: int) -> np.ndarray:
    """RAS; a 2-D image lies in the plane z = 0 and is 1 mm thick."""
    affine = np.eye(4)
    spacing = next((name for name in ("elementspacing", "elementsize") if name in fields), None)
    matrix = next((name for name in ("transformmatrix", "rotation", "orientation") if name in fields), None)
    origin = next((name for name in ("offset", "position", "origin") if name in fields), None)
    if matrix:
        affine[:axes, :axes] = np.reshape(_numbers(fields, matrix, axes * axes, float), (axes, axes)).T
    if spacing:
        lengths = _numbers(fields, spacing, axes, float)
        checked_spacing(lengths)
        affine[:axes, :axes] *= lengths
    if origin:
        affine[:axes, 3] = _numbers(fields, origin, axes, float)
    return checked_affine(LPS_TO_RAS @ affine)
