"""SUV by hand: activity · weight / decayed dose, for every way a header may say when."""

import numpy as np
import pytest

from storage import Rejected
from storage.sources.dicom.suv import mean_rate_s, suv_factor

SLOPE, WEIGHT_G, DOSE, HALF_LIFE = 2.5, 70_000.0, 3.5e8, 6588.0  # as in conftest
HOUR = 3600.0


def _factor(decayed_s):
    return WEIGHT_G / (DOSE * 2 ** (-decayed_s / HALF_LIFE))


def _ratios(case, slices, slope=SLOPE):
    """SUV over Bq/ml, slice by slice."""
    assert not isinstance(case, Rejected), case
    return [float(np.max(plane)) / (slope * slice_.pixel_array.max()) for plane, slice_ in zip(case.image[0], slices)]  # noqa: B905


def test_after_one_half_life_half_of_the_dose_is_left():
    assert suv_factor(70, 1e8, HALF_LIFE, HALF_LIFE) == pytest.approx(70_000 / 0.5e8)


def test_mean_rate_of_a_short_frame_is_at_its_middle_and_of_a_long_one_before():
    assert mean_rate_s(1.0, HALF_LIFE) == pytest.approx(0.5, rel=1e-3)
    assert mean_rate_s(2 * HALF_LIFE, HALF_LIFE) < HALF_LIFE
    times = np.linspace(0, HALF_LIFE, 100_001)
    mean = np.mean(2 ** (-times / HALF_LIFE))
    assert 2 ** (-mean_rate_s(HALF_LIFE, HALF_LIFE) / HALF_LIFE) == pytest.approx(mean, rel=1e-4)


def test_start_decays_from_injection_to_series_time(write_series, read_only):
    slices = write_series("PT")
    case = read_only()
    assert _ratios(case, slices) == pytest.approx([_factor(HOUR)] * 4)
    assert case.image.dtype == np.float32
    assert case.acquisition["uptake_minutes"] == 60


def test_admin_does_not_decay(write_series, read_only):
    slices = write_series("PT", DecayCorrection="ADMIN")
    assert _ratios(read_only(), slices) == pytest.approx([_factor(0)] * 4)


def test_none_decays_each_slice_to_its_own_frame(write_series, read_only):
    def later(number, slice_):
        slice_.AcquisitionTime, slice_.ActualFrameDuration = f"11{10 * number:02d}00", 240_000

    slices = write_series("PT", DecayCorrection="NONE", change=later)
    expected = [_factor(HOUR + 600 * number + mean_rate_s(240, HALF_LIFE)) for number in range(4)]
    assert _ratios(read_only(), slices) == pytest.approx(expected)


def test_series_time_after_the_scan_is_not_believed(write_series, read_only):
    """QIBA: post-processing rewrites it; the first bed position's acquisition is the start."""

    def beds(number, slice_):
        slice_.AcquisitionTime = "110500" if number < 2 else "110000"

    slices = write_series("PT", SeriesTime="153000", change=beds)
    assert _ratios(read_only(), slices) == pytest.approx([_factor(HOUR)] * 4)


def test_series_time_before_the_injection_is_not_believed(write_series, read_only):
    slices = write_series("PT", SeriesTime="093000")
    assert _ratios(read_only(), slices) == pytest.approx([_factor(HOUR)] * 4)


def test_ge_scan_time_stands_in_for_a_rewritten_series_time(write_series, read_only):
    def ge(number, slice_):
        slice_.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20200312103000")

    slices = write_series("PT", SeriesTime="153000", change=ge)
    assert _ratios(read_only(), slices) == pytest.approx([_factor(HOUR / 2)] * 4)


def _inject(**elements):
    def change(number, slice_):
        item = slice_.RadiopharmaceuticalInformationSequence[0]
        for keyword, value in elements.items():
            setattr(item, keyword, value)
            if value is None:
                delattr(item, keyword)

    return change


def test_injection_over_midnight_was_the_evening_before(write_series, read_only):
    change = _inject(RadiopharmaceuticalStartTime="233000")
    slices = write_series("PT", SeriesTime="003000", AcquisitionTime="003000", change=change)
    assert _ratios(read_only(), slices) == pytest.approx([_factor(HOUR)] * 4)


def test_start_with_its_date_goes_before_the_time_alone(write_series, read_only):
    change = _inject(RadiopharmaceuticalStartDateTime="20200311233000.00", RadiopharmaceuticalStartTime="101500")
    slices = write_series("PT", SeriesTime="010000", AcquisitionTime="010000", change=change)
    assert _ratios(read_only(), slices) == pytest.approx([_factor(1.5 * HOUR)] * 4)


def test_times_suffice_where_dates_were_removed(write_series, read_only):
    slices = write_series("PT", SeriesDate=None, AcquisitionDate=None, StudyDate="")
    case = read_only()
    assert _ratios(case, slices) == pytest.approx([_factor(HOUR)] * 4)
    assert "scan_day" not in case.acquisition


def test_gml_is_suv_already(write_series, read_only):
    slices = write_series("PT", Units="GML", PatientWeight=None)
    assert _ratios(read_only(), slices) == pytest.approx([1] * 4)


@pytest.mark.parametrize(("element", "value", "expected"), [(0x00, 0.002, 0.002), (0x09, 3.0, 3.0 * _factor(HOUR))])
def test_philips_counts_use_its_private_factors(write_series, read_only, element, value, expected):
    def philips(number, slice_):
        block = slice_.private_block(0x7053, "Philips PET Private Group", create=True)
        block.add_new(element, "DS", str(value))

    slices = write_series("PT", Units="CNTS", change=philips)
    assert _ratios(read_only(), slices) == pytest.approx([expected] * 4)


def test_philips_factors_without_a_type_are_read_too(write_series, read_only):
    def philips(number, slice_):
        slice_.private_block(0x7053, "Philips PET Private Group", create=True).add_new(0x00, "UN", b"0.002 ")

    slices = write_series("PT", Units="CNTS", change=philips)
    assert _ratios(read_only(), slices) == pytest.approx([0.002] * 4)


def test_raw_units_need_nothing(write_series, read_only):
    slices = write_series("PT", PatientWeight=None, Units="CNTS")
    assert _ratios(read_only(units="raw"), slices) == pytest.approx([1] * 4)


def test_enhanced_style_correction_moment_is_used(write_series, read_only):
    slices = write_series(
        "PT", DecayCorrection=None, DecayCorrected="YES", DecayCorrectionDateTime="20200312103000", SeriesTime="153000"
    )
    assert _ratios(read_only(), slices) == pytest.approx([_factor(HOUR / 2)] * 4)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"PatientWeight": None}, "Patient's Weight (0010,1030) is missing"),
        ({"PatientWeight": 0}, "Patient's Weight (0010,1030) is 0 kg"),
        ({"PatientWeight": 70_000}, "Patient's Weight (0010,1030) is 70000 kg"),
        ({"Units": None}, "Units (0054,1001) is missing"),
        ({"Units": "PROPCPS"}, "Units (0054,1001) is 'PROPCPS'"),
        ({"Units": "CNTS"}, "Philips' factors (7053,xx00) and (7053,xx09) are missing"),
        ({"DecayCorrection": None}, "Decay Correction (0054,1102) is missing"),
        ({"DecayCorrection": "SOME"}, "Decay Correction (0054,1102) is 'SOME'"),
        ({"SeriesTime": None, "AcquisitionTime": None}, "Series Time (0008,0031) is missing"),
        ({"DecayCorrection": "NONE", "AcquisitionTime": None}, "Acquisition Time (0008,0032) is missing"),
        ({"AcquisitionTime": "soon"}, "Acquisition Time (0008,0032) is no time"),
        ({"CorrectedImage": ["DECY"]}, "Corrected Image (0028,0051) has no ATTN"),
    ],
)
def test_what_is_missing_or_wrong_is_named_with_its_tag(write_series, read_only, elements, reason):
    write_series("PT", **elements)
    case = read_only()
    assert isinstance(case, Rejected)
    assert reason in case.reason


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"RadionuclideTotalDose": None}, "Radionuclide Total Dose (0018,1074) is missing"),
        ({"RadionuclideTotalDose": 350}, "Radionuclide Total Dose (0018,1074) is 350 Bq: written in MBq?"),
        ({"RadionuclideTotalDose": -1}, "Radionuclide Total Dose (0018,1074) is -1 Bq"),
        ({"RadionuclideHalfLife": None}, "Radionuclide Half Life (0018,1075) is missing"),
        ({"RadionuclideHalfLife": 0}, "Radionuclide Half Life (0018,1075) is 0 s"),
        ({"RadiopharmaceuticalStartTime": None}, "Radiopharmaceutical Start Time (0018,1072) is missing"),
        ({"RadiopharmaceuticalStartTime": "111000"}, "Start Time (0018,1072) is 10 minutes after the scan"),
        (
            {"RadiopharmaceuticalStartDateTime": "20200301100000"},
            "Start DateTime (0018,1078) is 15900 minutes before the scan",
        ),
        ({"RadionuclideHalfLife": 282_276}, "Start DateTime (0018,1078) is missing, and a time alone tells no day"),
    ],
)
def test_what_is_missing_or_wrong_in_the_injection_is_named_with_its_tag(write_series, read_only, elements, reason):
    write_series("PT", change=_inject(**elements))
    case = read_only()
    assert isinstance(case, Rejected)
    assert reason in case.reason


def test_slices_that_disagree_about_the_patient_are_rejected(write_series, read_only):
    write_series("PT", change=lambda number, slice_: setattr(slice_, "PatientWeight", 70 + number // 3))
    assert "differ between its slices" in read_only().reason
