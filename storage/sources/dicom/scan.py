"""What lies in a folder of DICOM files: series of images and the masks that belong to them, by headers alone."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydicom import Dataset

from storage.sources.dicom.files import UnusableError, is_own_file, items, looks_like_dicom, number, read_header, text
from storage.sources.dicom.rtstruct import region_names
from storage.sources.dicom.segmentation import segment_names

TAGS = (
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "Modality", "PatientID"),
    *("IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "FrameOfReferenceUID", "Rows"),
    *("ImageOrientationPatient", "SharedFunctionalGroupsSequence", "StructureSetROISequence", "SegmentSequence"),
    *("ReferencedFrameOfReferenceSequence", "ReferencedSeriesSequence"),
)
SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"  # screenshots, dose reports
NO_SERIES = frozenset({"RTDOSE", "RTPLAN", "RTIMAGE", "RTRECORD", "PR", "SR", "KO", "REG", "SM", "ECG", "OT", "DOC", "AU"})
MASKS = frozenset({"RTSTRUCT", "SEG"})


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
    damaged: Mapping[str, str]


def scan(folder: Path) -> Found:
    """The series and masks in and below `folder`, sorted; files that are no DICOM are passed over."""
    members: dict[str, list[tuple[str, Dataset]]] = defaultdict(list)
    masks, damaged = list[MaskFile](), dict[str, str]()
    for file in _files(folder):
        try:
            header = read_header(folder / file, TAGS)
            if text(header, "Modality") in MASKS:
                masks.append(_mask(folder / file, header))
            elif _is_image(header):
                members[text(header, "SeriesInstanceUID")].append((file, header))
        except UnusableError as error:
            damaged[file] = str(error)
        except OSError as error:
            damaged[file] = f"cannot be read: {error.strerror}"
    series = sorted((_series(uid, of_series) for uid, of_series in members.items()), key=lambda one: (one.folder, one.uid))
    return Found(tuple(_beside_damage(series, damaged)), tuple(masks), damaged)


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
            raise UnusableError(f"its header is cut off or damaged: it has no {keyword}")
    if text(header, "Modality") in NO_SERIES or number(header, "Rows") is None:
        return False
    is_placed = "ImageOrientationPatient" in header or "SharedFunctionalGroupsSequence" in header
    is_picture = text(header, "SOPClassUID").startswith(SECONDARY) and not is_placed
    return not is_picture and "LOCALIZER" not in text(header, "ImageType").split("\\")


def _series(uid: str, members: list[tuple[str, Dataset]]) -> ImageSeries:
    members = sorted(members, key=lambda member: (text(member[1], "SOPInstanceUID"), member[0]))
    of_all = {
        name: {text(header, name) for _, header in members}
        for name in ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "Modality", "StudyDate", "FrameOfReferenceUID")
    }
    strife = [name for name, values in of_all.items() if len(values) > 1]
    own = {name: min(values) for name, values in of_all.items()}
    return ImageSeries(
        uid=uid,
        study_uid=own["StudyInstanceUID"],
        modality=own["Modality"],
        patient_id=own["PatientID"] or own["StudyInstanceUID"],
        issuer=own["IssuerOfPatientID"],
        study_date=own["StudyDate"],
        number=text(members[0][1], "SeriesNumber"),
        frame_of_reference=own["FrameOfReferenceUID"],
        files=tuple(file for file, _ in members),
        problem=f"its files differ in {strife[0]}: two series under one SeriesInstanceUID, or a damaged file" if strife else "",
    )


def _beside_damage(series: list[ImageSeries], damaged: Mapping[str, str]) -> Iterator[ImageSeries]:
    """The series, with a problem for one alone in a folder with a damaged file, which is likely to be its slice."""
    of_folder: dict[PurePosixPath, set[str]] = defaultdict(set)
    for one in series:
        for file in one.files:
            of_folder[PurePosixPath(file).parent].add(one.uid)
    struck = [of_folder.get(PurePosixPath(file).parent, set()) for file in damaged]
    uids = {uid for beside in struck if len(beside) == 1 for uid in beside}
    for one in series:
        problem = one.problem or ("a file of its folder is damaged: a slice may be missing" if one.uid in uids else "")
        yield ImageSeries(**{**one.__dict__, "problem": problem})


def _mask(path: Path, header: Dataset) -> MaskFile:
    drawn = items(header, "ReferencedSeriesSequence")
    frames = {text(header, "FrameOfReferenceUID")}
    for reference in items(header, "ReferencedFrameOfReferenceSequence"):
        frames.add(text(reference, "FrameOfReferenceUID"))
        for study in items(reference, "RTReferencedStudySequence"):
            drawn += items(study, "RTReferencedSeriesSequence")
    names = region_names(header) | segment_names(header)
    series = frozenset(text(item, "SeriesInstanceUID") for item in drawn)
    return MaskFile(path, tuple(sorted(set(names.values()))), series, frozenset(frames - {""}))
