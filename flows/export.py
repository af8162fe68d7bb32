"""`export`: images, masks and maps of a cohort as files for other tools."""

from collections.abc import Sequence
from typing import Any

from prefect import flow

from storage.export import GridChoice
from tasks.export import Format, export_cohort
from tasks.notifications import notified


@notified
@flow(name="export", flow_run_name="{cohort}", validate_parameters=False)
def export(
    cohort: str,
    out: str,
    format: Format,
    maps: Sequence[str] = (),
    split: Sequence[str] = (),
    grid: GridChoice = "cohort",
    dicom: str | None = None,
    lesions: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the cases of the splits (none named: all) into `out`; how many were written, left alone, skipped, failed.

    `dicom` is the folder of the series that DICOM SEG refers to.
    """
    return export_cohort(cohort, out, format, maps, lesions, split, grid, dicom)
