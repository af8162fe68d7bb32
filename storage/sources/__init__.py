"""Where cases come from: folders of photographs and simulators, behind one protocol.

`open_source` picks the source that an address names; `storage.ingestion` reads any of them into a cohort.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from storage.case import Case, Listed, Rejected
from storage.errors import SourceError

__all__ = ["Source", "open_source"]


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


def open_source(address: str, **options: Any) -> Source:
    """The source at `address`: `sim:fundus?cases=200&size=128&seed=0`, or a folder of photographs.

    `options` are those of `storage.sources.photographs.open_photographs`; None stands for its default.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not str(address).startswith("sim:"):
        from storage.sources.photographs import open_photographs

        return open_photographs(address, **given)
    if given:
        raise SourceError(
            f"{address} takes no {min(given)}; a simulator has its options in the address: sim:fundus?size=128"
        )
    from storage.sources.simulated_fundus import SimulatedFundus

    source: Source = SimulatedFundus.from_address(str(address))
    return source
