"""Public data sets by name, in the layout in which they are handed out: each finds files and tables and no more.

Pixels are read by `storage.sources.photographs.folder` and `storage.sources.volumes.files`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage.sources.datasets.aptos import is_aptos, is_eyepacs, open_aptos, open_eyepacs
from storage.sources.datasets.autopet import is_autopet, open_autopet
from storage.sources.datasets.chase_db1 import is_chase_db1, open_chase_db1
from storage.sources.datasets.hecktor import is_hecktor, open_hecktor
from storage.sources.datasets.hrf import is_hrf, open_hrf
from storage.sources.datasets.idrid import is_idrid, open_idrid
from storage.sources.datasets.isic import is_isic, open_isic

__all__ = [
    "NAMED",
    "open_aptos",
    "open_autopet",
    "open_chase_db1",
    "open_eyepacs",
    "open_hecktor",
    "open_hrf",
    "open_idrid",
    "open_isic",
    "recognised",
]

NAMED: dict[str, Callable[..., Any]] = {
    "idrid": open_idrid,
    "aptos": open_aptos,
    "eyepacs": open_eyepacs,
    "isic": open_isic,
    "hecktor": open_hecktor,
    "autopet": open_autopet,
    "chase_db1": open_chase_db1,
    "hrf": open_hrf,
}

_LAYOUTS: dict[str, Callable[[Path], bool]] = {
    "idrid": is_idrid,
    "aptos": is_aptos,
    "eyepacs": is_eyepacs,
    "isic": is_isic,
    "hecktor": is_hecktor,
    "autopet": is_autopet,
    "chase_db1": is_chase_db1,
    "hrf": is_hrf,
}


def recognised(folder: Path) -> str | None:
    """The data set whose layout `folder` has, told from a few names; None where it is none of them."""
    return next((name for name, fits in _LAYOUTS.items() if fits(folder)), None)
