"""Stored values and what they mean, compressed or not, one slice a file or many."""

import tracemalloc
from copy import deepcopy

import highdicom
import numpy as np
import pytest
import SimpleITK
from pydicom import Dataset, dcmread
from pydicom.pixels.decoders import JPEGLosslessSV1Decoder
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from storage import Rejected


def test_ct_is_in_hounsfield_units(write_series, read_only):
    slices = write_series("CT")
    image = read_only().image
    assert image.dtype == np.int16
    np.testing.assert_array_equal(image[0], [slice_.pixel_array - 1024 for slice_ in slices])


def test_ct_that_does_not_fit_is_float32(write_series, read_only):
    slices = write_series("CT", RescaleSlope=0.5)
    image = read_only().image
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[0], [slice_.pixel_array * 0.5 - 1024 for slice_ in slices])


def test_each_slice_has_its_own_rescale(write_series, read_only):
    slices = write_series("PT", change=lambda number, slice_: setattr(slice_, "RescaleSlope", 1.5 + number))
    expected = [slice_.pixel_array * (1.5 + number) for number, slice_ in enumerate(slices)]
    np.testing.assert_allclose(read_only(units="raw").image[0], expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint16", "int16"])
def test_mr_is_kept_as_stored(write_series, read_only, dtype):
    slices = write_series("MR", dtype=dtype)
    image = read_only().image
    assert image.dtype == dtype
    np.testing.assert_array_equal(image[0], [slice_.pixel_array for slice_ in slices])


def test_rescaled_mr_is_float32(write_series, read_only):
    slices = write_series("MR", RescaleSlope=0.25, RescaleIntercept=3)
    np.testing.assert_array_equal(read_only().image[0], [slice_.pixel_array * 0.25 + 3 for slice_ in slices])


def test_monochrome1_says_how_to_show_values_and_does_not_change_them(write_series, read_only):
    slices = write_series("MR", PhotometricInterpretation="MONOCHROME1")
    case = read_only()
    np.testing.assert_array_equal(case.image[0], [slice_.pixel_array for slice_ in slices])
    assert case.acquisition["PhotometricInterpretation"] == "MONOCHROME1"


def test_signed_values_of_12_bits_and_overlays_above_them_are_understood(write_series, read_only):
    stored = np.arange(-15, 15, dtype=np.int16).reshape(5, 6)

    def pack(number, slice_):
        slice_.BitsStored, slice_.HighBit = 12, 11
        slice_.PixelData = ((stored & 0x0FFF) | 0x4000).astype(np.int16).tobytes()

    write_series("MR", change=pack)
    np.testing.assert_array_equal(read_only().image[0, 0], stored)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_series_is_the_same_image(write_series, read_only, syntax):
    write_series("CT", dtype="uint16", shape=(32, 32))
    plain = read_only()
    write_series("CT", dtype="uint16", shape=(32, 32), change=lambda number, slice_: slice_.compress(syntax))
    np.testing.assert_array_equal(read_only().image, plain.image)


def test_jpeg_lossless_of_another_encoder_is_the_same_image(write_series, read_only, tmp_path):
    """GDCM's encoder, through SimpleITK."""

    def encode(number, slice_):
        path = str(tmp_path / "jpeg.dcm")
        writer = SimpleITK.ImageFileWriter()
        writer.SetFileName(path)
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.Execute(SimpleITK.GetImageFromArray(slice_.pixel_array[None]))
        encoded = dcmread(path)
        assert encoded.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
        slice_.file_meta.TransferSyntaxUID = encoded.file_meta.TransferSyntaxUID
        slice_.PixelData = encoded.PixelData
        slice_["PixelData"].is_undefined_length = True
        slice_["PixelData"].VR = "OB"

    write_series("CT", dtype="uint16", shape=(32, 32))
    plain = read_only()
    write_series("CT", dtype="uint16", shape=(32, 32), change=encode)
    np.testing.assert_array_equal(read_only().image, plain.image)


def test_missing_decoder_names_the_package(write_series, read_only, monkeypatch):
    write_series("CT", dtype="uint16", change=lambda number, slice_: slice_.compress(RLELossless))
    monkeypatch.setattr(type(JPEGLosslessSV1Decoder), "is_available", False)
    assert "needs a decoder: pip install 'lesionflow[jpeg]'" in read_only().reason


def test_ct_without_rescale_is_rejected(write_series, read_only):
    write_series("CT", RescaleSlope=None)
    assert "Rescale Slope (0028,1053) is missing" in read_only().reason


def test_ct_of_another_quantity_is_rejected(write_series, read_only):
    write_series("CT", RescaleType="Z_EFF")
    assert "'Z_EFF', not in Hounsfield units" in read_only().reason


def test_colour_pictures_are_rejected(write_series, read_only):
    write_series("MR", SamplesPerPixel=3)
    assert "a colour picture" in read_only().reason


def test_text_burned_into_pixels_is_rejected(write_series, read_only):
    write_series("MR", change=lambda number, slice_: setattr(slice_, "BurnedInAnnotation", "YES" if number else "NO"))
    assert "Burned In Annotation (0028,0301) is YES" in read_only().reason


@pytest.mark.parametrize("compressed", [False, True])
def test_declared_size_beyond_the_file_is_refused_before_it_is_allocated(write_series, read_only, compressed):
    def inflate(number, slice_):
        if compressed:
            slice_.compress(RLELossless)
        slice_.Rows = slice_.Columns = 65535

    write_series("MR", dtype="uint16", change=inflate)
    tracemalloc.start()
    case = read_only()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(case, Rejected)
    assert peak < 20e6


def _item(**elements):
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _enhanced(slices):
    """One file of all `slices`, the last frame first."""
    whole = deepcopy(slices[0])
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    orientation, spacing = whole.ImageOrientationPatient, whole.PixelSpacing
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        delattr(whole, keyword)
    whole.SharedFunctionalGroupsSequence = [
        _item(
            PlaneOrientationSequence=[_item(ImageOrientationPatient=orientation)],
            PixelMeasuresSequence=[_item(PixelSpacing=spacing, SliceThickness=3)],
            CTXRayDetailsSequence=[_item(KVP=80.0)],
        )
    ]
    whole.PerFrameFunctionalGroupsSequence = Sequence(
        _item(
            PlanePositionSequence=[_item(ImagePositionPatient=slice_.ImagePositionPatient)],
            PixelValueTransformationSequence=[_item(RescaleSlope=1 + number, RescaleIntercept=-1024, RescaleType="HU")],
        )
        for number, slice_ in reversed(list(enumerate(slices)))
    )
    whole.NumberOfFrames = len(slices)
    whole.PixelData = b"".join(slice_.PixelData for slice_ in reversed(slices))
    return whole


def test_enhanced_image_is_the_stack_of_its_frames(write_series, read_only, tmp_path):
    slices = write_series("CT")
    for path in (tmp_path / "dicom").iterdir():
        path.unlink()
    whole = _enhanced(slices)
    del whole.KVP
    whole.save_as(tmp_path / "dicom" / "all.dcm", enforce_file_format=True)
    case = read_only()
    np.testing.assert_array_equal(case.image[0], [s.pixel_array * (1 + n) - 1024 for n, s in enumerate(slices)])
    assert np.array(case.geometry.source.affine)[:3, 3].tolist() == [10, 20, -30]
    assert case.acquisition["KVP"] == 80


def test_enhanced_image_that_highdicom_converted_is_the_same_image(write_series, read_only, tmp_path):
    slices = write_series("CT", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], PatientPosition="HFS")
    plain = read_only()
    slices = [dcmread(path) for path in (tmp_path / "dicom").iterdir()]
    enhanced = highdicom.legacy.LegacyConvertedEnhancedCTImage(slices, generate_uid(), 2, generate_uid(), 1)
    for path in (tmp_path / "dicom").iterdir():
        path.unlink()
    enhanced.save_as(tmp_path / "dicom" / "all.dcm")
    case = read_only()
    np.testing.assert_array_equal(case.image, plain.image)
    assert case.geometry == plain.geometry


def test_frames_without_a_place_are_rejected(write_series, read_only, tmp_path):
    whole = _enhanced(write_series("CT"))
    for path in (tmp_path / "dicom").iterdir():
        path.unlink()
    del whole.PerFrameFunctionalGroupsSequence
    whole.save_as(tmp_path / "dicom" / "all.dcm", enforce_file_format=True)
    assert "4 frames and does not say where each lies" in read_only().reason
