"""Photographs of a folder, decoded once a process as far as memory allows."""

import threading
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np

from storage.errors import SourceError
from storage.sources.label_table import SUFFIXES
from storage.sources.listing import files_below
from storage.sources.photographs.file import UnreadableError, decode_photograph, in_channels

CACHED_BYTES = 256 * 2**20
_cached: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
_lock = threading.Lock()


def photograph_files(folder: Path) -> tuple[str, ...]:
    """The photographs in and below `folder`, relative to it; SourceError where there is none."""
    files = tuple(files_below(folder, tuple(sorted(SUFFIXES))))
    if not files:
        raise SourceError(f"{folder} holds no photograph ({', '.join(sorted(SUFFIXES))})")
    return files


def colour_photograph(path: Path, shorter: int) -> np.ndarray:
    """(H, W, 3) uint8, its shorter side `shorter` pixels where the file has more; SourceError if it cannot be read."""
    key = (str(path), shorter)
    with _lock:
        if key in _cached:
            _cached.move_to_end(key)
            return _cached[key]
    pixels = decoded(path.read_bytes(), shorter, path)
    with _lock:
        _cached[key] = pixels
        while sum(kept.nbytes for kept in _cached.values()) > CACHED_BYTES and len(_cached) > 1:
            _cached.popitem(last=False)
    return pixels


def decoded(encoded: bytes, shorter: int, path: Path) -> np.ndarray:
    """As `colour_photograph`, of the bytes of the file at `path`."""
    try:
        pixels = in_channels(decode_photograph(encoded, shorter)[0], "rgb")
    except UnreadableError as error:
        raise SourceError(f"{path} {error}") from error
    height, width = pixels.shape[:2]
    scale = shorter / min(height, width)
    if scale >= 1:
        return pixels
    size = max(shorter, round(width * scale)), max(shorter, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
