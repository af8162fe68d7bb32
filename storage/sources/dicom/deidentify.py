"""What a cohort keeps of a DICOM header, and what stands for a person in it.

Kept are the tags of `PHYSICS`: an allow-list, so that a tag nobody thought of is left behind. Identifiers become keyed
hashes (HMAC-SHA256): who has the key can tell which patient is which, nobody else. Dates become days since a moment of
each patient's own that only the key tells; differences between a patient's studies stay exact.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import datetime

from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from storage.sources.dicom.files import UnusableError, items, numbers, text

PHYSICS = (
    *("Modality", "Manufacturer", "ManufacturerModelName", "PhotometricInterpretation", "LossyImageCompression"),
    *("SliceThickness", "SpacingBetweenSlices", "ReconstructionDiameter", "PatientPosition"),
    *("KVP", "XRayTubeCurrent", "ExposureTime", "Exposure", "ConvolutionKernel", "GantryDetectorTilt", "FilterType"),
    *("MagneticFieldStrength", "ScanningSequence", "SequenceVariant", "MRAcquisitionType", "RepetitionTime"),
    *("EchoTime", "EffectiveEchoTime", "InversionTime", "FlipAngle", "EchoTrainLength", "ImagingFrequency"),
    *("PatientWeight", "PatientSize", "PatientSex", "PatientAge"),
    *("Radiopharmaceutical", "RadionuclideTotalDose", "RadionuclideHalfLife", "RadionuclidePositronFraction"),
    *("Units", "DecayCorrection", "CorrectedImage", "ReconstructionMethod", "AttenuationCorrectionMethod"),
    *("ScatterCorrectionMethod", "RandomsCorrectionMethod", "FrameReferenceTime", "ActualFrameDuration", "SeriesType"),
)
NESTED = ("RadiopharmaceuticalInformationSequence", "SharedFunctionalGroupsSequence")
DEPTH = 3  # of sequences; functional groups put what is looked for two down
NUMERIC = frozenset({"DS", "IS", "FD", "FL", "US", "SS", "UL", "SL"})
OLDEST = 89  # the age of older people tells who they are (HIPAA, 45 CFR 164.514)
HASH = 16  # hex characters, 64 bits: two of a million patients share one with a chance of 3e-8
SPAN_DAYS = 2**20  # 2,871 years that a patient's day 0 is drawn from


@dataclass(frozen=True)
class Pseudonyms:
    """Names for patients and series: keyed hashes, or with `key` None the identifiers themselves."""

    key: bytes | None

    def patient(self, patient_id: str, issuer: str = "") -> str:
        """What stands for a patient."""
        return patient_id if self.key is None else self.hashed("patient", issuer, patient_id)

    def hashed(self, kind: str, *parts: str) -> str:
        """The keyed hash of an identifier; `kind` keeps equal texts of different kinds apart."""
        assert self.key is not None
        return self._digest(kind, *parts).hex()[:HASH]

    def scan_day(self, patient: str, study_date: str) -> float | None:
        """Days from the patient's own day 0 (without a key: from 1970-01-01) to the study; None without a date."""
        try:
            day = datetime.strptime(study_date, "%Y%m%d").toordinal()
        except ValueError:
            return None
        if self.key is None:
            return float(day - datetime(1970, 1, 1).toordinal())
        return float(day - int.from_bytes(self._digest("epoch", patient)[:8]) % SPAN_DAYS)

    def _digest(self, kind: str, *parts: str) -> bytes:
        message = "\0".join((f"lesionflow {kind}", *parts)).encode()
        return hmac.new(self.key or b"", message, hashlib.sha256).digest()


def acquisition(header: Dataset) -> dict[str, str | float]:
    """The tags of `PHYSICS` that the header has; numbers where they are single numbers, text otherwise."""
    found = {keyword: _kept(header, keyword, DEPTH) for keyword in PHYSICS}
    return {keyword: value for keyword, value in found.items() if value is not None}


def _kept(header: Dataset, keyword: str, depth: int) -> str | float | None:
    """The value at the top or in one of the `NESTED` sequences; None where it is absent, damaged or of odd form."""
    try:
        if text(header, keyword):
            return _value(header, keyword)
        inner = [item for sequence in NESTED for item in items(header, sequence)[:1]]
        if depth < DEPTH:
            inner = [item for one in header if one.VR == "SQ" for item in one.value[:1]]
    except (UnusableError, ValueError):
        return None
    found = (_kept(item, keyword, depth - 1) for item in inner if depth)
    return next((value for value in found if value is not None), None)


def _value(header: Dataset, keyword: str) -> str | float | None:
    if keyword == "PatientAge":
        return _age(text(header, keyword))
    if keyword == "PatientSex":
        return text(header, keyword) if text(header, keyword) in {"M", "F", "O"} else None
    if dictionary_VR(keyword) in NUMERIC:
        values = numbers(header, keyword)
        return values[0] if len(values) == 1 else "\\".join(f"{value:g}" for value in values)
    return text(header, keyword)


def _age(said: str) -> str | None:
    if not re.fullmatch(r"\d{3}[DWMY]", said):
        return None
    years = int(said[:3]) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[said[3]]
    return "90+" if years > OLDEST else said
