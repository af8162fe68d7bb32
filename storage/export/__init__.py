"""Cohorts for other tools: NIfTI, OME-Zarr, DICOM SEG, PNG overlays, plain Zarr.

`write_*` makes the file or folder of one case; `storage.export.delivery` puts it in place whole. `export_zarr` copies a
cohort into one store.
"""

from storage.export.content import Content, GridChoice, heat_scale
from storage.export.dicom_seg import write_dicom_seg
from storage.export.nifti import write_nifti
from storage.export.ome_zarr import write_ome_zarr
from storage.export.plain_zarr import export_zarr
from storage.export.png import write_png

__all__ = [
    "Content",
    "GridChoice",
    "export_zarr",
    "heat_scale",
    "write_dicom_seg",
    "write_nifti",
    "write_ome_zarr",
    "write_png",
]
