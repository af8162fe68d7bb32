"""Folders of volume files: NIfTI, NRRD or MetaImage, a file a case or a folder a case, one channel or several.

in   files of any axis order, spacing and size, integers or floating-point numbers; masks on the image's own grid, or on
     another that covers it
out  cases in the cohort's orientation, ragged or of one shape, in one dtype: that which a sample of the headers needs
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from storage.case import Case, Listed, Rejected
from storage.errors import SourceError
from storage.geometry import Interpolator
from storage.sources.alignment import mask_on_grid, on_grid
from storage.sources.label_table import LabelColumns
from storage.sources.listing import files_below, is_own_file, label_rows, with_rows
from storage.sources.mask_files import LESION, ONLY_LESION, is_inside, lesion_classes
from storage.sources.metaimage import describe_metaimage, metaimage_data_file, read_metaimage
from storage.sources.nifti import describe_nifti, read_nifti
from storage.sources.nrrd import describe_nrrd, nrrd_data_file, read_nrrd
from storage.sources.photograph_file import UnreadableError
from storage.sources.stamp import stamp_of
from storage.sources.volume import Plane, Regrid, Volume, regridded
from storage.sources.volume_patterns import (
    cases_by_name,
    cases_of,
    channel_name,
    checked_image_pattern,
    checked_mask_pattern,
    masks_of,
)
from storage.sources.voxels import Beside, Described, Voxels, cast

FormatName = Literal["nifti", "nrrd", "mha"]
START = 1 << 17  # bytes that hold any header
SAMPLE = 32  # cases whose headers decide the dtype and the number of channels
MASK_SAMPLE = 8  # masks that are read to learn the classes where nobody names them
MOST_CLASSES = 64


@dataclass(frozen=True)
class Format:
    """How files of a kind are named and read."""

    suffixes: tuple[str, ...]
    describe: Callable[[bytes], Described]
    read: Callable[[bytes, Beside], Voxels]
    data_file: Callable[[bytes], str | None] = lambda start: None
    detached: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "nifti": Format((".nii.gz", ".nii"), describe_nifti, read_nifti),
    "nrrd": Format((".nrrd", ".nhdr"), describe_nrrd, read_nrrd, nrrd_data_file, (".nhdr", ".nrrd")),
    "mha": Format((".mha", ".mhd"), describe_metaimage, read_metaimage, metaimage_data_file, (".mhd", ".mha")),
}


@dataclass(frozen=True)
class VolumeKey(Listed):
    """A case with its files: `images` one a channel, `masks` by lesion class; None: nobody annotated it."""

    images: tuple[str, ...] = ()
    masks: Mapping[str, str] | None = None


@dataclass(frozen=True)
class VolumeFiles:
    """A folder of volumes as `open_volumes` found it; its keys are `VolumeKey`.

    `by_number`: one mask file holds all classes, 1 for the first of `lesions`.
    """

    address: str
    name: str
    channels: tuple[str, ...]
    dtype: np.dtype
    labels: tuple[str, ...]
    lesions: tuple[str, ...]
    by_number: bool
    listed: tuple[VolumeKey, ...]
    masks_folder: Path | None
    regrid: Regrid = field(default_factory=Regrid)

    @property
    def grid(self) -> tuple[int, ...] | None:
        """The shape that was asked for; None where each volume keeps its own."""
        return self.regrid.grid()

    @property
    def dims(self) -> tuple[str, ...]:
        """z, y, x; or y, x of a projection."""
        return self.regrid.dims()

    def listing(self) -> Sequence[VolumeKey]:
        """The cases in the order of their names."""
        return self.listed

    def sha256(self, key: Listed) -> str:
        """Of the bytes of the image files, in the order of the channels; empty where they are not to be read."""
        if not isinstance(key, VolumeKey) or not all(key.images):
            return ""
        folder = Path(self.address)
        try:
            return _combined(_Opened(folder, file, self.name).digest for file in key.images)
        except UnreadableError:
            return ""

    def read(self, key: Listed) -> Case | Rejected:
        """Decode the channels and masks of a case and bring them onto the grid."""
        digest = ""
        try:
            if not isinstance(key, VolumeKey) or key.problem:
                raise UnreadableError(key.problem or "is no case of this source")
            opened = [_Opened(Path(self.address), file, self.name) for file in key.images]
            digest = _combined(one.digest for one in opened)
            volume = self._volume(key, [one.voxels() for one in opened])
            image, masks, geometry = regridded(volume, self.regrid)
        except (UnreadableError, SourceError) as error:
            return Rejected(key.file, str(error), digest)
        except MemoryError:
            return Rejected(key.file, "does not fit into memory; ask for a coarser --spacing or fewer workers", digest)
        return Case(
            case_id=key.case_id,
            patient_id=key.patient_id,
            file=key.file,
            sha256=digest,
            image=image,
            labels=dict(key.labels),
            masks=masks,
            geometry=geometry,
            split=key.split,
            stamp=key.stamp,
        )

    def _volume(self, key: VolumeKey, voxels: list[Voxels]) -> Volume:
        """All channels on the grid of the first, in the dtype of the data set, with the masks."""
        first = voxels[0]
        images = []
        for file, one in zip(key.images, voxels, strict=True):
            if len(voxels) > 1 and len(one.image) != 1:
                raise UnreadableError(f"{file} has {len(one.image)} channels; a file of one channel holds one")
            with _naming(file, len(voxels) > 1):
                images.append(cast(on_grid(one, first), self.dtype))
        image = images[0] if len(images) == 1 else np.concatenate(images)
        if len(image) != len(self.channels):
            raise UnreadableError(f"has {len(image)} channels, the other files have {len(self.channels)}")
        return Volume(image, first.affine, self._masks(key, first))

    def _masks(self, key: VolumeKey, image: Voxels) -> dict[str, np.ndarray] | None:
        if key.masks is None or self.masks_folder is None:
            return None
        masks: dict[str, np.ndarray] = {}
        for lesion, file in key.masks.items():
            with _naming(f"mask {file}"):
                voxels = _Opened(self.masks_folder, file, self.name).voxels()
                numbers = _label_numbers(voxels, mask_on_grid(voxels, image))
                masks |= self._by_class(numbers) if self.by_number else {lesion: numbers != 0}
        return masks

    def _by_class(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """The classes of one file: numbered, or one that is whatever is not 0."""
        present = [int(number) for number in np.unique(numbers) if number]
        if len(self.lesions) == 1 and len(present) < 2:
            return {self.lesions[0]: numbers != 0}
        if present and present[-1] > len(self.lesions):
            said = ", ".join(map(str, present[:9]))
            raise UnreadableError(
                f"holds the numbers {said}, the data set has {len(self.lesions)} classes ({', '.join(self.lesions)}); "
                "name one for each number with --lesions"
            )
        return {self.lesions[number - 1]: numbers == number for number in present}


def open_volumes(
    address: str,
    *,
    format: FormatName,
    image_pattern: str | None = None,
    channels: Mapping[str, str] | None = None,
    masks: str | Path | None = None,
    mask_pattern: str | None = None,
    lesions: Sequence[str] | None = None,
    labels: str | Path | None = None,
    file_column: str = "file",
    label: Mapping[str, str] | None = None,
    patient_column: str | None = None,
    split_column: str | None = None,
    spacing: tuple[float, float, float] | None = None,
    interpolator: Interpolator = "linear",
    shape: tuple[int, int, int] | None = None,
    project: Plane | None = None,
) -> VolumeFiles:
    """The volumes in and below the folder `address`, or the one file that it names.

    Each file is a case, or those that `image_pattern` finds ('{case}/PET_image.nii.gz'). `channels` maps names to such
    patterns; the grid of the first counts, the others come onto it linearly in world space. A fourth axis is channels.

    Masks lie in the folder `masks`, or where only `mask_pattern` is given, beside the images. With {lesion} in the
    pattern a class is a file, and a missing one means none of that class. Without, one file holds all: 0 and one
    other number is one class; several are `label_1`, `label_2` … or, in this order, `lesions`; a case without that
    file was not annotated. A mask on another grid is taken over by nearest neighbour if it covers the whole image;
    otherwise the case is set aside.

    `labels` is a CSV whose `file_column` names cases, or their files. Without `patient_column` each case is a patient.
    SourceError where a folder, file or column is missing, a pattern is unclear, or a patient is in two splits.
    """
    kind = _format(format)
    regrid = Regrid(spacing, interpolator, shape, project)
    folder, files = _found(Path(address), kind)
    masks_folder = Path(masks) if masks is not None else folder if mask_pattern is not None else None
    patterns = _patterns(image_pattern, channels)
    mask_files = _mask_files(masks_folder, kind)
    cases = _cases(_images(folder, files, masks_folder), patterns)
    pattern, assigned = _assigned(mask_files, cases, mask_pattern, kind, lesions, masks_folder)
    if masks_folder is not None and patterns is None and masks_folder.resolve() == folder.resolve():
        taken = {file for of_case in assigned.values() for file in of_case.values()}
        cases = {case: of_case for case, of_case in cases.items() if not taken & set(of_case.values())}
    if not cases:
        wanted = f" that fit '{next(iter(patterns.values()))}'" if patterns else ""
        raise SourceError(f"{folder} has no volumes ({', '.join(kind.suffixes)}){wanted} in it or below")
    annotated = pattern is not None and LESION in pattern
    keys = _keys(folder, kind, cases, list(patterns or ["image"]), masks_folder, assigned, annotated)
    label = dict(label or {})
    rows = label_rows(labels, LabelColumns(file_column, label, patient_column, split_column), list(cases))
    described = _described(folder, keys, kind)
    return VolumeFiles(
        address=str(address) if Path(address).is_dir() else str(folder),
        name=format,
        channels=_channel_names(patterns, image_pattern, described),
        dtype=_common_dtype(described),
        labels=tuple(label),
        lesions=_classes(pattern, lesions, assigned, masks_folder, format),
        by_number=pattern is not None and LESION not in pattern,
        listed=with_rows(keys, rows, tuple(label)),
        masks_folder=masks_folder,
        regrid=regrid,
    )
