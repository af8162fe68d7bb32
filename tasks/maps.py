"""Map sets of a cohort: found by name, the cases they cover, their evidence against the truth, their thresholds."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from models.metrics import CaseEvidence, EvidenceConfig, best_dice_threshold, case_evidence
from storage.cohort import Cohort
from storage.errors import CohortError
from tasks.progress import progress
from tasks.reuse import fingerprint

FALLBACK_QUANTILE = 0.99
FROC_SMOOTHING = 128  # pixels of image side a pixel of sigma
Evidence = dict[str, list[CaseEvidence]]


def find_maps(cohort: Cohort, wanted: str) -> str:
    """The map set meant by its whole name or by the end of it.

    Raises:
        CohortError: none or several match.
    """
    known = cohort.map_names()
    matching = [name for name in known if name == wanted] or [name for name in known if name.endswith(f"/{wanted}")]
    if len(matching) != 1:
        found = "no maps" if not matching else f"{len(matching)} map sets"
        raise CohortError(f"{cohort.path} has {found} named {wanted!r}; it has: {', '.join(known) or 'none'}")
    return matching[0]


def short_names(names: list[str]) -> dict[str, str]:
    """`S` for `iterative-refinement/0a1b…/S`; the whole name where two ends are the same."""
    ends = [name.rsplit("/", 1)[-1] for name in names]
    return {end if ends.count(end) == 1 else name: name for end, name in zip(ends, names, strict=True)}


def maps_digest(cohort: Cohort, names: list[str]) -> str:
    """What identifies the content of map sets: how they were made and what they scored."""
    opened = [cohort.maps(name) for name in names]
    return fingerprint("maps", sets=[(maps.name, maps.attrs, maps.table.to_json()) for maps in opened])


def selected_cases(cohort: Cohort, splits: Iterable[str]) -> list[int]:
    """Positions of the cases of the named splits (none named: all)."""
    wanted = list(splits)
    table = cohort.table
    chosen = table[table["split"].isin(wanted)] if wanted else table
    if chosen.empty:
        raise CohortError(f"{cohort.path} has no case in split {', '.join(wanted)}; it has: {_split_counts(table)}")
    return chosen.index.tolist()


def annotated_cases(cohort: Cohort, names: list[str], split: str) -> list[int]:
    """Cases of the split (or `all`) that have truth masks and a map in every set."""
    table = cohort.table
    chosen = table[table["has_masks"] & (table["split"].eq(split) | (split == "all"))]
    having = [set(map(int, cohort.maps(name).indices)) for name in names]
    return [case for case in chosen.index if all(case in indices for indices in having)]


def gather_evidence(cohort: Cohort, names: dict[str, str], cases: list[int], lesions: list[str]) -> Evidence:
    """Each map set's evidence, case by case, against the union of `lesions` (none named: all).

    FROC's smoothing grows with the image, so that it removes speckle of the same relative size: 1 pixel at 128.
    """
    config = EvidenceConfig(froc_sigma=cohort.size / FROC_SMOOTHING)
    opened = {short: cohort.maps(name) for short, name in names.items()}
    evidence: Evidence = {short: [] for short in names}
    with progress("compare with truth", len(cases)) as advance:
        for case in cases:
            truth = cohort.mask(case, lesions or None)
            for short, maps in opened.items():
                evidence[short].append(case_evidence(maps.saliency(case), truth, config))
            advance(1, "")
    return evidence


def validation_thresholds(cohort: Cohort, names: dict[str, str], lesions: list[str]) -> dict[str, float]:
    """Each set's threshold of best Dice on the validation cases; nothing where no such case has masks and maps."""
    cases = annotated_cases(cohort, list(names.values()), "validation")
    if not cases:
        return {}
    evidence = gather_evidence(cohort, names, cases, lesions)
    return {short: float(best_dice_threshold(found)) for short, found in evidence.items()}


def detection_threshold(cohort: Cohort, name: str) -> tuple[float, str]:
    """Where a found lesion begins, and by which rule: never chosen on test cases."""
    chosen = validation_thresholds(cohort, {name: name}, [])
    if chosen:
        return chosen[name], "best Dice on the validation cases"
    maps = cohort.maps(name)
    sample = np.concatenate([maps.saliency(int(case)).ravel()[::7] for case in maps.indices])
    return float(np.quantile(sample, FALLBACK_QUANTILE)), "99 % quantile of the maps (no validation masks)"


def _split_counts(table: pd.DataFrame) -> str:
    return ", ".join(f"{split} ({count})" for split, count in table["split"].value_counts().items())
