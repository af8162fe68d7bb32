"""What the data sets of photographs share: put together from several folders and tables, annotated in part."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path

from storage.case import Case, Listed, Rejected
from storage.errors import SourceError
from storage.sources.label_table import Row
from storage.sources.listing import with_rows
from storage.sources.photographs.folder import Photographs
from storage.sources.stamp import stamp_of


@dataclass(frozen=True)
class PartlyAnnotated(Photographs):
    """Photographs of which those without any mask were not annotated, rather than found healthy."""

    def read(self, key: Listed) -> Case | Rejected:
        """As `Photographs` do, with no masks where nobody drew any."""
        read = super().read(key)
        return replace(read, masks=None) if isinstance(read, Case) and key.file not in self.masks else read


def partly_annotated(photographs: Photographs) -> PartlyAnnotated:
    """The same photographs, of which only those with a mask were annotated."""
    return PartlyAnnotated(**{field.name: getattr(photographs, field.name) for field in fields(photographs)})


@dataclass(frozen=True)
class Photograph:
    """A file of a data set with what its folder says of it; `masks` by class, all paths relative to one folder."""

    file: str
    case_id: str
    split: str | None
    masks: Mapping[str, str]


def photographs(
    name: str,
    folder: Path,
    found: Sequence[Photograph],
    rows: Mapping[str, Row],
    *,
    labels: Sequence[str],
    lesions: Sequence[str],
    size: int,
    crop: bool,
) -> Photographs:
    """RGB photographs from several folders below `folder`; `rows` are by file, masks are kept of `lesions` only."""
    if size < 1:
        raise SourceError(f"a grid of {size} pixels cannot hold an image; --size 512 is usual")
    masks = {one.file: {lesion: one.masks[lesion] for lesion in lesions if lesion in one.masks} for one in found}
    keys = [
        Listed(
            one.file,
            one.case_id,
            one.case_id,
            split=one.split,
            stamp=stamp_of([folder / one.file, *(folder / masks[one.file][lesion] for lesion in masks[one.file])]),
        )
        for one in found
    ]
    by_case = {one.case_id: rows[one.file] for one in found if one.file in rows}
    return Photographs(
        address=str(folder),
        size=size,
        crop=crop,
        kind="rgb",
        labels=tuple(labels),
        lesions=tuple(lesions),
        listed=with_rows(keys, by_case, labels),
        masks_folder=folder if lesions else None,
        masks={file: of_file for file, of_file in masks.items() if of_file},
        name=name,
    )


def holds(folder: Path, pattern: str) -> bool:
    """Whether any path below `folder` fits the glob `pattern`."""
    return next(folder.glob(pattern), None) is not None


def first(folder: Path, pattern: str, count: int) -> Iterator[Path]:
    """Up to `count` paths that fit the glob `pattern`."""
    return islice(folder.glob(pattern), count)


def columns_of(table: Path) -> list[str]:
    """The header of a CSV; none where there is no such file, or it is no text."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            return [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def unlike(folder: Path, name: str, layout: str) -> SourceError:
    """The error for a folder that is not laid out as the data set is."""
    if not folder.is_dir():
        return SourceError(f"there is no folder {folder}")
    return SourceError(f"{folder} is not laid out as {name} is: expected {layout}")
