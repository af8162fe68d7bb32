"""Small DICOM series made in the tests, with a scanner's header and a person's name in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from storage.sources.dicom import DicomSeries, open_dicom

KEY = b"a key of the hospital"
PERSON = {
    "PatientName": "DOE^JANE",
    "PatientID": "MRN-4711",
    "IssuerOfPatientID": "SAINT ELSEWHERE",
    "PatientBirthDate": "19450203",
    "PatientAge": "093Y",
    "InstitutionName": "Saint Elsewhere",
    "ReferringPhysicianName": "HOUSE^GREGORY",
    "AccessionNumber": "ACC-0815",
    "SeriesDescription": "PET of Jane Doe",
    "StudyDescription": "second look, Jane",
    "StudyDate": "20200312",
}
CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128"}
OF_MODALITY: dict[str, dict[str, Any]] = {
    "CT": {"RescaleSlope": 1, "RescaleIntercept": -1024, "KVP": 120},
    "MR": {"MagneticFieldStrength": 3, "EchoTime": 30},
    "PT": {
        "RescaleSlope": 2.5,
        "RescaleIntercept": 0,
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["DECY", "ATTN"],
        "PatientWeight": 70,
        "SeriesDate": "20200312",
        "SeriesTime": "110000",
        "AcquisitionDate": "20200312",
        "AcquisitionTime": "110000",
        "FrameReferenceTime": 0,
    },
}
INJECTION = {
    "RadionuclideTotalDose": 3.5e8,
    "RadionuclideHalfLife": 6588,
    "RadiopharmaceuticalStartTime": "100000",
    "Radiopharmaceutical": "FDG",
}
Change = Callable[[int, Dataset], None]


def _slice(uid: str, number: int, modality: str, stored: np.ndarray, place: dict[str, Any]) -> Dataset:
    slice_ = Dataset()
    slice_.file_meta = FileMetaDataset()
    slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slice_.SOPClassUID = slice_.file_meta.MediaStorageSOPClassUID = CLASSES[modality]
    slice_.SOPInstanceUID = generate_uid(entropy_srcs=[uid, str(number)])
    slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
    slice_.Modality, slice_.SeriesInstanceUID, slice_.InstanceNumber = modality, uid, number + 1
    slice_.StudyInstanceUID, slice_.FrameOfReferenceUID = generate_uid(entropy_srcs=["study"]), "1.2.3.4"
    slice_.StudyTime, slice_.StudyID, slice_.PatientSex, slice_.PositionReferenceIndicator = "105000", "1", "F", ""
    slice_.Manufacturer, slice_.SeriesNumber, slice_.SliceThickness = "Acme", 7, 3
    slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
    for elements in (PERSON, OF_MODALITY[modality], place):
        for keyword, value in elements.items():
            setattr(slice_, keyword, value)
    if modality == "PT":
        slice_.RadiopharmaceuticalInformationSequence = [Dataset()]
        for keyword, value in INJECTION.items():
            setattr(slice_.RadiopharmaceuticalInformationSequence[0], keyword, value)
    set_pixels(slice_, stored)
    return slice_


def set_pixels(slice_: Dataset, stored: np.ndarray) -> None:
    slice_.Rows, slice_.Columns = stored.shape
    slice_.BitsAllocated = slice_.BitsStored = 8 * stored.dtype.itemsize
    slice_.HighBit, slice_.PixelRepresentation = slice_.BitsAllocated - 1, int(stored.dtype.kind == "i")
    slice_.PixelData = stored.tobytes()


@pytest.fixture
def write_series(tmp_path: Path) -> Callable[..., list[Dataset]]:
    """Writes a series to `folder`, by default into tmp_path/dicom; what it wrote comes back, lowest slice first.

    `change(number, dataset)` may do anything to a slice before it is written; other keywords are elements of each
    slice, None to leave one out.
    """

    def write(
        modality: str = "PT",
        folder: Path | None = None,
        *,
        count: int = 4,
        shape: tuple[int, int] = (5, 6),
        spacing: tuple[float, float] = (2.0, 1.5),
        step: float = 3.0,
        origin: tuple[float, float, float] = (-10.0, -20.0, -30.0),
        orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
        name: str = "series",
        dtype: str = "int16",
        change: Change = lambda number, slice_: None,
        **elements: Any,
    ) -> list[Dataset]:
        folder = folder or tmp_path / "dicom"
        folder.mkdir(parents=True, exist_ok=True)
        normal = np.cross(orientation[:3], orientation[3:])
        random = np.random.default_rng(len(name))
        slices = []
        for number in range(count):
            position = np.array(origin) + number * step * normal
            place = {
                "ImagePositionPatient": [f"{mm:.9g}" for mm in position],
                "ImageOrientationPatient": [f"{cosine:.9g}" for cosine in orientation],
                "PixelSpacing": list(spacing),
            }
            stored = random.integers(0, 3000, shape).astype(dtype)
            slice_ = _slice(generate_uid(entropy_srcs=[name]), number, modality, stored, place)
            for keyword, value in elements.items():
                setattr(slice_, keyword, value)
                if value is None:
                    delattr(slice_, keyword)
            change(number, slice_)
            slice_.save_as(folder / f"{name}{(number * 7) % 11:02d}", enforce_file_format=True)  # not in order
            slices.append(slice_)
        return slices

    return write


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., DicomSeries]:
    """`open_dicom` of tmp_path/dicom with a key."""

    def open_it(**options: Any) -> DicomSeries:
        return open_dicom(str(tmp_path / "dicom"), **{"id_key": KEY, **options})

    return open_it


@pytest.fixture
def read_only(opened: Callable[..., DicomSeries]) -> Callable[..., Any]:
    """The one case, or rejection, of tmp_path/dicom."""

    def read(**options: Any) -> Any:
        source = opened(**options)
        (key,) = source.listing()
        return source.read(key)

    return read


@pytest.fixture
def files_of(tmp_path: Path) -> Callable[[], list[Path]]:
    """The files of tmp_path/dicom from the lowest slice up."""

    def files() -> list[Path]:
        found = [path for path in (tmp_path / "dicom").rglob("*") if path.is_file()]
        return sorted(found, key=lambda path: float(dcmread(path).ImagePositionPatient[2]))

    return files
