from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from storage.cohort import Cohort
from storage.errors import CohortError
from storage.export import write_dicom_seg
from storage.export.dicom_series import find_series
from storage.sources.dicom import open_dicom
from tests.real_images import REAL_IMAGES

from .conftest import content_of

KEY = b"a key"
SHAPE = (6, 16, 12)  # z, y, x
TILTED = [0.0, np.cos(0.1), np.sin(0.1), 0.0, -np.sin(0.1), np.cos(0.1)]  # sagittal slices, head tilted
MARKED = (4, 9, 3)


def write_slices(folder: Path, number: int = 0, study: str = "1.2.3") -> Path:
    """A CT series of sagittal slices whose file names do not follow their order."""
    folder.mkdir(parents=True)
    series, frame = generate_uid(entropy_srcs=[f"s{number}"]), generate_uid(entropy_srcs=[f"f{number}"])
    rng, normal = np.random.default_rng(number), np.cross(TILTED[:3], TILTED[3:])
    for z in range(SHAPE[0]):
        slice_ = pydicom.Dataset()
        slice_.file_meta = FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID = CTImageStorage
        uid = generate_uid(entropy_srcs=[f"{number} {z}"])
        slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID = uid
        slice_.PatientID, slice_.PatientName, slice_.Modality = f"P{number}", "Doe^Jane", "CT"
        slice_.PatientBirthDate, slice_.PatientSex, slice_.StudyID, slice_.AccessionNumber = "", "", "", ""
        slice_.StudyDate, slice_.StudyTime, slice_.ReferringPhysicianName = "20200101", "000000", ""
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = study, series, frame
        slice_.SeriesNumber, slice_.InstanceNumber = 1, z + 1
        slice_.ImagePositionPatient = [round(float(one), 6) for one in np.array([-10.0, 20, -300]) + 2.5 * z * normal]
        slice_.ImageOrientationPatient = [round(float(one), 8) for one in TILTED]
        slice_.PixelSpacing, slice_.SliceThickness = [1.5, 0.8], 2.5
        slice_.Rows, slice_.Columns, slice_.SamplesPerPixel = SHAPE[1], SHAPE[2], 1
        slice_.PhotometricInterpretation, slice_.PixelRepresentation = "MONOCHROME2", 1
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit = 16, 16, 15
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, 0
        slice_.PixelData = rng.integers(-100, 300, SHAPE[1:], np.int16).tobytes()
        slice_.save_as(folder / f"{(z * 5) % 7}.dcm", enforce_file_format=True)
    return folder


def cohort_of(folder: Path, out: Path, **options: object) -> Cohort:
    """The series of `folder`, each with one voxel marked as GTV."""
    source = open_dicom(str(folder), id_key=KEY, **options)  # type: ignore[arg-type]
    cohort = Cohort.create(
        out, grid=None, dims=source.dims, channels=source.channels, dtype="int16", lesions=("GTV", "node")
    )
    mask = np.zeros(SHAPE, bool)
    mask[MARKED] = True
    cases = [source.read(key) for key in source.listing()]
    cohort.append([replace(case, masks={"GTV": case.geometry.apply_mask(mask)}) for case in cases])
    return cohort


def exported(cohort: Cohort, folder: Path, file: Path) -> Path:
    content = content_of(cohort, series=find_series(cohort, range(len(cohort)), str(folder), KEY))
    (written,) = write_dicom_seg(cohort, 0, file, content)
    return written


def marked_places(segmentation: highdicom.seg.Segmentation, segment: int) -> np.ndarray:
    """LPS mm of the voxels of a segment."""
    volume = segmentation.get_volume(segment_numbers=[segment])
    indices = np.argwhere(volume.array.reshape(volume.spatial_shape))
    return volume.map_indices_to_reference(indices)


def test_highdicom_finds_the_marked_voxel_where_its_slice_says(tmp_path: Path):
    folder = write_slices(tmp_path / "dicom")
    file = exported(cohort_of(folder, tmp_path / "cohort"), folder, tmp_path / "seg.dcm")
    z, y, x = MARKED
    (slice_,) = [one for one in map(pydicom.dcmread, folder.iterdir()) if one.InstanceNumber == z + 1]
    across, down = np.array(slice_.ImageOrientationPatient).reshape(2, 3)
    expected = np.array(slice_.ImagePositionPatient) + 0.8 * x * across + 1.5 * y * down
    np.testing.assert_allclose(marked_places(highdicom.seg.segread(file), 1), [expected], atol=1e-4)


def test_pydicom_reads_a_binary_segment_a_lesion_class_that_refers_to_the_slice(tmp_path: Path):
    folder = write_slices(tmp_path / "dicom")
    read = pydicom.dcmread(exported(cohort_of(folder, tmp_path / "cohort"), folder, tmp_path / "seg.dcm"))
    assert (read.Modality, read.SegmentationType, read.PatientID) == ("SEG", "BINARY", "P0")
    assert [segment.SegmentLabel for segment in read.SegmentSequence] == ["GTV", "node"]
    (slice_,) = [one for one in map(pydicom.dcmread, folder.iterdir()) if one.InstanceNumber == MARKED[0] + 1]
    frame = read.PerFrameFunctionalGroupsSequence[0]
    referred = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
    assert referred == slice_.SOPInstanceUID
    assert np.argwhere(read.pixel_array.reshape(-1, *SHAPE[1:])[0]).tolist() == [list(MARKED[1:])]


def test_a_mask_on_a_coarser_grid_covers_the_source_voxels_whose_centres_it_holds(tmp_path: Path):
    folder = write_slices(tmp_path / "dicom")
    cohort = cohort_of(folder, tmp_path / "cohort", spacing=(3.0, 2.5, 1.6))
    found = highdicom.seg.segread(exported(cohort, folder, tmp_path / "seg.dcm"))
    expected = cohort.geometry(0).mask_to_source(cohort.masks(0)[0]).sum()
    assert len(marked_places(found, 1)) == expected > 1


def test_the_same_masks_give_the_same_instance(tmp_path: Path):
    folder = write_slices(tmp_path / "dicom")
    cohort = cohort_of(folder, tmp_path / "cohort")
    uids = {pydicom.dcmread(exported(cohort, folder, tmp_path / f"{number}.dcm")).SOPInstanceUID for number in range(2)}
    assert len(uids) == 1


def test_series_are_found_by_their_bytes_where_the_key_is_another(tmp_path: Path):
    for number in range(2):
        write_slices(tmp_path / "dicom" / str(number), number)
    cohort = cohort_of(tmp_path / "dicom", tmp_path / "cohort")
    by_id = find_series(cohort, [0, 1], str(tmp_path / "dicom"), KEY)
    assert by_id == find_series(cohort, [0, 1], str(tmp_path / "dicom"), b"another key")
    assert [len(files) for files in by_id.values()] == [6, 6]
    assert {files[0].parent.name for files in by_id.values()} == {"0", "1"}


def test_a_case_without_masks_has_no_file(tmp_path: Path):
    folder = write_slices(tmp_path / "dicom")
    source = open_dicom(str(folder), id_key=KEY)
    cohort = Cohort.create(
        tmp_path / "c", grid=None, dims=source.dims, channels=source.channels, dtype="int16", lesions=("GTV",)
    )
    cohort.append([replace(source.read(source.listing()[0]), masks=None)])
    assert write_dicom_seg(cohort, 0, tmp_path / "seg.dcm", content_of(cohort)) == []
    assert not (tmp_path / "seg.dcm").exists()


def test_a_series_that_lost_a_slice_is_refused(tmp_path: Path):
    folder = write_slices(tmp_path / "dicom")
    cohort = cohort_of(folder, tmp_path / "cohort")
    content = content_of(cohort, series={0: tuple(sorted(folder.iterdir()))[1:]})
    with pytest.raises(CohortError, match="other slices"):
        write_dicom_seg(cohort, 0, tmp_path / "seg.dcm", content)


def test_a_case_whose_series_is_not_there_is_refused(tmp_path: Path):
    cohort = cohort_of(write_slices(tmp_path / "dicom"), tmp_path / "cohort")
    with pytest.raises(CohortError, match="has no series"):
        write_dicom_seg(cohort, 0, tmp_path / "seg.dcm", content_of(cohort))


@pytest.mark.skipif(not (REAL_IMAGES / "pet_sts_wholebody_dicom").is_dir(), reason="needs the real PET series")
def test_masks_of_a_real_pet_series_come_back_from_its_segmentation(tmp_path: Path):
    folder = REAL_IMAGES / "pet_sts_wholebody_dicom"
    source = open_dicom(str(folder), id_key=KEY)
    cohort = Cohort.create(
        tmp_path / "c", grid=None, dims=source.dims, channels=source.channels, dtype="float32", lesions=source.lesions
    )
    cohort.append([source.read(key) for key in source.listing()])
    read = highdicom.seg.segread(exported(cohort, folder, tmp_path / "seg.dcm"))
    assert read.number_of_segments == len(cohort.lesions)
    slices = sorted(map(pydicom.dcmread, (folder / "image").iterdir()), key=lambda one: one.ImagePositionPatient[2])
    planes = {str(one.SOPInstanceUID): z for z, one in enumerate(slices)}
    found = np.zeros((len(cohort.lesions), *cohort.geometry(0).source.shape), bool)
    for frame, pixels in zip(read.PerFrameFunctionalGroupsSequence, read.pixel_array, strict=True):
        z = planes[frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == slices[z].ImagePositionPatient
        found[frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber - 1, z] = pixels
    for mask, expected in zip(found, cohort.masks(0), strict=True):
        np.testing.assert_array_equal(mask, cohort.geometry(0).mask_to_source(expected))
        assert mask.sum() > 1000
