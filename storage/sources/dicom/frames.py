"""Where each frame of a DICOM image lies, from a file of one slice or of many."""

from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from storage.sources.dicom.files import UnusableError, items, missing, needed, number, text

UNIT = 1e-2  # how far direction cosines may be from unit length and right angle


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice: LPS mm of its first voxel's centre, directions of growing x and y, spacing (y, x), size (y, x).

    A stored value v means `slope` · v + `intercept`, in `unit`; None where the file has no rescale.
    """

    position: np.ndarray
    directions: np.ndarray  # (2, 3)
    spacing_mm: tuple[float, ...]
    shape: tuple[int, int]
    thickness_mm: float | None
    slope: float | None
    intercept: float | None
    unit: str
    name: str

    @property
    def normal(self) -> np.ndarray:
        """The direction in which slices follow each other, unit length."""
        return np.asarray(np.cross(self.directions[0], self.directions[1]))


def frames_of(header: Dataset) -> list[Frame]:
    """The frames of an image, in the order of its pixels."""
    count = frame_count(header)
    per_frame = items(header, "PerFrameFunctionalGroupsSequence")
    if per_frame and len(per_frame) != count:
        raise UnusableError(f"{image_name(header)} has {count} frames and says of {len(per_frame)} where they lie")
    if count > 1 and not per_frame:
        raise UnusableError(f"{image_name(header)} has {count} frames and does not say where each lies")
    return [_frame(header, index) for index in range(count)]


def frame_count(header: Dataset) -> int:
    """How many frames an image has."""
    return int(number(header, "NumberOfFrames") or 1)


def image_name(header: Dataset) -> str:
    """How a person finds the file in a viewer; it names nobody."""
    found = _instance_number(header)
    return "a slice" if found is None else f"instance {found}"


def _instance_number(header: Dataset) -> int | None:
    """The instance number, None where it is absent or no number."""
    try:
        found = number(header, "InstanceNumber")
    except UnusableError:
        return None
    return None if found is None else int(found)


def macro(header: Dataset, index: int, sequence: str) -> Dataset:
    """Where an attribute of frame `index` stands: its functional group, the shared one, or the header itself."""
    per_frame = items(header, "PerFrameFunctionalGroupsSequence")
    groups = (*per_frame[index : index + 1], *items(header, "SharedFunctionalGroupsSequence")[:1])
    return next((found[0] for group in groups if (found := items(group, sequence))), header)


def _frame(header: Dataset, index: int) -> Frame:
    name = image_name(header) + (f", frame {index + 1}" if frame_count(header) > 1 else "")
    values = macro(header, index, "PixelValueTransformationSequence")
    measures = macro(header, index, "PixelMeasuresSequence")
    try:
        orientation = needed(macro(header, index, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
        return Frame(
            position=np.array(needed(macro(header, index, "PlanePositionSequence"), "ImagePositionPatient", 3)),
            directions=_directions(orientation),
            spacing_mm=_positive(needed(measures, "PixelSpacing", 2)),
            shape=(_size(header, "Rows"), _size(header, "Columns")),
            thickness_mm=number(measures, "SpacingBetweenSlices") or number(measures, "SliceThickness"),
            slope=number(values, "RescaleSlope"),
            intercept=number(values, "RescaleIntercept"),
            unit=text(header, "Units") or text(values, "RescaleType"),
            name=name,
        )
    except UnusableError as error:
        raise UnusableError(f"{error} in {name}") from error


def _directions(cosines: tuple[float, ...]) -> np.ndarray:
    directions = np.array(cosines).reshape(2, 3)
    if np.abs(directions @ directions.T - np.eye(2)).max() > UNIT:
        raise UnusableError("Image Orientation (0020,0037) is not two unit vectors at a right angle")
    return directions


def _positive(spacing_mm: tuple[float, ...]) -> tuple[float, ...]:
    if min(spacing_mm) <= 0:
        raise UnusableError("Pixel Spacing (0028,0030) is not positive")
    return spacing_mm


def _size(header: Dataset, keyword: str) -> int:
    found = number(header, keyword)
    if found is None or found < 1:
        raise UnusableError(missing(keyword) if found is None else f"{keyword} is {found:g}")
    return int(found)
