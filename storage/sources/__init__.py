"""Where cases come from: folders of photographs and simulators, behind one protocol.

`open_source` picks the source that an address names; `storage.ingestion` reads any of them into a cohort.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from storage.case import Case, Rejected
from storage.errors import SourceError

__all__ = ["Source", "open_source"]


class Source(Protocol):
    """A supply of cases of one size.

    A key that is a `storage.case.Listed` lets the ingestion notice files that are duplicates, got other labels, or need
    no reading; any other key is the source's own affair.
    """

    @property
    def name(self) -> str:
        """What kind of source it is."""

    @property
    def address(self) -> str:
        """What a person would type to open it again."""

    @property
    def size(self) -> int:
        """Side of the square grid in pixels."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names, in the order of the image's first axis."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names."""

    @property
    def lesions(self) -> tuple[str, ...]:
        """Lesion classes that its masks tell apart; empty where it has no masks."""

    def listing(self) -> Sequence[Any]:
        """A key for each case, without reading any."""

    def sha256(self, key: Any) -> str:
        """Identity of a case before it is decoded; empty where it cannot be told."""

    def read(self, key: Any) -> Case | Rejected:
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
