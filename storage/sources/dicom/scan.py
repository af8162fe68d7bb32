"""What lies in a folder of DICOM files: series of images and the masks that belong to them, by headers alone."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pydicom import Dataset
from pydicom.uid import UID

from storage.sources.dicom.files import UnusableError, items, looks_like_dicom, missing, number, read_header, tag, text
from storage.sources.dicom.rtstruct import region_names
from storage.sources.dicom.segmentation import segment_names
from storage.sources.listing import is_own_file

TAGS = (
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "Modality", "PatientID"),
    *("IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "FrameOfReferenceUID", "Rows"),
    *("ImageOrientationPatient", "SharedFunctionalGroupsSequence", "StructureSetROISequence", "SegmentSequence"),
    *("ReferencedFrameOfReferenceSequence", "ReferencedSeriesSequence"),
)
SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"  # screenshots, dose reports
NO_SERIES = frozenset(
    {"RTDOSE", "RTPLAN", "RTIMAGE", "RTRECORD", "PR", "SR", "KO", "REG", "SM", "ECG", "OT", "DOC", "AU"}
)
MASKS = frozenset({"RTSTRUCT", "SEG"})
ALIKE = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "Modality", "StudyDate", "FrameOfReferenceUID")


class _Member(NamedTuple):
    """A file of a series, relative to the source, and its elements by their keywords."""

    file: str
    SOPInstanceUID: str
    SeriesInstanceUID: str
    SeriesNumber: str
    StudyInstanceUID: str
    StudyDate: str
    Modality: str
    PatientID: str
    IssuerOfPatientID: str
    FrameOfReferenceUID: str


@dataclass(frozen=True)
class ImageSeries:
    """The files of a series, relative to the source and in the order of their SOP Instance UIDs."""

    uid: str
    study_uid: str
    modality: str
    patient_id: str
    issuer: str
    study_date: str
    number: str
    frame_of_reference: str
    files: tuple[str, ...]
    problem: str = ""

    @property
    def folder(self) -> str:
        """The folder that holds all of its files, relative to the source."""
        return os.path.commonpath([str(PurePosixPath(file).parent) for file in self.files])


@dataclass(frozen=True)
class MaskFile:
    """An RTSTRUCT or SEG with the names of its regions, the series it was drawn on and their frames of reference."""

    path: Path
    names: tuple[str, ...]
    series: frozenset[str]
    frames_of_reference: frozenset[str]


@dataclass(frozen=True)
class Found:
    """All that a folder holds; `damaged` maps files that have the look of DICOM to why they cannot be used."""

    series: tuple[ImageSeries, ...]
    masks: tuple[MaskFile, ...]
    damaged: dict[Path, str]


def scan(folder: Path) -> Found:
    """The series and masks in and below `folder`, sorted; files that are no DICOM are passed over."""
    members: dict[str, list[_Member]] = defaultdict(list)
    masks, damaged = list[MaskFile](), dict[Path, str]()
    for file in _files(folder):
        path = folder / file
        try:
            header = read_header(path, TAGS)
            if text(header, "Modality") in MASKS:
                masks.append(_mask(path, header))
            elif _is_image(header):
                member = _Member(file, *(text(header, keyword) for keyword in _Member._fields[1:]))
                members[member.SeriesInstanceUID].append(member)
        except UnusableError as error:
            damaged[path] = str(error)
        except OSError as error:
            damaged[path] = f"cannot be read: {error.strerror}"
        except Exception as error:  # pydicom raises whatever the damaged bytes lead to
            damaged[path] = f"its DICOM header is damaged ({type(error).__name__})"
    series = sorted((_series(of_series) for of_series in members.values()), key=lambda one: (one.folder, one.uid))
    return Found(tuple(_beside_damage(series, folder, damaged)), tuple(masks), damaged)


def drawn_on(mask: MaskFile, series: ImageSeries, known: Iterable[str]) -> bool:
    """Whether `mask` belongs to `series`: it names it; or it names none that is `known` and shares its coordinates."""
    if mask.series & set(known):
        return series.uid in mask.series
    return bool(series.frame_of_reference) and series.frame_of_reference in mask.frames_of_reference


def _files(folder: Path) -> Iterator[str]:
    """Files with the look of DICOM, relative to `folder`; linked folders are not entered, pipes not opened."""
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and is_own_file(path, folder) and _may_be_dicom(path):
                yield path.relative_to(folder).as_posix()


def _may_be_dicom(path: Path) -> bool:
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return looks_like_dicom(file.read(132))
    except OSError:
        return False


def _is_image(header: Dataset) -> bool:
    """Whether a file is a slice or a volume; UnusableError where it does not say what it is."""
    if header.file_meta.get("MediaStorageSOPClassUID", "") == DIRECTORY:
        return False
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality"):
        if not text(header, keyword):
            raise UnusableError(f"its header is cut off or damaged: {missing(keyword)}")
    if text(header, "Modality") in NO_SERIES or (number(header, "Rows") is None and _holds_no_image(header)):
        return False
    if number(header, "Rows") is None:
        raise UnusableError(f"its header is cut off or damaged: {missing('Rows')}")
    is_placed = "ImageOrientationPatient" in header or "SharedFunctionalGroupsSequence" in header
    is_picture = text(header, "SOPClassUID").startswith(SECONDARY) and not is_placed
    return not is_picture and "LOCALIZER" not in text(header, "ImageType").split("\\")


def _holds_no_image(header: Dataset) -> bool:
    """Whether a file is of a kind that has no pixels: a standard one that is no image, or a manufacturer's own."""
    kind = UID(text(header, "SOPClassUID"))
    own = kind.is_valid and kind.is_private
    return own or (kind.name != kind and not kind.name.endswith("Image Storage"))


def _series(members: list[_Member]) -> ImageSeries:
    members = sorted(members, key=lambda member: (member.SOPInstanceUID, member.file))
    first = members[0]
    strife = [name for name in ALIKE if len({getattr(member, name) for member in members}) > 1]
    return ImageSeries(
        uid=first.SeriesInstanceUID,
        study_uid=first.StudyInstanceUID,
        modality=first.Modality,
        patient_id=first.PatientID or first.StudyInstanceUID,
        issuer=first.IssuerOfPatientID,
        study_date=first.StudyDate,
        number=first.SeriesNumber,
        frame_of_reference=first.FrameOfReferenceUID,
        files=tuple(member.file for member in members),
        problem=f"its files differ in {tag(strife[0])}: two series mixed up, or a damaged file" if strife else "",
    )


def _beside_damage(series: list[ImageSeries], folder: Path, damaged: Mapping[Path, str]) -> Iterator[ImageSeries]:
    """The series, with a problem for one alone in a folder with a damaged file, which is likely to be its slice."""
    of_folder: dict[Path, set[str]] = defaultdict(set)
    for one in series:
        for file in one.files:
            of_folder[(folder / file).parent].add(one.uid)
    struck = [of_folder.get(path.parent, set()) for path in damaged]
    uids = {uid for beside in struck if len(beside) == 1 for uid in beside}
    for one in series:
        yield replace(one, problem=one.problem or _BESIDE) if one.uid in uids else one


_BESIDE = "a file of its folder is damaged: a slice or a mask may be missing"


def _mask(path: Path, header: Dataset) -> MaskFile:
    drawn = list(items(header, "ReferencedSeriesSequence"))
    frames = {text(header, "FrameOfReferenceUID")}
    for reference in items(header, "ReferencedFrameOfReferenceSequence"):
        frames.add(text(reference, "FrameOfReferenceUID"))
        for study in items(reference, "RTReferencedStudySequence"):
            drawn += items(study, "RTReferencedSeriesSequence")
    names = region_names(header) | segment_names(header)
    series = frozenset(text(item, "SeriesInstanceUID") for item in drawn)
    return MaskFile(path, tuple(sorted(set(names.values()))), series, frozenset(frames - {""}))
