"""What changed in a cohort from one snapshot to another."""

from typing import Any

import pandas as pd

from storage.cohort import Cohort


def differences(path: str, before: str, after: str) -> dict[str, Any]:
    """Cases (by id) added, gone, with other pixels, masks, labels or split; files set aside and freed; maps by set.

    Lists are empty where nothing changed. CohortError for an unknown snapshot.
    """
    old, new = Cohort.open(path, before), Cohort.open(path, after)
    was, now = old.table.set_index("case_id"), new.table.set_index("case_id")
    both = was.index.intersection(now.index)
    was_aside, now_aside = set(old.quarantine["file"]), set(new.quarantine["file"])
    return {
        "added": now.index.difference(was.index).tolist(),
        "gone": was.index.difference(now.index).tolist(),
        "pixels": _changed(was, now, both, ["image_digest"]),
        "masks": _changed(was, now, both, ["mask_digest"]),
        "labels": _changed(was, now, both, [label for label in new.labels if label in old.labels]),
        "split": _changed(was, now, both, ["split"]),
        "set aside": sorted(now_aside - was_aside),
        "freed": sorted(was_aside - now_aside),
        "maps": _changed_maps(old, new),
    }


def _changed(was: pd.DataFrame, now: pd.DataFrame, cases: pd.Index, columns: list[str]) -> list[str]:
    """The cases in which one of the columns differs; two missing labels are the same."""
    old, new = was.loc[cases, columns], now.loc[cases, columns]
    differs = ((old != new) & ~(old.isna() & new.isna())).any(axis=1)
    return list(cases[differs.to_numpy(bool)])


def _changed_maps(old: Cohort, new: Cohort) -> dict[str, str]:
    """How many maps each set had and has, where that differs."""
    counts = {
        name: [len(cohort.maps(name)) if name in cohort.map_names() else 0 for cohort in (old, new)]
        for name in sorted({*old.map_names(), *new.map_names()})
    }
    return {name: f"{was} → {now}" for name, (was, now) in counts.items() if was != now}
