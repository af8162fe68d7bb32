"""Contours and segmentations on the grid of the series that they were drawn on."""

import highdicom
import numpy as np
import pytest
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from matplotlib.path import Path as Outline
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from storage import Rejected, SourceError
from storage.sources.dicom.rtstruct import inside

GRID = dict(shape=(20, 24), spacing=(1.0, 1.0), origin=(0.0, 0.0, 0.0))  # noqa: C408  # voxel (z, y, x) lies at (x, y, 3z) mm


def _square(low, high):
    return [(low, low), (high, low), (high, high), (low, high)]


def _structures(slices, regions, path, *, refer=True, frame="1.2.3.4", kind="CLOSED_PLANAR"):
    """An RTSTRUCT of `regions`: name to contours, each a list of (x, y, z) mm."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    file.Modality, file.SeriesInstanceUID, file.PatientID = "RTSTRUCT", generate_uid(), slices[0].PatientID
    reference, study, series = Dataset(), Dataset(), Dataset()
    reference.FrameOfReferenceUID = frame
    if refer:
        series.SeriesInstanceUID = slices[0].SeriesInstanceUID
        study.RTReferencedSeriesSequence = [series]
        reference.RTReferencedStudySequence = [study]
    file.ReferencedFrameOfReferenceSequence = [reference]
    file.StructureSetROISequence, file.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(regions.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for corners in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(corners)
            contour.ContourData = [f"{value:.6g}" for corner in corners for value in corner]
            drawn.ContourSequence.append(contour)
        file.StructureSetROISequence.append(roi)
        file.ROIContourSequence.append(drawn)
    path.parent.mkdir(exist_ok=True)
    file.save_as(path, enforce_file_format=True)


def _at(corners, z):
    return [(x, y, z) for x, y in corners]


def test_voxel_belongs_to_a_contour_that_goes_around_its_centre():
    random = np.random.default_rng(0)
    for corners in (3, 7, 40):
        polygon = random.uniform(-3, 25, (corners, 2))  # crosses itself and leaves the picture
        centres = np.stack(np.meshgrid(np.arange(24), np.arange(20)), -1).reshape(-1, 2)
        crossed = sum(_crossings_to_the_left(polygon, centres, edge) for edge in range(corners))
        np.testing.assert_array_equal(inside([polygon], (20, 24)).ravel(), crossed % 2 == 1)


def _crossings_to_the_left(polygon, centres, edge):
    """Whether `edge` is crossed by the ray from each centre towards smaller x."""
    (x0, y0), (x1, y1) = polygon[edge], polygon[(edge + 1) % len(polygon)]
    x, y = centres.T
    spans = (y0 <= y) != (y1 <= y)
    return spans & ((x1 - x0) * (y - y0) / (y1 - y0) + x0 <= x)


def test_convex_contour_is_as_matplotlib_fills_it():
    turn = np.linspace(0, 2 * np.pi, 17)[:-1]
    polygon = np.column_stack([11.3 + 7.1 * np.cos(turn), 9.7 + 6.2 * np.sin(turn)])
    centres = np.stack(np.meshgrid(np.arange(24), np.arange(20)), -1).reshape(-1, 2)
    np.testing.assert_array_equal(inside([polygon], (20, 24)).ravel(), Outline(polygon).contains_points(centres))


def test_inner_contour_is_a_hole(write_series, read_only, tmp_path):
    slices = write_series("CT", **GRID)
    ring = [_at(_square(2.5, 12.5), 3), _at(_square(5.5, 9.5), 3)]
    _structures(slices, {"tumour": ring}, tmp_path / "dicom" / "rt.dcm")
    expected = np.zeros((4, 20, 24), bool)
    expected[1, 3:13, 3:13] = True
    expected[1, 6:10, 6:10] = False
    np.testing.assert_array_equal(read_only().masks["tumour"], expected)


def test_keyhole_is_a_hole_too(write_series, read_only, tmp_path):
    slices = write_series("CT", **GRID)
    outer, inner = _square(2.5, 12.5), _square(5.5, 9.5)
    keyhole = [*outer, outer[0], *inner[::-1], inner[-1]]
    _structures(slices, {"tumour": [_at(keyhole, 6)]}, tmp_path / "dicom" / "rt.dcm")
    mask = read_only().masks["tumour"]
    assert mask.sum() == 100 - 16
    assert mask[2].sum() == mask.sum()


def test_contours_of_an_oblique_series_lie_in_its_planes(write_series, read_only, tmp_path):
    orientation = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0)
    slices = write_series("CT", **GRID, orientation=orientation)
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    corners = [x * row + y * column + (0, 0, 3) for x, y in _square(2.5, 6.5)]
    _structures(slices, {"tumour": [corners]}, tmp_path / "dicom" / "rt.dcm")
    case = read_only()
    source = case.geometry.mask_to_source(case.masks["tumour"])
    assert np.argwhere(source).min(axis=0).tolist() == [1, 3, 3]
    assert np.argwhere(source).max(axis=0).tolist() == [1, 6, 6]


def test_regions_are_lesion_classes_and_can_be_chosen(write_series, opened, read_only, tmp_path):
    slices = write_series("CT", **GRID)
    contour = [_at(_square(2.5, 6.5), 0)]
    _structures(slices, {"oedema": contour, "Tumour": contour, "none": []}, tmp_path / "dicom" / "rt.dcm")
    assert opened().lesions == ("Tumour", "none", "oedema")
    assert set(read_only().masks) == {"Tumour", "oedema"}
    assert opened(lesions=["oedema"]).lesions == ("oedema",)
    assert set(read_only(lesions=["oedema"]).masks) == {"oedema"}
    with pytest.raises(SourceError, match="has a region 'tumor'; there is: Tumour, none, oedema"):
        opened(lesions=["tumor"])


def test_series_without_masks_was_not_annotated(write_series, read_only, opened):
    write_series("CT")
    assert read_only().masks is None
    assert opened().lesions == ()


def test_masks_in_a_folder_of_their_own(write_series, read_only, tmp_path):
    slices = write_series("CT", **GRID)
    _structures(slices, {"tumour": [_at(_square(2.5, 6.5), 0)]}, tmp_path / "masks" / "rt.dcm")
    assert read_only().masks is None
    assert read_only(masks=tmp_path / "masks").masks["tumour"].sum() == 16


def test_structures_of_the_same_coordinates_belong_to_the_series_unless_they_name_another(
    write_series, opened, tmp_path
):
    contour = {"tumour": [_at(_square(2.5, 6.5), 0)]}
    slices = write_series("CT", **GRID, name="ct")
    write_series("PT", **GRID, name="pet")
    _structures(slices, contour, tmp_path / "dicom" / "rt.dcm")
    source = opened(modality="PT")
    assert source.read(source.listing()[0]).masks is None
    _structures(slices, contour, tmp_path / "dicom" / "rt.dcm", refer=False)
    source = opened(modality="PT")
    assert source.read(source.listing()[0]).masks["tumour"].sum() == 16
    _structures(slices, contour, tmp_path / "dicom" / "rt.dcm", refer=False, frame="9.9")
    source = opened(modality="PT")
    assert source.read(source.listing()[0]).masks is None


def test_stamp_changes_with_the_mask(write_series, opened, tmp_path):
    slices = write_series("CT", **GRID)
    _structures(slices, {"tumour": [_at(_square(2.5, 6.5), 0)]}, tmp_path / "dicom" / "rt.dcm")
    (before,) = opened().listing()
    _structures(slices, {"tumour": [_at(_square(2.5, 6.5), 0)] * 2}, tmp_path / "dicom" / "rt.dcm")
    (after,) = opened().listing()
    assert before.stamp != after.stamp
    assert opened().sha256(before) == opened().sha256(after)


@pytest.mark.parametrize(
    ("corners", "reason"),
    [
        (_at(_square(2.5, 6.5), 20), "a contour of 'tumour' at 20.00 mm lies on no slice: the nearest is 11.00 mm off"),
        ([(2, 2, 0), (6, 2, 0), (6, 2, 9)], "spans 9.0 mm across slices"),
    ],
)
def test_contour_off_the_slices_is_rejected(write_series, read_only, tmp_path, corners, reason):
    slices = write_series("CT", **GRID)
    _structures(slices, {"tumour": [corners]}, tmp_path / "dicom" / "rt.dcm")
    assert reason in read_only().reason


def test_contours_of_a_coarser_series_are_rejected(write_series, read_only, tmp_path):
    slices = write_series("CT", **GRID, count=8)
    contours = [_at(_square(2.5, 6.5), z) for z in (0, 6, 12)]
    _structures(slices, {"tumour": contours}, tmp_path / "dicom" / "rt.dcm")
    assert "contours of 'tumour' are 6.00 mm apart, the slices 3.00 mm" in read_only().reason


def test_points_enclose_nothing(write_series, read_only, tmp_path):
    slices = write_series("CT", **GRID)
    _structures(slices, {"mark": [[(2, 2, 0)]]}, tmp_path / "dicom" / "rt.dcm", kind="POINT")
    assert read_only().masks == {}


def _segmentation(folder, path, masks, kind="BINARY"):
    """A SEG of highdicom; `masks` name to (z, y, x)."""
    slices = sorted((dcmread(file) for file in folder.iterdir()), key=lambda file: file.ImagePositionPatient[2])
    described = [
        SegmentDescription(
            number,
            name,
            codes.SCT.MorphologicallyAbnormalStructure,
            codes.SCT.Neoplasm,
            SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(masks, start=1)
    ]
    segmentation = Segmentation(
        slices,
        np.stack(list(masks.values()), -1),
        kind,
        described,
        generate_uid(),
        1,
        generate_uid(),
        1,
        "A",
        "B",
        "C",
        "D",
    )
    segmentation.save_as(path)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_segments_of_highdicom_come_back(write_series, read_only, opened, tmp_path, kind):
    write_series("CT", **GRID)
    masks = {name: np.zeros((4, 20, 24), bool) for name in ("tumour", "node", "nothing")}
    masks["tumour"][1:3, 4:9, 5:17] = True
    masks["node"][2:4, 8:12, 2:6] = True
    shown = masks if kind == "BINARY" else {name: mask.astype(float) * 0.7 for name, mask in masks.items()}
    _segmentation(tmp_path / "dicom", tmp_path / "dicom" / "seg.dcm", shown, kind)
    found = read_only().masks
    assert set(found) == {"tumour", "node"}
    for name in found:
        np.testing.assert_array_equal(found[name], masks[name])
    assert opened().lesions == ("node", "nothing", "tumour")


def test_segments_on_another_grid_are_rejected(write_series, read_only, tmp_path):
    write_series("CT", **GRID)
    _segmentation(tmp_path / "dicom", tmp_path / "seg.dcm", {"tumour": np.ones((4, 20, 24), bool)})
    segmentation = highdicom.seg.segread(tmp_path / "seg.dcm")
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [x + 0.5, y, z]
    segmentation.save_as(tmp_path / "dicom" / "seg.dcm")
    case = read_only()
    assert isinstance(case, Rejected)
    assert "its SEG: instance 1, frame 1 of the SEG does not lie on the grid" in case.reason


def test_cut_off_mask_is_named(write_series, read_only, tmp_path):
    write_series("CT", **GRID)
    path = tmp_path / "dicom" / "seg.dcm"
    _segmentation(tmp_path / "dicom", path, {"tumour": np.ones((4, 20, 24), bool)})
    path.write_bytes(path.read_bytes()[:-60])
    assert "its SEG: instance 1 is cut off" in read_only().reason
