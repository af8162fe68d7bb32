"""Where cases come from: folders of photographs, volumes and DICOM series, published data sets, simulators.

All stand behind one protocol, `Source`. `open_source` picks the one that an address or a name means;
`storage.ingestion` reads any of them into a cohort.
"""

import inspect
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from storage.case import Case, Listed, Rejected
from storage.errors import SourceError
from storage.sources.archives import is_archive, unpacked

__all__ = ["NAMES", "Source", "open_source"]


class Source(Protocol):
    """A supply of cases. It can be pickled, and several threads may read from it at once."""

    @property
    def name(self) -> str:
        """What kind of source it is."""

    @property
    def address(self) -> str:
        """What a person would type to open it again."""

    @property
    def grid(self) -> tuple[int, ...] | None:
        """The shape (y, x) or (z, y, x) that all cases have; None where each has its own."""

    @property
    def dims(self) -> tuple[str, ...]:
        """The axes of a case: ("y", "x") or ("z", "y", "x")."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names, in the order of the image's first axis."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names."""

    @property
    def lesions(self) -> tuple[str, ...]:
        """Lesion classes that its masks tell apart; empty where it has no masks."""

    def listing(self) -> Sequence[Listed]:
        """A key for each case, without reading any; the same each time, and cheap after the first."""

    def sha256(self, key: Listed) -> str:
        """Identity of a case before it is decoded; empty where it cannot be told."""

    def read(self, key: Listed) -> Case | Rejected:
        """Decode a case; a broken one comes back as `Rejected`, never as an exception."""


_OPENERS = {
    "photographs": "photographs.open_photographs",
    "dicom": "dicom.open_dicom",
    "nifti": "volumes.open_nifti",
    "nrrd": "volumes.open_nrrd",
    "mha": "volumes.open_mha",
    "medmnist": "medmnist.open_medmnist",
    "idrid": "datasets.open_idrid",
    "aptos": "datasets.open_aptos",
    "eyepacs": "datasets.open_eyepacs",
    "isic": "datasets.open_isic",
    "hecktor": "datasets.open_hecktor",
    "autopet": "datasets.open_autopet",
    "chase_db1": "datasets.open_chase_db1",
    "hrf": "datasets.open_hrf",
}
NAMES = tuple(_OPENERS)
_SIMULATORS = {
    "sim:fundus": "simulated_fundus.SimulatedFundus",
    "sim:glaucoma": "simulated_glaucoma.SimulatedGlaucoma",
    "sim:pet": "simulated_pet.SimulatedPet",
    "sim:skin_biomarkers": "skin_biomarkers.SkinBiomarkers",
}


def open_source(
    address: str,
    source: str | None = None,
    *,
    id_key: bytes | None = None,
    unpack_into: Path | None = None,
    **options: Any,
) -> Source:
    """The source at `address`: a folder, archive or file of one of `NAMES`, or `sim:fundus?cases=200&size=128&seed=0`.

    Without a name in `source` it is told from what lies there. `options` are those of the source's own `open_…`
    function; None stands for its default. `id_key` hashes patient ids where the source does so; archives are unpacked
    into `unpack_into`, by default beside themselves. SourceError for an option that the source does not take.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if str(address).startswith("sim:"):
        return _simulated(str(address), given | ({"source": source} if source else {}))
    place = _on_disk(Path(address), unpack_into)
    name = source or _detected(place)
    if name not in _OPENERS:
        raise SourceError(f"there is no source '{name}'; there is: {', '.join(NAMES)}")
    module, _, function = _OPENERS[name].rpartition(".")
    opener = getattr(import_module(f"storage.sources.{module}"), function)
    known = inspect.signature(opener).parameters
    if unknown := sorted(set(given) - set(known)):
        raise SourceError(f"a source of {name} takes no '{unknown[0].replace('_', '-')}'; leave it out")
    secret = {"id_key": id_key} if "id_key" in known else {}
    opened: Source = opener(str(place), **given, **secret)
    return opened


def _on_disk(path: Path, unpack_into: Path | None) -> Path:
    """`path`, or the folder that it was unpacked into."""
    if not path.exists():
        raise SourceError(f"there is nothing at {path}")
    if not is_archive(path):
        return path
    return unpacked(path, unpack_into or path.with_name(f"{path.name}.unpacked"))


def _detected(place: Path) -> str:
    from storage.sources.detection import detect

    return detect(str(place))


def _simulated(address: str, given: dict[str, Any]) -> Source:
    if given:
        raise SourceError(
            f"{address} takes no {min(given)}; a simulator has its options in the address: sim:fundus?size=128"
        )
    name = address.partition("?")[0]
    if name not in _SIMULATORS:
        raise SourceError(f"{address}: no such simulator; there is: {', '.join(_SIMULATORS)}")
    module, _, kind = _SIMULATORS[name].rpartition(".")
    source: Source = getattr(import_module(f"storage.sources.{module}"), kind).from_address(address)
    return source
