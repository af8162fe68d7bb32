"""HECKTOR: PET/CT of head and neck cancer with primary tumours and lymph nodes, as in the challenge of 2022.

Andrearczyk et al., Overview of the HECKTOR challenge at MICCAI 2022.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from storage.geometry import Interpolator
from storage.sources.datasets.layout import holds, unlike
from storage.sources.volumes.files import VolumeFiles, open_volumes
from storage.sources.volumes.volume import Plane

LAYOUT = "'imagesTr/CHUM-001__CT.nii.gz', 'imagesTr/CHUM-001__PT.nii.gz' and 'labelsTr/CHUM-001.nii.gz'"
CHANNELS = {"CT": "imagesTr/{case}__CT.nii.gz", "PET": "imagesTr/{case}__PT.nii.gz"}
LESIONS = ("GTVp", "GTVn")


def is_hecktor(folder: Path) -> bool:
    """Whether `folder` has the layout of HECKTOR."""
    return holds(folder, "imagesTr/*__CT.nii.gz") and holds(folder, "imagesTr/*__PT.nii.gz")


def open_hecktor(
    address: str,
    *,
    labels: str | Path | None = None,
    file_column: str = "PatientID",
    label: Mapping[str, str] | None = None,
    split_column: str | None = None,
    spacing: tuple[float, float, float] | None = None,
    interpolator: Interpolator = "linear",
    shape: tuple[int, int, int] | None = None,
    project: Plane | None = None,
) -> VolumeFiles:
    """CT in HU with PET in SUV on its grid, which is also that of the masks; a case without a mask was not annotated.

    `labels` is the table of patients or of end points. SourceError for another layout.
    """
    folder = Path(address)
    if not is_hecktor(folder):
        raise unlike(folder, "HECKTOR", LAYOUT)
    annotated = (folder / "labelsTr").is_dir()
    found = open_volumes(
        address,
        format="nifti",
        channels=CHANNELS,
        masks=folder / "labelsTr" if annotated else None,
        mask_pattern="{case}.nii.gz" if annotated else None,
        lesions=LESIONS,
        labels=labels,
        file_column=file_column,
        label=label,
        split_column=split_column,
        spacing=spacing,
        interpolator=interpolator,
        shape=shape,
        project=project,
    )
    return replace(found, name="hecktor")
