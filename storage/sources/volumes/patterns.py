"""Which volume files belong to which case: a pattern such as '{case}/PET_image.nii.gz' or '{case}_{lesion}.nrrd'."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from storage.errors import SourceError
from storage.sources.label_table import without_suffix
from storage.sources.photographs.mask_files import LESION, STEM, assign_masks

CASE = "{case}"


def checked_image_pattern(pattern: str) -> str:
    """`pattern` with {stem} written as {case}; SourceError where it cannot tell the case of a file."""
    pattern = pattern.replace(STEM, CASE)
    if CASE not in pattern or set(re.findall(r"\{.*?\}", pattern)) != {CASE} or CASE + CASE in pattern:
        raise SourceError(f"image pattern '{pattern}' is not clear; write one like '{{case}}/PET_image.nii.gz'")
    return pattern


def checked_mask_pattern(pattern: str) -> str:
    """`pattern` with {stem} written as {case}; SourceError where it cannot tell the case or the lesion of a file."""
    pattern = pattern.replace(STEM, CASE)
    known = set(re.findall(r"\{.*?\}", pattern)) <= {CASE, LESION}
    touching = any(one + other in pattern for one in (CASE, LESION) for other in (CASE, LESION))
    if CASE not in pattern or not known or touching or pattern.count(LESION) > 1:
        raise SourceError(f"mask pattern '{pattern}' is not clear; write one like '{{case}}_{{lesion}}.nii.gz'")
    return pattern


def cases_of(files: Iterable[str], pattern: str) -> dict[str, str]:
    """The file of each case that `pattern` finds; a case may lie in sub-folders, and its name holds them."""
    expression = re.compile(_expression(pattern))
    matches = ((file, expression.fullmatch(file)) for file in files)
    return {match["case"]: file for file, match in matches if match}


def cases_by_name(files: Sequence[str]) -> dict[str, str]:
    """Every file a case, by its path without suffix; with it where two files differ in nothing else."""
    bare = {file: str(without_suffix(PurePosixPath(file))) for file in files}
    bearers = Counter(bare.values())
    return {name if bearers[name] == 1 else file: file for file, name in bare.items()}


def masks_of(
    files: Sequence[str], cases: Sequence[str], pattern: str, lesions: Sequence[str] | None
) -> dict[str, dict[str, str]]:
    """For each case its mask files by lesion; without {lesion} in `pattern` one file, under a name without meaning."""
    wanted = lesions if LESION in pattern else None
    if pattern.count(CASE) == 1:
        return assign_masks(files, cases, pattern.replace(CASE, STEM), wanted)
    expression, known = re.compile(_expression(pattern)), set(cases)
    found: dict[str, dict[str, str]] = {}
    for file in files:
        match = expression.fullmatch(file)
        lesion = match.groupdict().get("lesion", "") if match else ""
        if match and match["case"] in known and (wanted is None or lesion in wanted):
            found.setdefault(match["case"], {})[lesion] = file
    return found


def channel_name(pattern: str | None) -> str:
    """What a pattern calls its image: PET for '{case}/PET_image.nii.gz', and 'image' where it says nothing."""
    if pattern is None:
        return "image"
    name = without_suffix(PurePosixPath(pattern)).name.replace(CASE, "")
    words = [word for word in re.split(r"[_\-. ]+", name) if word and word.lower() not in ("image", "img")]
    return "_".join(words) or "image"


def _expression(pattern: str) -> str:
    text = re.escape(pattern).replace(re.escape(LESION), "(?P<lesion>[^/]+)")
    return text.replace(re.escape(CASE), "(?P<case>.+)", 1).replace(re.escape(CASE), "(?P=case)")
