"""A cohort copied, history and all; what is written to one of the two afterwards, the other does not know."""

import shutil
import uuid
from pathlib import Path

from storage import engine
from storage.errors import CohortError
from storage.places import is_remote


def copy_cohort(cohort: str | Path, out: str | Path) -> None:
    """Make `out` a copy of a cohort on a local disk; it appears whole, or not at all.

    Raises:
        CohortError: there is no cohort, something lies at `out`, either is in a bucket, or the disk is full.
    """
    here, there = str(cohort), Path(out)
    if is_remote(here) or is_remote(str(out)):
        raise CohortError(f"{here} cannot be copied to {out}: only cohorts in folders can")
    if not engine.exists(here):
        raise CohortError(f"there is no cohort at {here}")
    if there.exists():
        raise CohortError(f"{out} is there already")
    partial = there.with_name(f".{there.name}-{uuid.uuid4().hex[:12]}.partial")
    try:
        there.parent.mkdir(parents=True, exist_ok=True)
        with engine.exclusive(here):
            shutil.copytree(here, partial)
        partial.rename(there)
    except OSError as error:
        raise CohortError(f"{here} cannot be copied to {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
