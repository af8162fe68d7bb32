"""Segments of a DICOM SEG as masks on the grid of a series, each frame put where it says it lies."""

from collections.abc import Collection
from itertools import count

import numpy as np
from pydicom import Dataset

from storage.sources.dicom.files import UnusableError, items, number, text
from storage.sources.dicom.frames import Frame, frames_of, macro
from storage.sources.dicom.pixels import stored_frames
from storage.sources.dicom.stack import SAME_DIRECTION, Stack

OFF_GRID = 0.1  # of a voxel: what a frame may be beside the grid of the series


def segment_masks(segmentation: Dataset, stack: Stack, lesions: Collection[str]) -> dict[str, np.ndarray]:
    """Masks (z, y, x) of the segments named `lesions`; one that no frame shows is absent.

    A fraction counts from half of its maximum. UnusableError for a frame that is not on the grid of the series.
    """
    names = segment_names(segmentation)
    is_labelmap = text(segmentation, "SegmentationType") == "LABELMAP"
    half = (number(segmentation, "MaximumFractionalValue") or 1.0) / 2.0
    masks: dict[str, np.ndarray] = {}
    for index, frame, pixels in zip(count(), frames_of(segmentation), stored_frames(segmentation), strict=False):
        numbers = np.unique(pixels).tolist() if is_labelmap else [_segment(segmentation, index)]
        for segment in numbers:
            shown = pixels == segment if is_labelmap else pixels >= half
            if names.get(segment) in lesions and shown.any():
                mask = masks.setdefault(names[segment], np.zeros(stack.shape, bool))
                mask[_slice(frame, stack)] |= shown
    return masks


def segment_names(segmentation: Dataset) -> dict[int, str]:
    """The label of each segment by its number."""
    found = [
        (number(item, "SegmentNumber"), text(item, "SegmentLabel")) for item in items(segmentation, "SegmentSequence")
    ]
    return {int(segment): name or f"segment {segment:.0f}" for segment, name in found if segment is not None}


def _segment(segmentation: Dataset, index: int) -> int:
    found = number(macro(segmentation, index, "SegmentIdentificationSequence"), "ReferencedSegmentNumber")
    if found is None:
        raise UnusableError(f"frame {index + 1} of the SEG does not say which segment it shows")
    return int(found)


def _slice(frame: Frame, stack: Stack) -> int:
    """The slice that `frame` lies on."""
    steps = [stack.affine[:3, axis] / spacing for axis, spacing in enumerate(reversed(frame.spacing_mm))]
    is_alike = frame.shape == stack.shape[1:] and np.allclose(steps, frame.directions, atol=SAME_DIRECTION)
    distance = np.abs(stack.heights_mm - frame.position @ stack.normal)
    index = int(distance.argmin())
    corner = stack.affine[:3, 3] + index * stack.affine[:3, 2]
    beside = (frame.position - corner) @ np.array(frame.directions).T / frame.spacing_mm[::-1]
    if not is_alike or distance[index] > stack.step_mm / 2.0 or np.abs(beside).max() > OFF_GRID:
        raise UnusableError(f"{frame.name} of the SEG does not lie on the grid of the series: drawn on another one")
    return index
