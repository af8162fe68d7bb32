"""A quick sign that files changed, without reading them."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def stamp_of(paths: Iterable[Path]) -> str:
    """Changes whenever one of the files does: over sizes and times of modification, as make and rsync go by.

    '' where one cannot be looked at.
    """
    signs = []
    for path in paths:
        try:
            found = os.stat(path)
        except OSError:
            return ""
        signs.append(f"{found.st_size}:{found.st_mtime_ns}")
    return signs[0] if len(signs) == 1 else hashlib.sha256(" ".join(signs).encode()).hexdigest()[:32]
