"""Lesion classes in volume masks: a file a class, or one file in which each class has a number."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from storage.errors import SourceError
from storage.sources.photographs.file import UnreadableError
from storage.sources.photographs.mask_files import LESION, ONLY_LESION, lesion_classes
from storage.sources.volumes.formats import Format, contents, decoded

SAMPLE = 8  # masks that are read to learn the classes where nobody names them
MOST_CLASSES = 64


def classes(
    folder: Path | None,
    pattern: str | None,
    masks: Mapping[str, Mapping[str, str]],
    lesions: Sequence[str] | None,
    kind: Format,
) -> tuple[str, ...]:
    """Those given, those that the file names tell, or those that a sample of numbered masks shows."""
    if folder is None or pattern is None:
        return ()
    if lesions:
        return tuple(lesions)
    if LESION in pattern:
        return lesion_classes(masks)
    files = sorted(file for of_case in masks.values() for file in of_case.values())
    numbers = _numbers_of(folder, files[:: max(1, len(files) // SAMPLE)], kind)
    if len(numbers) < 2:
        return (ONLY_LESION,)
    if max(numbers) > MOST_CLASSES:
        raise SourceError(f"masks in {folder} hold numbers up to {max(numbers)}; name the class of each with --lesions")
    return tuple(f"label_{number}" for number in range(1, max(numbers) + 1))


def _numbers_of(folder: Path, files: Sequence[str], kind: Format) -> set[int]:
    """All numbers but 0 in the masks of `files` that can be read."""
    found = set[int]()
    for file in files:
        try:
            image = decoded(contents(folder, file, kind), kind).image
            found |= {int(number) for number in np.unique(whole_numbers(image)) if number}
        except UnreadableError:
            continue
    return found


def whole_numbers(mask: np.ndarray) -> np.ndarray:
    """`mask` unchanged; UnreadableError unless it holds whole numbers from 0 on."""
    if mask.size and mask.min() < 0:
        raise UnreadableError(f"holds negative numbers ({mask.min():g}); 0 and the numbers of classes are expected")
    if mask.dtype.kind == "f" and np.any(fractions := mask != np.rint(mask)):
        raise UnreadableError(f"holds fractions ({mask[fractions][0]:g}); 0 and the numbers of classes are expected")
    return mask


def by_class(numbers: np.ndarray, lesions: Sequence[str]) -> dict[str, np.ndarray]:
    """The classes of one numbered mask: number 1 is the first of `lesions`; of a single class, whatever is not 0."""
    present = [int(number) for number in np.unique(numbers) if number]
    if len(lesions) == 1 and len(present) < 2:
        return {lesions[0]: numbers != 0}
    if present and present[-1] > len(lesions):
        said, named = ", ".join(map(str, present[:9])), ", ".join(lesions)
        raise UnreadableError(f"holds the numbers {said}, the classes are {named}; name one for each with --lesions")
    return {lesions[number - 1]: numbers == number for number in present}
