"""`ingest`: photographs, volumes, DICOM series or a simulated source into a cohort."""

from typing import Any, Literal

from prefect import flow

from tasks.ingestion import ingest_source
from tasks.notifications import notified


@notified
@flow(name="ingest", flow_run_name="{source} → {cohort}")
def ingest(
    source: str,
    cohort: str,
    kind: str | None = None,
    labels: str | None = None,
    file_column: str | None = None,
    label: dict[str, str] | None = None,
    patient_column: str | None = None,
    split_column: str | None = None,
    masks: str | None = None,
    mask_pattern: str | None = None,
    lesions: list[str] | None = None,
    image_pattern: str | None = None,
    channels: dict[str, str] | None = None,
    modality: str | None = None,
    units: Literal["suv", "raw"] | None = None,
    keep_identifiers: bool | None = None,
    size: int | None = None,
    crop: bool | None = None,
    spacing: tuple[float, float, float] | None = None,
    interpolator: str | None = None,
    shape: tuple[int, int, int] | None = None,
    project: Literal["axial", "coronal", "sagittal"] | None = None,
    fractions: tuple[float, float, float] | None = None,
    dtype: Literal["uint8", "int16", "uint16", "float32"] | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Bring `cohort` up to date with `source` (a folder, a file, or `sim:NAME?…`); what is known already is left alone.

    `kind` names the source (photographs, dicom, nifti, …) where it is not to be told from the files; an option that
    is None keeps the source's own default. Lengths are in mm, axes in the order z, y, x.
    """
    options = {
        "source": kind,
        "labels": labels,
        "file_column": file_column,
        "label": label,
        "patient_column": patient_column,
        "split_column": split_column,
        "masks": masks,
        "mask_pattern": mask_pattern,
        "lesions": lesions,
        "image_pattern": image_pattern,
        "channels": channels,
        "modality": modality,
        "units": units,
        "keep_identifiers": keep_identifiers,
        "size": size,
        "crop": crop,
        "spacing": spacing,
        "interpolator": interpolator,
        "shape": shape,
        "project": project,
    }
    return ingest_source(source, cohort, fractions, dtype, workers, options)
