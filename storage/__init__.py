"""Cohorts of images: sources are ingested into a transactional Zarr store, which hands out images, masks and maps.

Tensors come from `storage.loading`, which alone imports torch.
"""

from storage.case import Case, Listed, Rejected
from storage.cohort import Cohort
from storage.engine import Snapshot
from storage.errors import CohortError, SourceError
from storage.ingestion import IngestReport, ingest
from storage.maps import Maps
from storage.sources import Source, open_source
from storage.splits import split_of

__all__ = [
    "Case",
    "Cohort",
    "CohortError",
    "IngestReport",
    "Listed",
    "Maps",
    "Rejected",
    "Snapshot",
    "Source",
    "SourceError",
    "ingest",
    "open_source",
    "split_of",
]
