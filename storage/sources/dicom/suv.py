"""PET in body-weight SUV: activity concentration over what it would be, had the dose spread evenly over the body.

SUVbw = activity [Bq/ml] · weight [g] / (dose [Bq] · 2^(−Δt / T½))                                               (1)

Δt is the time from injection to the moment that the activity is corrected to. QIBA's vendor-neutral rules
(FDG-PET/CT profile, appendix G) say which moment that is; 1 ml of body is taken to weigh 1 g.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from pydicom import Dataset
from pydicom.valuerep import DA, DT, TM

from storage.sources.dicom.files import UnusableError, items, missing, number, tag, text

DAY_S = 86400.0
LEAST_DOSE_BQ = 1e5  # 0.1 MBq; a patient gets some 100 MBq, a mouse some 5: less was written in MBq
MOST_WEIGHT_KG = 700.0
MOST_HALF_LIVES = 10.0  # nobody is scanned when a thousandth is left
MIDNIGHT_H = 12.0  # a start "after" the scan was the evening before if that makes no longer uptake than this
ANY_DAY = date(2000, 1, 1)  # where dates were removed and times kept
PHILIPS, GE = "Philips PET Private Group", "GEMS_PETD_01"
SUV_FACTOR, ACTIVITY_FACTOR = 0x00, 0x09  # (7053,xx00) and (7053,xx09)
OF_A_SLICE = ("acquired", "frame_s", "philips_suv", "philips_activity", "series", "ge_scan")
REMEDY = "; --units raw keeps the values as they are"


@dataclass(frozen=True)
class PetHeader:
    """What (1) needs of a slice; moments are local.

    `corrected_to` is where the decay correction of an enhanced image leads, `frame_s` how long the slice was counted.
    """

    units: str
    decay: str
    weight_kg: float | None
    dose_bq: float | None
    half_life_s: float | None
    injected: datetime | None
    injection_has_date: bool
    series: datetime | None
    acquired: datetime | None
    corrected_to: datetime | None = None
    ge_scan: datetime | None = None
    frame_s: float | None = None
    philips_suv: float | None = None
    philips_activity: float | None = None
    is_attenuation_corrected: bool = True


def suv_factor(weight_kg: float, dose_bq: float, half_life_s: float, decayed_s: float) -> float:
    """Equation (1) for an activity of 1 Bq/ml."""
    return float(weight_kg * 1000.0 / (dose_bq * 2.0 ** (-decayed_s / half_life_s)))


def mean_rate_s(frame_s: float, half_life_s: float) -> float:
    """When, after the start of a frame, the count rate equals its mean: ln(λT / (1 − e^(−λT))) / λ."""
    decays = math.log(2.0) / half_life_s * frame_s
    return 0.0 if decays < 1e-9 else math.log(decays / -math.expm1(-decays)) * half_life_s / math.log(2.0)


def suv_factors(slices: Sequence[PetHeader]) -> list[float]:
    """What the rescaled values of each slice of a series are multiplied by. UnusableError names what is missing."""
    first = _common(slices)
    if first.units == "GML":
        return [1.0] * len(slices)
    if first.units == "CNTS" and all(one.philips_suv for one in slices):
        return [one.philips_suv or 0.0 for one in slices]
    activity = _activity_factors(slices)
    factors = [_factor(first, seconds) for seconds in _decayed_s(slices)]
    return [a * b for a, b in zip(activity, factors, strict=True)]


def uptake_s(slices: Sequence[PetHeader]) -> float | None:
    """From injection to the start of the scan; None where the header does not tell."""
    try:
        return _since_injection(slices[0], scan_start(slices))
    except UnusableError:
        return None


def pet_header(header: Dataset) -> PetHeader:
    """What a slice says; times that are absent are None, text that is no time is an error that names it."""
    injection = (items(header, "RadiopharmaceuticalInformationSequence") or [Dataset()])[0]
    start, has_date = _injected(injection)
    return PetHeader(
        units=text(header, "Units") or _enhanced_units(header),
        decay=text(header, "DecayCorrection") or _enhanced_decay(header),
        weight_kg=number(header, "PatientWeight"),
        dose_bq=number(injection, "RadionuclideTotalDose"),
        half_life_s=number(injection, "RadionuclideHalfLife"),
        injected=start,
        injection_has_date=has_date,
        series=_moment(header, "SeriesDate", "SeriesTime"),
        acquired=_full_moment(header, "AcquisitionDateTime") or _moment(header, "AcquisitionDate", "AcquisitionTime"),
        corrected_to=_full_moment(header, "DecayCorrectionDateTime"),
        ge_scan=_ge_scan(header),
        frame_s=(number(header, "ActualFrameDuration") or 0.0) / 1000.0,
        philips_suv=_philips(header, SUV_FACTOR),
        philips_activity=_philips(header, ACTIVITY_FACTOR),
        is_attenuation_corrected="ATTN" in (text(header, "CorrectedImage") or "ATTN").split("\\"),
    )


def scan_start(slices: Sequence[PetHeader]) -> datetime:
    """The moment that START corrects to.

    Series Time is that moment, unless it was rewritten when the series was processed: then it is after the first
    acquisition (or before the injection), and GE's private scan time or the first acquisition stands in for it.
    """
    first = slices[0]
    acquired = min((one.acquired for one in slices if one.acquired), default=None)
    if first.corrected_to:
        return first.corrected_to
    if acquired is None:
        if first.series is None:
            raise UnusableError(missing("SeriesTime") + REMEDY)
        return first.series
    if first.series and first.series <= acquired and _follows_injection(first, first.series):
        return first.series
    return first.ge_scan or acquired


def _common(slices: Sequence[PetHeader]) -> PetHeader:
    """The first slice, once all are known to agree in what belongs to the patient and the injection."""
    first = slices[0]
    own: dict[str, Any] = dict.fromkeys(OF_A_SLICE)
    if len({replace(one, **own) for one in slices}) > 1:
        raise UnusableError("weight, dose, half-life, injection, units or decay correction differ between its slices")
    if not first.is_attenuation_corrected:
        raise UnusableError(f"not corrected for attenuation: {tag('CorrectedImage')} has no ATTN{REMEDY}")
    return first


def _activity_factors(slices: Sequence[PetHeader]) -> list[float]:
    """From rescaled values to Bq/ml."""
    units = slices[0].units
    if units == "BQML":
        return [1.0] * len(slices)
    if units == "CNTS":
        if all(one.philips_activity for one in slices):
            return [one.philips_activity or 0.0 for one in slices]
        raise UnusableError(
            f"{tag('Units')} is CNTS, and Philips' factors (7053,xx00) and (7053,xx09) are missing{REMEDY}"
        )
    what = f"{tag('Units')} is '{units}', not BQML, GML or CNTS" if units else missing("Units")
    raise UnusableError(what + REMEDY)


def _decayed_s(slices: Sequence[PetHeader]) -> list[float]:
    """Δt of each slice, by what its decay correction leads to."""
    decay = slices[0].decay
    if decay == "ADMIN":
        return [0.0] * len(slices)
    if decay == "START":
        return [_since_injection(slices[0], scan_start(slices))] * len(slices)
    if decay == "NONE":
        return [
            _since_injection(one, _acquired(one)) + mean_rate_s(one.frame_s or 0.0, _half_life(one)) for one in slices
        ]
    what = f"{tag('DecayCorrection')} is '{decay}', not START, ADMIN or NONE" if decay else missing("DecayCorrection")
    raise UnusableError(what + REMEDY)


def _factor(header: PetHeader, decayed_s: float) -> float:
    weight, dose = header.weight_kg, header.dose_bq
    if weight is None:
        raise UnusableError(missing("PatientWeight") + REMEDY)
    if not 0.0 < weight <= MOST_WEIGHT_KG:
        raise UnusableError(f"{tag('PatientWeight')} is {weight:g} kg{REMEDY}")
    if dose is None:
        raise UnusableError(missing("RadionuclideTotalDose") + REMEDY)
    if dose < LEAST_DOSE_BQ:
        hint = ": written in MBq?" if 1.0 <= dose < 5000.0 else ""
        raise UnusableError(f"{tag('RadionuclideTotalDose')} is {dose:g} Bq{hint}{REMEDY}")
    return suv_factor(weight, dose, _half_life(header) if decayed_s else 1.0, decayed_s)


def _half_life(header: PetHeader) -> float:
    if header.half_life_s is None:
        raise UnusableError(missing("RadionuclideHalfLife") + REMEDY)
    if header.half_life_s <= 0.0:
        raise UnusableError(f"{tag('RadionuclideHalfLife')} is {header.half_life_s:g} s{REMEDY}")
    return header.half_life_s


def _acquired(header: PetHeader) -> datetime:
    if header.acquired is None:
        raise UnusableError(missing("AcquisitionTime") + REMEDY)
    return header.acquired


def _follows_injection(header: PetHeader, moment: datetime) -> bool:
    try:
        return _since_injection(header, moment) >= 0.0
    except UnusableError:
        return False


def _since_injection(header: PetHeader, moment: datetime) -> float:
    """Seconds from injection to `moment`; an injection without a date was on that day or on the evening before."""
    half_life = _half_life(header)
    if header.injected is None:
        raise UnusableError(missing("RadiopharmaceuticalStartTime") + REMEDY)
    keyword = "RadiopharmaceuticalStartDateTime" if header.injection_has_date else "RadiopharmaceuticalStartTime"
    if header.injection_has_date and moment.date() != ANY_DAY:
        seconds = (moment - header.injected).total_seconds()
    elif half_life > DAY_S:
        raise UnusableError(f"{missing('RadiopharmaceuticalStartDateTime')}, and a time alone tells no day{REMEDY}")
    else:
        seconds = (moment - datetime.combine(moment.date(), header.injected.time())).total_seconds()
        seconds += DAY_S if seconds + DAY_S <= MIDNIGHT_H * 3600.0 else 0.0
    if not 0.0 <= seconds <= MOST_HALF_LIVES * half_life:
        when = "before" if seconds >= 0.0 else "after"
        raise UnusableError(f"{tag(keyword)} is {abs(seconds) / 60.0:.0f} minutes {when} the scan{REMEDY}")
    return seconds


def _injected(injection: Dataset) -> tuple[datetime | None, bool]:
    """The moment of injection, and whether its date is known."""
    found = _full_moment(injection, "RadiopharmaceuticalStartDateTime")
    return (found, True) if found else (_moment(injection, "", "RadiopharmaceuticalStartTime"), False)


def _moment(header: Dataset, day_keyword: str, time_keyword: str) -> datetime | None:
    """Date and time of a header as one; ANY_DAY where only the date is missing."""
    clock, day = text(header, time_keyword), text(header, day_keyword) if day_keyword else ""
    if not clock:
        return None
    try:
        at, on = TM(clock), DA(day) if day else None
    except ValueError as error:
        raise UnusableError(f"{tag(time_keyword)} is no time") from error
    return None if at is None else datetime.combine(on or ANY_DAY, at)


def _full_moment(header: Dataset, keyword: str) -> datetime | None:
    """A DT element as local time; None where it has no hour."""
    value = text(header, keyword)
    if len(value.split("+")[0].split("-")[0]) < len("YYYYMMDDHH"):
        return None
    try:
        found = DT(value)
    except ValueError as error:
        raise UnusableError(f"{tag(keyword)} is no date and time") from error
    return None if found is None else datetime.combine(found.date(), found.time())


def _enhanced_units(header: Dataset) -> str:
    """Enhanced PET has no Units: its rescale says what values mean."""
    shared = [
        *items(header, "SharedFunctionalGroupsSequence"),
        *items(header, "PerFrameFunctionalGroupsSequence")[:1],
    ]
    values = [item for group in shared for item in items(group, "PixelValueTransformationSequence")]
    return next((text(item, "RescaleType") for item in values), "")


def _enhanced_decay(header: Dataset) -> str:
    """Enhanced PET says YES or NO, and to which moment."""
    said = text(header, "DecayCorrected")
    if said == "NO":
        return "NONE"
    return "START" if said == "YES" and text(header, "DecayCorrectionDateTime") else ""


def _ge_scan(header: Dataset) -> datetime | None:
    """GE's scan date and time (0009,xx0D)."""
    value = _private(header, 0x0009, GE, 0x0D)
    try:
        found = DT(str(value)) if value else None
    except ValueError:
        return None
    return None if found is None else datetime.combine(found.date(), found.time())


def _philips(header: Dataset, element: int) -> float | None:
    try:
        value = float(_private(header, 0x7053, PHILIPS, element))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if value > 0.0 and math.isfinite(value) else None


def _private(header: Dataset, group: int, creator: str, element: int) -> object:
    """A private element; as text where an implicit transfer syntax left its bytes without a type."""
    try:
        value = header.private_block(group, creator)[element].value
    except Exception:  # absent, or damaged: a private element is an extra
        return None
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else value
