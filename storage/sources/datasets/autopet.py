"""autoPET: whole-body PET/CT with tumour masks, in the layout of the challenge (nnU-Net's) or of TCIA's NIfTI archive.

Gatidis et al., Scientific Data 2022;9:601.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from storage.geometry import Interpolator
from storage.sources.datasets.layout import first, holds, unlike
from storage.sources.volumes.files import VolumeFiles, open_volumes
from storage.sources.volumes.volume import Plane

LAYOUT = (
    "'imagesTr/CASE_0000.nii.gz' (CT), 'imagesTr/CASE_0001.nii.gz' (SUV) and 'labelsTr/CASE.nii.gz', or "
    "'PETCT_PATIENT/STUDY/' with CTres.nii.gz, SUV.nii.gz and SEG.nii.gz"
)
CHALLENGE = {"CT": "imagesTr/{case}_0000.nii.gz", "PET": "imagesTr/{case}_0001.nii.gz"}
ARCHIVE = {"CT": "{case}/CTres.nii.gz", "PET": "{case}/SUV.nii.gz"}


def is_autopet(folder: Path) -> bool:
    """Whether `folder` is autoPET for certain: two channels in nnU-Net's layout could be anything else."""
    if holds(folder, "PETCT_*/*/SUV.nii.gz"):
        return True
    named = any(re.match(r"(fdg|psma)_", path.name) for path in first(folder, "imagesTr/*_0001.nii.gz", 9))
    return named or (holds(folder, "imagesTr/*_0001.nii.gz") and _channel_names(folder) == ["CT", "PET"])


def open_autopet(
    address: str,
    *,
    labels: str | Path | None = None,
    file_column: str = "file",
    label: Mapping[str, str] | None = None,
    patient_column: str | None = None,
    split_column: str | None = None,
    spacing: tuple[float, float, float] | None = None,
    interpolator: Interpolator = "linear",
    shape: tuple[int, int, int] | None = None,
    project: Plane | None = None,
) -> VolumeFiles:
    """CT in HU and PET in SUV on one grid; the lesion class is `lesion`. A case without a mask was not annotated.

    The patient is told from the case's name where `patient_column` does not say. SourceError for another layout.
    """
    folder = Path(address)
    archive = holds(folder, "PETCT_*/*/SUV.nii.gz")
    if not archive and not (holds(folder, "imagesTr/*_0000.nii.gz") and holds(folder, "imagesTr/*_0001.nii.gz")):
        raise unlike(folder, "autoPET", LAYOUT)
    masks = folder if archive else folder / "labelsTr" if (folder / "labelsTr").is_dir() else None
    found = open_volumes(
        address,
        format="nifti",
        channels=ARCHIVE if archive else CHALLENGE,
        masks=masks,
        mask_pattern=None if masks is None else "{case}/SEG.nii.gz" if archive else "{case}.nii.gz",
        lesions=("lesion",),
        labels=labels,
        file_column=file_column,
        label=label,
        patient_column=patient_column,
        split_column=split_column,
        spacing=spacing,
        interpolator=interpolator,
        shape=shape,
        project=project,
    )
    if patient_column is None:
        found = replace(found, listed=tuple(replace(key, patient_id=_patient(key.case_id)) for key in found.listed))
    return replace(found, name="autopet")


def _patient(case: str) -> str:
    """Of 'PETCT_0011f3deaf/03-23-2003-…' and of 'fdg_0011f3deaf_03-23-2003-…'; any other case is a patient."""
    match = re.match(r"((?:fdg|psma)_[^_]+)_", case)
    return match[1] if match else case.partition("/")[0]


def _channel_names(folder: Path) -> list[str]:
    """What nnU-Net's dataset.json calls the channels, the tracer's names for PET all read as PET."""
    try:
        told = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        names = told.get("channel_names") or told.get("modality") or {}
        return [
            "PET" if names[number].upper() in ("PET", "SUV", "PT") else names[number].upper()
            for number in sorted(names)
        ]
    except (OSError, ValueError, AttributeError):
        return []
