"""Mending the store itself: its small files from their copies, and where its tip is."""

from pathlib import Path

from storage import engine, safekeeping
from storage.engine import Snapshot
from storage.errors import CohortError, DamagedError
from storage.places import is_remote

TIP = "ref.json"


def restore_files(path: str) -> list[str]:
    """Bring back the files of the store that are not as they were written; which. Chunks have no copy.

    CohortError where not one state is left.
    """
    if is_remote(path):
        return []
    with engine.exclusive(path):
        restored, _ = safekeeping.restore(path)
        if not _opens(path):
            restored += _mend_entrance(path)
        if not _is_whole(path, engine.tip(engine.open_repository(path), path)):
            engine.write_tip(path, _newest(path))
            restored.append(TIP)
    return restored


def states(path: str) -> list[Snapshot]:
    """All snapshots that can be told of, newest first, whether or not they led to the tip."""
    repository = engine.open_repository(path)
    if is_remote(path):
        return engine.history(repository, path, engine.tip(repository, path))
    found = [engine.describe(repository, name) for name in safekeeping.snapshots(path)]
    return sorted((one for one in found if one is not None), key=lambda state: state.time, reverse=True)


def _opens(path: str) -> bool:
    try:
        engine.open_repository(path)
    except DamagedError:
        return False
    return True


def _mend_entrance(path: str) -> list[str]:
    """Write anew the files without which nothing opens: the settings, and what the tip is."""
    Path(path, "config.yaml").unlink(missing_ok=True)
    mended = ["config.yaml"]
    if not _opens(path):
        mended.append(TIP)
        for known in safekeeping.snapshots(path)[:1]:
            engine.write_tip(path, known)  # any: to find the newest, the repository has to open
        engine.write_tip(path, _newest(path))
    engine.write_settings(path)
    return mended


def _newest(path: str) -> str:
    """The newest state of which no file is damaged beyond repair."""
    for state in states(path) if _opens(path) else []:
        if _is_whole(path, state.id):
            return state.id
    raise CohortError(f"{path} has no state that can be read; ingest its sources into a new cohort")


def _is_whole(path: str, snapshot: str) -> bool:
    known = snapshot in safekeeping.snapshots(path)
    return known and not engine.damaged_files(engine.open_repository(path), path, snapshot, again=True)
