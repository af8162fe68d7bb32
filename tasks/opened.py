"""Cohorts and map sets as they are read by shards: opened once a process and not once a shard."""

from functools import lru_cache

from storage.cohort import Cohort
from storage.maps import Maps


@lru_cache(maxsize=1)
def opened_once(path: str, snapshot: str) -> Cohort:
    """The cohort as it was at `snapshot`."""
    return Cohort.open(path, snapshot)


@lru_cache(maxsize=8)
def maps_once(path: str, snapshot: str, name: str) -> Maps:
    """A map set of the cohort as it was at `snapshot`."""
    return opened_once(path, snapshot).maps(name)
