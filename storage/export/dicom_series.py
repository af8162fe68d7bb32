"""The DICOM files that a cohort's cases were read from, found again in a folder."""

import json
from collections.abc import Sequence
from pathlib import Path

from storage.cohort import Cohort
from storage.sources.dicom import DicomSeries, SeriesKey, open_dicom


def find_series(cohort: Cohort, cases: Sequence[int], folder: str, id_key: bytes) -> dict[int, tuple[Path, ...]]:
    """The files of each case, found by its id where `id_key` made it, else by the SHA-256 of its bytes.

    A case without any is absent. SourceError where `folder` has no series of the cohort's modality.
    """
    listing = [key for modality in _modalities(cohort, cases) for key in _listing(cohort, folder, id_key, modality)]
    found = _matched({key.case_id: key for _, key in listing}, cohort, "case_id", cases)
    missing = [case for case in cases if case not in found]
    if missing:
        taken = {key.case_id for key in found.values()}
        by_bytes = {source.sha256(key): key for source, key in listing if key.case_id not in taken}
        found |= _matched(by_bytes, cohort, "sha256", missing)
    return {case: tuple(Path(folder, file) for file in key.files) for case, key in found.items()}


def _modalities(cohort: Cohort, cases: Sequence[int]) -> list[str]:
    said = [json.loads(cohort.table["acquisition"].iloc[case]) for case in cases]
    return sorted({str(one["Modality"]) for one in said if one.get("Modality")})


def _listing(cohort: Cohort, folder: str, id_key: bytes, modality: str) -> list[tuple[DicomSeries, SeriesKey]]:
    """The series of a folder, under names made as the cohort's were."""
    named = any(origin.get("options", {}).get("keep_identifiers") for origin in cohort.origins)
    source = open_dicom(folder, modality=modality, id_key=id_key, keep_identifiers=named)
    return [(source, key) for key in source.listing() if not key.problem]


def _matched(keys: dict[str, SeriesKey], cohort: Cohort, column: str, cases: Sequence[int]) -> dict[int, SeriesKey]:
    values = cohort.table[column]
    return {case: keys[values.iloc[case]] for case in cases if values.iloc[case] in keys}
