"""`ingest`: photographs or a simulated source into a cohort."""

from typing import Any

from prefect import flow

from tasks.ingestion import ingest_source


@flow(name="ingest", flow_run_name="{source} → {cohort}")
def ingest(
    source: str,
    cohort: str,
    labels: str | None = None,
    file_column: str = "file",
    label: dict[str, str] | None = None,
    patient_column: str | None = None,
    split_column: str | None = None,
    masks: str | None = None,
    mask_pattern: str = "{stem}_{lesion}.png",
    lesions: list[str] | None = None,
    size: int = 512,
    crop: bool = True,
    fractions: tuple[float, float, float] | None = None,
) -> dict[str, Any]:
    """Bring `cohort` up to date with `source` (a folder, or `sim:NAME?…`); what is known already is left alone."""
    if source.startswith("sim:"):
        return ingest_source(source, cohort, fractions)
    return ingest_source(
        source,
        cohort,
        fractions,
        labels=labels,
        file_column=file_column,
        label=label,
        patient_column=patient_column,
        split_column=split_column,
        masks=masks,
        mask_pattern=mask_pattern,
        lesions=lesions,
        size=size,
        crop=crop,
    )
