"""Volumes of any axis order and spacing: read from NIfTI, NRRD and MetaImage files, and brought to a cohort's grid."""

from storage.sources.volumes.files import VolumeFiles, open_mha, open_nifti, open_nrrd, open_volumes
from storage.sources.volumes.volume import Regrid, Volume, regridded

__all__ = [
    "Regrid",
    "Volume",
    "VolumeFiles",
    "open_mha",
    "open_nifti",
    "open_nrrd",
    "open_volumes",
    "regridded",
]
