"""A folder of photographs: PNG, JPEG, TIFF or BMP, with a labels CSV and a folder of lesion masks where there are any.

in   files of any size, RGB or grey, 8 or 16 bit
out  cases of one grid: (C, size, size), uint8, or uint16 where the folder is mostly 16-bit grey; the circular field of
     view, cut out and padded to a square so that the aspect ratio is kept
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from storage.case import Case, Listed, Rejected
from storage.errors import SourceError
from storage.geometry import Crop, Geometry, Grid, Resample
from storage.sources.label_table import SUFFIXES, LabelColumns, Row, without_suffix
from storage.sources.listing import files_below, is_inside, is_own_file, label_rows, with_rows
from storage.sources.photographs.field_of_view import Box, field_of_view
from storage.sources.photographs.file import (
    UnreadableError,
    decode_mask,
    decode_photograph,
    in_channels,
    pixel_kind,
)
from storage.sources.photographs.mask_files import assign_masks, check_pattern, lesion_classes
from storage.sources.photographs.regridding import regrid_image, regrid_mask, square_around
from storage.sources.stamp import stamp_of

CHANNELS = {"rgb": ("red", "green", "blue"), "grey": ("grey",), "grey16": ("grey",)}
FILES = tuple(sorted(SUFFIXES))
SAMPLE = 32  # photographs whose headers decide whether a folder is colour or grey


@dataclass(frozen=True)
class Photographs:
    """A folder of photographs as `open_photographs` found it; its keys are `Listed`."""

    address: str
    size: int
    crop: bool
    kind: str
    labels: tuple[str, ...]
    lesions: tuple[str, ...]
    listed: tuple[Listed, ...]
    masks_folder: Path | None
    masks: Mapping[str, Mapping[str, str]]
    name: str = "photographs"

    @property
    def grid(self) -> tuple[int, int]:
        """A square."""
        return self.size, self.size

    @property
    def dims(self) -> tuple[str, str]:
        """Rows and columns."""
        return "y", "x"

    @property
    def channels(self) -> tuple[str, ...]:
        """Red, green, blue; or grey."""
        return CHANNELS[self.kind]

    def listing(self) -> Sequence[Listed]:
        """The photographs in the order of their names."""
        return self.listed

    def sha256(self, key: Listed) -> str:
        """Of the file's bytes; empty where they are not to be read."""
        path = Path(self.address, key.file)
        if not is_own_file(path, Path(self.address)):
            return ""
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return ""

    def read(self, key: Listed) -> Case | Rejected:
        """Decode, cut and regrid a photograph and its masks."""
        digest = ""
        try:
            encoded = self._bytes(key)
            digest = hashlib.sha256(encoded).hexdigest()
            if key.problem:
                raise UnreadableError(key.problem)
            return self._case(key, digest, encoded)
        except UnreadableError as error:
            return Rejected(key.file, str(error), digest)

    def _bytes(self, key: Listed) -> bytes:
        path = Path(self.address, key.file)
        if not is_own_file(path, Path(self.address)):
            raise UnreadableError("not a file of this folder: a link that leads outside of it is not followed")
        try:
            return path.read_bytes()
        except OSError as error:
            raise UnreadableError(f"cannot be read: {error.strerror}") from error

    def _case(self, key: Listed, digest: str, encoded: bytes) -> Case:
        pixels, reduction, shape = decode_photograph(encoded, 2 * self.size)
        box = field_of_view(pixels) if self.crop else Box(0, 0, *pixels.shape[:2])
        square = square_around(box)
        grid = regrid_image(in_channels(pixels, self.kind), square, self.size)
        shown = Box(*(reduction * value for value in square))
        return Case(
            case_id=key.case_id,
            patient_id=key.patient_id,
            file=key.file,
            sha256=digest,
            image=np.ascontiguousarray(grid.reshape(self.size, self.size, -1).transpose(2, 0, 1)),
            labels=dict(key.labels),
            masks=None if self.masks_folder is None else self._case_masks(key.file, shape, shown),
            geometry=_geometry(shape, shown, self.size),
            split=key.split,
            stamp=key.stamp,
        )

    def _case_masks(self, file: str, shape: tuple[int, int], shown: Box) -> dict[str, np.ndarray]:
        """The masks of a photograph of `shape` on the grid; a class without a file is absent."""
        assert self.masks_folder is not None
        masks = {}
        for lesion, name in self.masks.get(file, {}).items():
            mask = decode_mask(self.masks_folder / name)
            if mask.shape != shape:
                raise UnreadableError(
                    f"mask {name} is {mask.shape[1]}×{mask.shape[0]} pixels, the photograph {shape[1]}×{shape[0]}"
                )
            masks[lesion] = regrid_mask(mask, shown, self.size)
        return masks


def open_photographs(
    address: str,
    *,
    size: int = 512,
    crop: bool = True,
    labels: str | Path | None = None,
    file_column: str = "file",
    label: Mapping[str, str] | None = None,
    patient_column: str | None = None,
    split_column: str | None = None,
    masks: str | Path | None = None,
    mask_pattern: str = "{stem}_{lesion}.png",
    lesions: Sequence[str] | None = None,
) -> Photographs:
    """The photographs in and below the folder `address`, on a grid of `size` × `size` pixels.

    `crop` cuts out the field of view. `labels` is a CSV, `label` maps label names to its columns; one without a
    row keeps NaN. Without `patient_column` each photograph is a patient. With a `masks` folder every photograph counts
    as annotated: a missing file means none of that class; `lesions` are the classes, by default those that the files
    show. SourceError where folder, file or column is missing, or a patient is in two splits.
    """
    folder = Path(address)
    masks_folder = Path(masks) if masks is not None else None
    files, assigned = _files_and_masks(folder, masks_folder, mask_pattern, lesions)
    label = dict(label or {})
    rows = label_rows(labels, LabelColumns(file_column, label, patient_column, split_column), files)
    return Photographs(
        address=str(folder),
        size=_checked_size(size),
        crop=crop,
        kind=_kind(folder, files),
        labels=tuple(label),
        lesions=tuple(lesions) if lesions and masks_folder else lesion_classes(assigned),
        listed=_listed(files, rows, tuple(label), _stamps(folder, files, masks_folder, assigned)),
        masks_folder=masks_folder,
        masks=assigned,
    )


def _geometry(shape: tuple[int, int], shown: Box, size: int) -> Geometry:
    """The square `shown` of a photograph of `shape`, averaged onto a grid of `size` pixels; nobody knows its mm."""
    scale = (shown.height / size, shown.width / size)
    crop = Crop((shown.top, shown.left), (shown.height, shown.width))
    return Geometry(Grid(shape, (np.nan, np.nan)), (crop, Resample((size, size), scale, "area")))


def _checked_size(size: int) -> int:
    if size < 1:
        raise SourceError(f"a grid of {size} pixels cannot hold an image; --size 512 is usual")
    return size


def _files_and_masks(
    folder: Path, masks: Path | None, pattern: str, lesions: Sequence[str] | None
) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The photographs, and for each its masks; masks that lie among the photographs are none."""
    if not folder.is_dir():
        raise SourceError(f"there is no folder {folder}")
    if masks is not None and not masks.is_dir():
        raise SourceError(f"there is no folder of masks {masks}")
    files = sorted(files_below(folder, FILES))
    assigned: dict[str, dict[str, str]] = {}
    if masks is not None:
        check_pattern(pattern, lesions)
        nested = masks.resolve() != folder.resolve() and is_inside(masks, folder)
        files = [file for file in files if not (nested and is_inside(folder / file, masks))]
        mask_files = list(files_below(masks, FILES))
        assigned = assign_masks(mask_files, files, pattern, lesions)
        if not assigned:
            _check_masks_fit(masks, mask_files, files, pattern, lesions)
    if masks is not None and masks.resolve() == folder.resolve():
        mask_names = {name for of_file in assigned.values() for name in of_file.values()}
        files = [file for file in files if file not in mask_names]
    if not files:
        raise SourceError(f"{folder} has no photographs (PNG, JPEG, TIFF or BMP) in it or below")
    return files, assigned


def _check_masks_fit(
    masks: Path, mask_files: Sequence[str], files: Sequence[str], pattern: str, lesions: Sequence[str] | None
) -> None:
    """SourceError unless having no mask at all can be meant: a healthy batch, with the lesion classes named."""
    healthy = lesions is not None and (not mask_files or assign_masks(mask_files, files, pattern, None))
    if not healthy:
        raise SourceError(
            f"no file in {masks} fits '{pattern}' for any photograph. Name the pattern with --mask-pattern"
        )


def _stamps(
    folder: Path, files: Sequence[str], masks_folder: Path | None, masks: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """The stamp of each photograph with its masks."""
    beside = {
        file: [masks_folder / masks[file][lesion] for lesion in sorted(masks[file])] for file in masks if masks_folder
    }
    return {file: stamp_of([folder / file, *beside.get(file, [])]) for file in files}


def _listed(
    files: Sequence[str], rows: Mapping[str, Row], labels: Sequence[str], stamps: Mapping[str, str]
) -> tuple[Listed, ...]:
    """What is known of each photograph before it is read; without a patient in its row it is a patient of its own."""
    name_of = _case_ids(files)
    keys = [Listed(file, name_of[file], name_of[file], stamp=stamps[file]) for file in files]
    return with_rows(keys, {name_of[file]: row for file, row in rows.items()}, labels)


def _case_ids(files: Sequence[str]) -> dict[str, str]:
    """The path without suffix; with it where two files differ in nothing else."""
    bare = {file: str(without_suffix(PurePosixPath(file))) for file in files}
    bearers = Counter(bare.values())
    return {file: name if bearers[name] == 1 else file for file, name in bare.items()}


def _kind(folder: Path, files: Sequence[str]) -> str:
    """Whether most of a sample of the photographs is RGB, grey, or grey of 16 bits; RGB where none can be told."""
    step = max(1, len(files) // SAMPLE)
    votes: dict[str, int] = defaultdict(int, {"rgb": 0})
    for file in files[::step]:
        if is_own_file(folder / file, folder) and (kind := pixel_kind(folder / file)):
            votes[kind] += 1
    return max(votes, key=votes.__getitem__)
