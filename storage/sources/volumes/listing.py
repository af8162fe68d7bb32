"""Which cases a folder of volume files holds, with the files of each, before any voxel is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.case import Listed
from storage.errors import SourceError
from storage.sources.listing import files_below, is_inside
from storage.sources.photographs.mask_files import LESION
from storage.sources.stamp import stamp_of
from storage.sources.volumes.formats import Format, paths_of
from storage.sources.volumes.patterns import (
    CASE,
    cases_by_name,
    cases_of,
    checked_image_pattern,
    checked_mask_pattern,
    masks_of,
)

ONLY = "image"  # the channel where no pattern names any


@dataclass(frozen=True)
class VolumeKey(Listed):
    """A case with its files: `images` one a channel, `masks` by lesion class; None: nobody annotated it."""

    images: tuple[str, ...] = ()
    masks: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Found:
    """The cases of a folder; `mask_pattern` is None where there are no masks."""

    folder: Path
    keys: tuple[VolumeKey, ...]
    masks_folder: Path | None
    mask_pattern: str | None
    masks: Mapping[str, Mapping[str, str]]


def find_volumes(
    address: Path,
    kind: Format,
    patterns: Mapping[str, str] | None,
    masks: Path | None,
    mask_pattern: str | None,
    lesions: Sequence[str] | None,
) -> Found:
    """The cases at `address`, a folder or one file; SourceError where there are none, or no mask fits any of them."""
    folder, files = _files(address, kind)
    masks = masks if masks is not None else folder if mask_pattern is not None else None
    if masks is None:
        return Found(folder, _keys(folder, kind, _cases(folder, files, kind, patterns), patterns), None, None, {})
    if not masks.is_dir():
        raise SourceError(f"there is no folder of masks {masks}")
    together = masks.resolve() == folder.resolve()
    if not together and patterns is None:
        files = [file for file in files if not is_inside(folder / file, masks)]
    cases = _cases(folder, files, kind, patterns)
    pattern, assigned = _assigned(masks, cases, kind, mask_pattern, lesions, together)
    if together and patterns is None:
        taken = {file for of_case in assigned.values() for file in of_case.values()}
        cases = {case: images for case, images in cases.items() if images[ONLY] not in taken}
    keys = _keys(folder, kind, cases, patterns, masks, assigned, missing_is_none=LESION in pattern)
    return Found(folder, keys, masks, pattern, assigned)


def checked_patterns(image_pattern: str | None, channels: Mapping[str, str] | None) -> dict[str, str] | None:
    """The pattern of each channel; None where every file is a case."""
    if channels and image_pattern:
        raise SourceError(
            "an image pattern and channels are both given; channels have a pattern each: --channel CT=PATTERN"
        )
    if channels is not None and not channels:
        raise SourceError("no channel is named; write --channel CT='{case}/CT_image.nii.gz'")
    given = channels or ({ONLY: image_pattern} if image_pattern else None)
    return None if given is None else {name: checked_image_pattern(pattern) for name, pattern in given.items()}


def _files(address: Path, kind: Format) -> tuple[Path, list[str]]:
    if address.is_dir():
        return address, list(files_below(address, kind.suffixes))
    if not address.is_file():
        raise SourceError(f"there is no folder {address}")
    if not address.name.lower().endswith(kind.suffixes):
        raise SourceError(f"{address} is no volume file ({', '.join(kind.suffixes)})")
    return address.parent, [address.name]


def _cases(
    folder: Path, files: Sequence[str], kind: Format, patterns: Mapping[str, str] | None
) -> dict[str, dict[str, str]]:
    """The files of each case by channel, cases in the order of their names; a case may lack a channel."""
    if patterns is None:
        cases = {case: {ONLY: file} for case, file in cases_by_name(files).items()}
    else:
        cases = {}
        for channel, pattern in patterns.items():
            for case, file in cases_of(files, pattern).items():
                cases.setdefault(case, {})[channel] = file
    if not cases:
        fitting = f" that fit '{next(iter(patterns.values()))}'" if patterns else ""
        raise SourceError(f"{folder} has no volumes ({', '.join(kind.suffixes)}){fitting} in it or below")
    return dict(sorted(cases.items()))


def _assigned(
    masks: Path,
    cases: Mapping[str, object],
    kind: Format,
    given: str | None,
    lesions: Sequence[str] | None,
    together: bool,
) -> tuple[str, dict[str, dict[str, str]]]:
    """The pattern of the masks and what it finds: the one given, else the usual one that finds any."""
    files = list(files_below(masks, kind.suffixes))
    usual = [f"{CASE}_{LESION}{suffix}" for suffix in kind.suffixes]
    if not together:
        usual = [f"{CASE}{suffix}" for suffix in kind.suffixes] + usual
    candidates = [checked_mask_pattern(given)] if given else usual
    for pattern in candidates:
        assigned = masks_of(files, list(cases), pattern, lesions)
        if assigned:
            return pattern, assigned
    if not lesions:
        tried = "' or '".join(candidates)
        raise SourceError(f"no file in {masks} fits '{tried}' for any case. Name the pattern with --mask-pattern")
    return candidates[-1], {}


def _keys(
    folder: Path,
    kind: Format,
    cases: Mapping[str, Mapping[str, str]],
    patterns: Mapping[str, str] | None,
    masks_folder: Path | None = None,
    masks: Mapping[str, Mapping[str, str]] | None = None,
    missing_is_none: bool = False,
) -> tuple[VolumeKey, ...]:
    """A key for each case; with `missing_is_none` one without a mask file has no lesions, else nobody annotated it."""
    keys = []
    for case, images in cases.items():
        lacking = [name for name in patterns or {} if name not in images]
        of_case = (masks or {}).get(case, {} if missing_is_none and masks_folder else None)
        files = [path for file in images.values() for path in paths_of(folder, file, kind)]
        if masks_folder and of_case:
            files += [path for _, file in sorted(of_case.items()) for path in paths_of(masks_folder, file, kind)]
        keys.append(
            VolumeKey(
                file=next(iter(images.values())),
                case_id=case,
                patient_id=case,
                problem=_lacking(case, lacking, patterns),
                stamp=stamp_of(files),
                images=tuple(images[name] for name in patterns or [ONLY] if name in images),
                masks=of_case,
            )
        )
    return tuple(keys)


def _lacking(case: str, lacking: Sequence[str], patterns: Mapping[str, str] | None) -> str:
    if not lacking or patterns is None:
        return ""
    return f"has no channel {lacking[0]}: there is no file {patterns[lacking[0]].replace(CASE, case)}"
