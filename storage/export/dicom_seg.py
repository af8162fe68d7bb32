"""DICOM SEG: a file a case, a binary segment a lesion class, on the slices of the series that the case was read from.

It refers to the original instances and carries, as the standard asks, their patient and study: whoever holds the series
may have it, nobody else. Maps are not written: a FRACTIONAL segment means a probability or an occupancy, and raw
saliency is neither.
"""

import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import generate_uid

from storage.cohort import Cohort
from storage.engine import first_line
from storage.errors import CohortError
from storage.export.content import Content, masks_of
from storage.geometry import Grid

MAKER = "lesionflow"
SAME_PLACE_MM = 0.05
SAME_DIRECTION = 1e-3
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_dicom_seg(cohort: Cohort, case: int, file: Path, content: Content) -> list[Path]:
    """Write the masks of a case into `file`; nothing where it has none.

    Raises:
        CohortError: the series of the case is not known, or is not the one it was read from.
    """
    masks = dict(masks_of(cohort, case, content))
    if not masks:
        return []
    name = str(cohort.table["case_id"].iloc[case])
    if case not in content.series:
        raise CohortError(f"case '{name}' has no series in the DICOM folder; name the folder it was ingested from")
    geometry = cohort.geometry(case)
    images = _in_order(_read(content.series[case], name), geometry.source, name)
    frames = np.stack([geometry.mask_to_source(mask) for mask in masks.values()], axis=-1)
    identity = (cohort.table["sha256"].iloc[case], cohort.table["mask_digest"].iloc[case], *content.lesions.values())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # highdicom prints names of patients that it finds oddly written
            made = segmentation(images, frames, [content.lesions[lesion] for lesion in masks], identity)
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # of attributes that a series should have
        raise CohortError(f"a DICOM SEG of case '{name}' cannot be made: {first_line(error)}") from error
    made.save_as(file)
    return [file]


def _read(files: Sequence[Path], name: str) -> list[Dataset]:
    """The headers of a series."""
    try:
        return [dcmread(file, stop_before_pixels=True, force=True) for file in files]
    except (OSError, InvalidDicomError) as error:
        raise CohortError(f"the series of case '{name}' cannot be read: {first_line(error)}") from error


def segmentation(images: Sequence[Dataset], frames: np.ndarray, lesions: Sequence[str], identity: Sequence[str]) -> Any:
    """A `highdicom.seg.Segmentation` of bool `frames` (z, y, x, L), one frame an image; `identity` decides its UIDs."""
    from highdicom.seg import Segmentation  # a second that only its users should wait for

    return Segmentation(
        source_images=list(images),
        pixel_array=frames.astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[_segment(number, lesion) for number, lesion in enumerate(lesions, 1)],
        series_instance_uid=generate_uid(entropy_srcs=["series", *map(str, identity)]),
        sop_instance_uid=generate_uid(entropy_srcs=["instance", *map(str, identity)]),
        series_number=1000,
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=_version(),
        device_serial_number=MAKER,
        content_label="LESIONS",
        content_description="Lesion masks",
    )


def _segment(number: int, lesion: str) -> Any:
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    return SegmentDescription(
        segment_number=number,
        segment_label=lesion[:64],
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type="MANUAL",
    )


def _version() -> str:
    try:
        return version(MAKER)
    except PackageNotFoundError:
        return "unknown"


def _in_order(images: Sequence[Dataset], source: Grid, name: str) -> list[Dataset]:
    """The image of each plane of `source`; CohortError where they do not lie as the case was read."""
    if source.affine is None or len(source.shape) != 3:
        raise CohortError(f"case '{name}' was not read from a DICOM series: it has no place in a patient")
    affine = LPS @ np.array(source.affine, np.float64)
    step = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    for image in images:
        _check_single(image, name)
    heights = {float(_place(image) @ step): image for image in reversed(images)}  # of doubles the first
    kept = _without_doubles(sorted(heights))
    ordered = [heights[height] for height in kept]
    if len(ordered) != source.shape[0] or not _lies_on(ordered, affine, source):
        raise CohortError(f"case '{name}' was read from other slices than those now in its series; ingest it again")
    return ordered


def _check_single(image: Dataset, name: str) -> None:
    if int(image.get("NumberOfFrames", 1)) > 1 or "ImagePositionPatient" not in image:
        raise CohortError(f"case '{name}' is a multi-frame DICOM file; export its masks as nifti with --grid source")


def _place(image: Dataset) -> np.ndarray:
    return np.array(image.ImagePositionPatient, np.float64)


def _without_doubles(heights: Sequence[float]) -> list[float]:
    kept = list(heights[:1])
    for height in heights[1:]:
        if height - kept[-1] > SAME_PLACE_MM:
            kept.append(height)
    return kept


def _lies_on(images: Sequence[Dataset], affine: np.ndarray, source: Grid) -> bool:
    """Whether first and last plane, rows and columns are those of `source`."""
    first, last = images[0], images[-1]
    corners = (affine @ [0, 0, 0, 1])[:3], (affine @ [0, 0, source.shape[0] - 1, 1])[:3]
    across, down = np.array(first.ImageOrientationPatient, np.float64).reshape(2, 3)
    axes = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    return bool(
        (int(first.Rows), int(first.Columns)) == source.shape[1:]
        and max(np.abs(_place(first) - corners[0]).max(), np.abs(_place(last) - corners[1]).max()) < SAME_PLACE_MM
        and max(np.abs(across - axes[:, 0]).max(), np.abs(down - axes[:, 1]).max()) < SAME_DIRECTION
    )
