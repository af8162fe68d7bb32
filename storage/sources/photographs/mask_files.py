"""Which mask files belong to which photograph: a naming pattern such as '{stem}_{lesion}.png', read both ways."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from storage.errors import SourceError
from storage.sources.label_table import without_suffix

STEM, LESION = "{stem}", "{lesion}"
ONLY_LESION = "lesion"  # the class where the pattern tells no classes apart


def check_pattern(pattern: str, lesions: Sequence[str] | None) -> None:
    """SourceError for a pattern that cannot tell which photograph a mask belongs to, or which lesion it shows."""
    if (
        pattern.count(STEM) != 1
        or pattern.count(LESION) > 1
        or (STEM + LESION in pattern)
        or (LESION + STEM in pattern)
    ):
        raise SourceError(f"mask pattern '{pattern}' is not clear; write one like '{{stem}}_{{lesion}}.png'")
    if LESION not in pattern and lesions is not None and len(lesions) != 1:
        raise SourceError(f"mask pattern '{pattern}' has no {{lesion}}, so it shows one class, not {len(lesions)}")


def assign_masks(
    masks: Iterable[str], photographs: Sequence[str], pattern: str, lesions: Sequence[str] | None
) -> dict[str, dict[str, str]]:
    """For each photograph its mask files by lesion class; all are paths relative to their folder.

    The stem is the photograph's path without suffix, or its bare name where no other photograph bears it. Classes are
    `lesions`, or whatever the files show.
    """
    photograph_of = _photographs_by_stem(photographs)
    found: dict[str, dict[str, str]] = {}
    for mask in sorted(masks):
        for stem, lesion in _readings(mask, pattern):
            if stem in photograph_of and (lesions is None or LESION not in pattern or lesion in lesions):
                lesion = lesions[0] if lesions and LESION not in pattern else lesion
                found.setdefault(photograph_of[stem], {})[lesion] = mask
                break
    return found


def lesion_classes(assigned: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """All classes that some photograph has a mask of, sorted."""
    return tuple(sorted({lesion for masks in assigned.values() for lesion in masks}))


def _photographs_by_stem(photographs: Sequence[str]) -> dict[str, str]:
    stems = {file: without_suffix(PurePosixPath(file)) for file in photographs}
    bearers = Counter(stem.name for stem in stems.values())
    by_name = {stem.name: file for file, stem in stems.items() if bearers[stem.name] == 1}
    return by_name | {str(stem): file for file, stem in stems.items()}


def _readings(name: str, pattern: str) -> Iterator[tuple[str, str]]:
    """Every (stem, lesion) that `name` can be read as; '{stem}_{lesion}' reads 'a_b_c' as (a_b, c) and as (a, b_c)."""
    first, second = (
        (STEM, LESION) if LESION not in pattern or pattern.index(STEM) < pattern.index(LESION) else (LESION, STEM)
    )
    head, _, rest = pattern.partition(first)
    if not name.startswith(head):
        return
    if LESION not in pattern:
        if name.endswith(rest):
            yield name[len(head) : len(name) - len(rest)], ONLY_LESION
        return
    between, _, tail = rest.partition(second)
    core = name[len(head) : len(name) - len(tail)]
    if not name.endswith(tail):
        return
    for place in range(len(core) - len(between), 0, -1):
        if core.startswith(between, place) and len(core) > place + len(between):
            left, right = core[:place], core[place + len(between) :]
            yield (left, right) if first == STEM else (right, left)
