"""Map sets of a cohort: found by name, the cases they cover, their evidence against the truth, their thresholds."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from models.metrics import best_dice_threshold
from storage.cohort import Cohort
from storage.errors import CohortError
from storage.maps import Maps
from tasks.evidence import Evidence, evidence_of
from tasks.kept import Kept
from tasks.reuse import fingerprint
from tasks.shards import Outcome, raise_error

FALLBACK_QUANTILE = 0.99
LESION_FROM = "lesion_from"  # among the attributes of a map set: the value from which on it shows a lesion by itself
SAMPLED_CASES, SAMPLED_PIXELS = 512, 4096


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


def selected_cases(cohort: Cohort, splits: Iterable[str], ids: Sequence[str] | None = None) -> list[int]:
    """Positions of the cases of the named splits (none named: all), of those only the ones of `ids` (None: all).

    Raises:
        CohortError: there is none, or an id is unknown.
    """
    wanted = list(splits)
    table = cohort.table
    chosen = table[table["split"].isin(wanted)] if wanted else table
    if ids is not None:
        if unknown := sorted(set(ids) - set(table["case_id"])):
            raise CohortError(f"{cohort.path} has no case {unknown[0]!r} ({len(unknown)} of {len(ids)} are unknown)")
        chosen = chosen[chosen["case_id"].isin(ids)]
    if chosen.empty:
        named = "no case" if ids is None else "none of these cases"
        where = f" in split {', '.join(wanted)}" if wanted else ""
        raise CohortError(f"{cohort.path} has {named}{where}; it has: {_split_counts(table)}")
    return chosen.index.tolist()


def annotated_cases(cohort: Cohort, names: list[str], split: str) -> list[int]:
    """Cases of the split (or `all`) that have truth masks and a map in every set."""
    table = cohort.table
    chosen = table[table["has_masks"] & (table["split"].eq(split) | (split == "all"))]
    having = [set(map(int, cohort.maps(name).indices)) for name in names]
    return [case for case in chosen.index if all(case in indices for indices in having)]


def gather_evidence(cohort: Cohort, names: dict[str, str], cases: list[int], lesions: list[str]) -> Evidence:
    """Each map set's evidence, case by case, against the union of `lesions` (none named: all).

    Raises:
        Exception: a case that cannot be read or measured, whatever it raises.
    """
    _, evidence, lost = evidence_of(cohort, names, cases, lesions)
    if lost:
        raise_error(lost[0])
    return evidence


def validation_evidence(
    cohort: Cohort, names: dict[str, str], lesions: Sequence[str], workers: int | None = None, keep: Kept | None = None
) -> tuple[dict[str, float], list[Outcome]]:
    """Each set's threshold, and the cases that failed: its own, or that of the best Dice on the validation cases.

    A set without its own has none where no such case has masks and maps.
    """
    own = own_thresholds(cohort, names)
    names = {short: name for short, name in names.items() if short not in own}
    cases = annotated_cases(cohort, list(names.values()), "validation") if names else []
    if not cases:
        return own, []
    known, evidence, lost = evidence_of(cohort, names, cases, lesions, workers=workers, keep=keep)
    if not known:
        raise_error(lost[0])
    return own | {short: float(best_dice_threshold(found)) for short, found in evidence.items()}, lost


def own_thresholds(cohort: Cohort, names: dict[str, str]) -> dict[str, float]:
    """The value from which on a map set shows a lesion as its system means it, of those sets whose systems say so."""
    known = {short: cohort.maps(name).attrs.get(LESION_FROM) for short, name in names.items()}
    return {short: float(value) for short, value in known.items() if value is not None}


def detection_threshold(cohort: Cohort, name: str, workers: int | None = None) -> tuple[float, str]:
    """Where a found lesion begins, and by which rule: never chosen on test cases."""
    if own := own_thresholds(cohort, {name: name}):
        return own[name], "the system's own"
    chosen, _ = validation_evidence(cohort, {name: name}, [], workers)
    if chosen:
        return chosen[name], "best Dice on the validation cases"
    sample = sampled_values(cohort.maps(name))
    return float(np.quantile(sample, FALLBACK_QUANTILE)), "99 % quantile of the maps (no validation masks)"


def sampled_values(maps: Maps) -> np.ndarray:
    """At most SAMPLED_PIXELS values, evenly spaced, of each of at most SAMPLED_CASES maps spread over the set."""
    cases = np.sort(maps.indices)
    chosen = cases[np.unique(np.linspace(0, len(cases) - 1, SAMPLED_CASES).round().astype(int))]
    values = (maps.saliency(int(case)).ravel() for case in chosen)
    # an odd step does not run down the columns of an image of even width
    return np.concatenate([of_case[:: len(of_case) // SAMPLED_PIXELS | 1] for of_case in values])


def _split_counts(table: pd.DataFrame) -> str:
    return ", ".join(f"{split} ({count})" for split, count in table["split"].value_counts().items())
