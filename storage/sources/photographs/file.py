"""One image file to pixels: the only place that knows Pillow, and what may be wrong with a file."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

KINDS = {"1": "grey", "L": "grey", "LA": "grey", **dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), "grey16")}
DEEP = ("I", "F")  # 32-bit pixels: their range is unknown, so that any display of them would be a guess
REDUCTIONS = (8, 4, 2)  # what a JPEG decoder can leave out while it decodes
LARGEST = 16384  # pixels a side: padded to a square they are 0.8 GB
JPEG_PIXELS = 256  # that a byte of a JPEG may stand for; of a blank one it is 170
GREY16_STEP = 257  # 16-bit values to one 8-bit value: 65535 / 255


class UnreadableError(Exception):
    """A file cannot become a case; the message is the reason for the quarantine."""


def pixel_kind(path: Path) -> str | None:
    """'rgb', 'grey' or 'grey16' from the header; None where there is no readable one."""
    try:
        with Image.open(path) as image:
            return KINDS.get(image.mode, "rgb")
    except Exception:  # as below; a damaged size may also look like a decompression bomb
        return None


def decode_photograph(encoded: bytes, enough: int) -> tuple[np.ndarray, int, tuple[int, int]]:
    """Upright pixels (H, W) or (H, W, 3), how many source pixels each stands for along a side, and the source's (H, W).

    A JPEG whose sides stay at least `enough` pixels is decoded at a half, a quarter or an eighth: 4288 × 2848 pixels in
    34 ms or 10 ms instead of 107. Pixel i then covers source pixels i·k to (i + 1)·k, so that masks stay aligned.
    """
    with _image_errors(), _checked(encoded) as image:
        pages = getattr(image, "n_frames", 1)
        if pages > 1 and image.format != "MPO":  # MPO: a JPEG with a preview behind it
            raise UnreadableError(f"holds {pages} pages, one photograph is expected")
        if image.mode in DEEP:
            raise UnreadableError("has 32-bit pixels; 8-bit, or 16-bit grey, is expected")
        width, height = image.size
        _check_size(image, len(encoded))
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation == 1:  # turned, a last column that stands for less than k would come first and shift the rest
            reduction = next((k for k in REDUCTIONS if min(width, height) >= k * enough), 1)
            image.draft(None, (width // reduction, height // reduction))
        reduction = round(width / image.size[0])
        pixels = _pixels(ImageOps.exif_transpose(image))
    return pixels, reduction, (width, height) if orientation >= 5 else (height, width)


def in_channels(pixels: np.ndarray, kind: str) -> np.ndarray:
    """`pixels` as 'rgb' (H, W, 3) uint8, 'grey' (H, W) uint8 or 'grey16' (H, W) uint16."""
    if kind == "grey16" and pixels.dtype == np.uint8:
        return _grey(pixels).astype(np.uint16) * np.uint16(GREY16_STEP)
    if kind != "grey16" and pixels.dtype == np.uint16:
        pixels = (pixels // GREY16_STEP).astype(np.uint8)
    if kind != "rgb":
        return _grey(pixels)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def decode_mask(path: Path) -> np.ndarray:
    """A mask (H, W) bool, upright: lesion wherever the file is not black."""
    with _image_errors(f"mask {path.name} "), _checked(path.read_bytes()) as image:
        if image.mode == "1":
            bits = np.asarray(ImageOps.exif_transpose(image))
            return np.asarray(bits.view(np.uint8) > 0)  # Pillow's True is the byte 255
        lossy = image.format in ("JPEG", "MPO")
        pixels = _pixels(ImageOps.exif_transpose(image))
    lit = pixels if pixels.ndim == 2 else pixels.max(axis=2)
    return np.asarray(lit > (127 if lossy else 0))  # a JPEG has specks around every edge


def _checked(encoded: bytes) -> Image.Image:
    """The image, once the checksums of its format agree: Pillow decodes a PNG with a flipped bit to other pixels.

    10 ms of the 420 that a PNG of 4288 × 2848 pixels takes; other formats have none.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        image.verify()
    return Image.open(io.BytesIO(encoded))


def _check_size(image: Image.Image, length: int) -> None:
    """UnreadableError for a size that a photograph does not have, or that `length` bytes of JPEG cannot fill."""
    width, height = image.size
    if max(width, height) > LARGEST:
        raise UnreadableError(f"is {width}×{height} pixels; at most {LARGEST} a side are expected")
    if image.format in ("JPEG", "MPO") and width * height > JPEG_PIXELS * length:
        raise UnreadableError(
            f"is cut off or damaged: {length} bytes do not hold the {width}×{height} pixels it declares"
        )


def _pixels(image: Image.Image) -> np.ndarray:
    """(H, W) uint8 or uint16 of a grey image, (H, W, 3) uint8 of any other; transparency is dropped."""
    kind = KINDS.get(image.mode, "rgb")
    if kind == "grey16":
        return np.asarray(image).astype(np.uint16)
    return np.asarray(image.convert("L" if kind == "grey" else "RGB"))


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Luma (ITU-R 601) of (H, W, 3) uint8; grey stays as it is."""
    return pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))


@contextmanager
def _image_errors(what: str = "") -> Iterator[None]:
    """Every way in which a decoder fails becomes an UnreadableError."""
    try:
        yield
    except UnreadableError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableError(f"{what}is not an image that can be read (PNG, JPEG, TIFF or BMP)".strip()) from error
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, struct.error, EOFError, zlib.error …
        raise UnreadableError(f"{what}cannot be decoded: {str(error) or type(error).__name__}".strip()) from error
