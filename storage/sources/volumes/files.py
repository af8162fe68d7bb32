"""Folders of volume files: NIfTI, NRRD or MetaImage, a file a case or a folder a case, one channel or several.

in   files of any axis order, spacing and size, whole or floating-point numbers; masks on the image's own grid, or on
     another that covers it
out  cases in the cohort's orientation, ragged or of one shape, in one dtype: that which a sample of the headers needs
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from storage.case import Case, Listed, Rejected
from storage.errors import SourceError
from storage.geometry import Interpolator
from storage.sources.label_table import LabelColumns
from storage.sources.listing import label_rows, with_rows
from storage.sources.photographs.file import UnreadableError
from storage.sources.photographs.mask_files import LESION
from storage.sources.volumes.alignment import mask_on_grid, on_grid
from storage.sources.volumes.formats import (
    FORMATS,
    FormatName,
    common_channels,
    common_dtype,
    contents,
    decoded,
    describe_files,
    digest,
    format_named,
    naming,
)
from storage.sources.volumes.listing import VolumeKey, checked_patterns, find_volumes
from storage.sources.volumes.masks import by_class, classes, whole_numbers
from storage.sources.volumes.patterns import channel_name
from storage.sources.volumes.volume import Plane, Regrid, Volume, regridded
from storage.sources.volumes.voxels import Voxels, cast

SAMPLE = 32  # cases whose headers decide the dtype and the number of channels


@dataclass(frozen=True)
class VolumeFiles:
    """A folder of volumes as `open_volumes` found it; its keys are `VolumeKey`.

    `numbered`: one mask file holds all classes, 1 for the first of `lesions`.
    """

    address: str
    name: str
    folder: Path
    channels: tuple[str, ...]
    dtype: np.dtype
    labels: tuple[str, ...]
    lesions: tuple[str, ...]
    numbered: bool
    listed: tuple[VolumeKey, ...]
    masks_folder: Path | None
    format: FormatName
    regrid: Regrid

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
        try:
            return _combined([digest(contents(self.folder, file, FORMATS[self.format])) for file in _images(key)])
        except UnreadableError:
            return ""

    def read(self, key: Listed) -> Case | Rejected:
        """Decode the channels and masks of a case and bring them onto the grid."""
        digests: list[str] = []
        try:
            voxels = [self._voxels(file, digests, len(self.channels) > 1) for file in _images(key)]
            image, masks, geometry = regridded(self._volume(key, voxels), self.regrid)
        except (UnreadableError, SourceError) as error:
            return Rejected(key.file, str(error), self.sha256(key))
        except MemoryError:
            return Rejected(key.file, "does not fit into memory; ask for a coarser --spacing", self.sha256(key))
        return Case(
            case_id=key.case_id,
            patient_id=key.patient_id,
            file=key.file,
            sha256=_combined(digests),
            image=image,
            labels=dict(key.labels),
            masks=masks,
            geometry=geometry,
            split=key.split,
            stamp=key.stamp,
        )

    def _voxels(self, file: str, digests: list[str], several: bool) -> Voxels:
        """A decoded image file, whose digest is appended to `digests`."""
        with naming(file if several else ""):
            parts = contents(self.folder, file, FORMATS[self.format])
            digests.append(digest(parts))
            return decoded(parts, FORMATS[self.format])

    def _volume(self, key: Listed, voxels: Sequence[Voxels]) -> Volume:
        """All channels on the grid of the first, in the dtype of the data set, with the masks."""
        images = []
        for file, one in zip(_images(key), voxels, strict=True):
            with naming(file if len(voxels) > 1 else ""):
                if len(one.image) != len(self.channels) // len(voxels):
                    expected = len(self.channels) // len(voxels)
                    raise UnreadableError(f"has {len(one.image)} channels where {expected} are expected")
                images.append(cast(on_grid(one, voxels[0]), self.dtype))
        image = images[0] if len(images) == 1 else np.concatenate(images)
        return Volume(image, voxels[0].affine, self._masks(key, voxels[0]))

    def _masks(self, key: Listed, image: Voxels) -> dict[str, np.ndarray] | None:
        if not isinstance(key, VolumeKey) or key.masks is None or self.masks_folder is None:
            return None
        kind, masks = FORMATS[self.format], dict[str, np.ndarray]()
        for lesion, file in key.masks.items():
            with naming(f"mask {file}"):
                voxels = decoded(contents(self.masks_folder, file, kind), kind)
                if len(voxels.image) != 1:
                    raise UnreadableError(f"has {len(voxels.image)} channels; a mask has one")
                numbers = mask_on_grid(Voxels(whole_numbers(voxels.image), voxels.affine), image)
                masks |= by_class(numbers, self.lesions) if self.numbered else {lesion: numbers != 0}
        return masks


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

    Masks lie in the folder `masks` or, where only `mask_pattern` is given, beside the images. With {lesion} in the
    pattern a class is a file, and a missing one means none of that class. Without, one file holds all: 0 and one
    other number is one class; several are `label_1`, `label_2` … or, in this order, `lesions`; a case without that
    file was not annotated. A mask on another grid is taken over by nearest neighbour if it covers the whole image;
    otherwise the case is set aside.

    `labels` is a CSV whose `file_column` names cases, or their files. Without `patient_column` each case is a patient.
    `spacing` (mm), `shape` and `project` are those of `Regrid`. SourceError where a folder, file or column is missing,
    a pattern is unclear, or a patient is in two splits.
    """
    kind, regrid = format_named(format), Regrid(spacing, interpolator, shape, project)
    patterns = checked_patterns(image_pattern, channels)
    found = find_volumes(
        Path(address), kind, patterns, Path(masks) if masks is not None else None, mask_pattern, lesions
    )
    label = dict(label or {})
    columns = LabelColumns(file_column, label, patient_column, split_column)
    rows = label_rows(labels, columns, [key.case_id for key in found.keys])
    sampled = found.keys[:: max(1, len(found.keys) // SAMPLE)]
    described = describe_files(found.folder, [file for key in sampled for file in key.images], kind)
    only = channel_name(image_pattern)
    count = common_channels(described)
    return VolumeFiles(
        address=str(address),
        name=format,
        folder=found.folder,
        channels=tuple(channels or ([only] if count == 1 else [f"{only}_{number}" for number in range(count)])),
        dtype=common_dtype(described),
        labels=tuple(label),
        lesions=classes(found.masks_folder, found.mask_pattern, found.masks, lesions, kind),
        numbered=found.mask_pattern is not None and LESION not in found.mask_pattern,
        listed=with_rows(found.keys, rows, tuple(label)),
        masks_folder=found.masks_folder,
        format=format,
        regrid=regrid,
    )


open_nifti = partial(open_volumes, format="nifti")
open_nrrd = partial(open_volumes, format="nrrd")
open_mha = partial(open_volumes, format="mha")


def _images(key: Listed) -> tuple[str, ...]:
    """The image files of a case that has all of its channels."""
    if not isinstance(key, VolumeKey) or key.problem:
        raise UnreadableError(key.problem or "is no case of this source")
    return key.images


def _combined(digests: Sequence[str]) -> str:
    """One digest for a case of one file or several."""
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest() if digests else ""
