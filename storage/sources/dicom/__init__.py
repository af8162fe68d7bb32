"""Folders of DICOM files: CT, MR and PET series with their contours and segmentations, without the patient's name."""

from storage.sources.dicom.source import DicomSeries, SeriesKey, open_dicom

__all__ = ["DicomSeries", "SeriesKey", "open_dicom"]
