"""How much of a tumour do its two projections and a threshold give back? On real PET with masks that people drew.

    python benchmarks/back_projection.py DATA

DATA holds a folder a patient with `PET_image.nii.gz` in SUV and `PET_mask.nii.gz`, as the IBSI's validation data set of
51 soft-tissue sarcomas has them (github.com/theibsi/data_sets, ibsi_validation/nifti; CC BY 3.0). The views are those
of the true mask: what is left of 1 is lost on the way back into the volume, whoever finds the tumour in the views.
"""

import argparse
import json
from pathlib import Path

import nibabel
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from models.localization.back_projection import BackProjection, tumour_mask
from models.projection import back_projected, projections

IMAGE, MASK = "PET_image.nii.gz", "PET_mask.nii.gz"
WAYS = {
    "41 % of the largest SUV of all": BackProjection(search="volume", pieces="all"),
    "hull of the true projections": BackProjection(threshold="none"),
    "hull + 41 %": BackProjection(),
    "hull + SUV ≥ 1": BackProjection(threshold="suv", suv=1.0),
    "hull + SUV ≥ 2.5": BackProjection(threshold="suv", suv=2.5),
    "hull + gradient": BackProjection(threshold="gradient"),
}


def main() -> None:
    options = arguments()
    folders = sorted(mask.parent for mask in options.data.glob(f"*/{MASK}") if (mask.parent / IMAGE).exists())
    if not folders:
        raise SystemExit(f"{options.data} has no folder with {IMAGE} and {MASK}")
    found = [overlaps(*volumes(folder)) for folder in folders]
    dice = {way: [of_patient[way] for of_patient in found] for way in WAYS}
    show(dice)
    if options.json:
        options.json.write_text(json.dumps({"patients": [folder.name for folder in folders], "dice": dice}, indent=2))


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(description="What two true projections and a threshold give back of a tumour.")
    parser.add_argument("data", type=Path, help="a folder of patients' folders")
    parser.add_argument("--json", type=Path, help="write the Dice of every patient")
    return parser.parse_args()


def volumes(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """SUV (z, y, x) float32 and mask bool of a patient, head up, whatever the order of axes in the files."""
    image, mask = (nibabel.as_closest_canonical(nibabel.load(folder / name)) for name in (IMAGE, MASK))
    suv, marked = (np.asarray(one.dataobj).transpose(2, 1, 0) for one in (image, mask))
    return suv.astype(np.float32), marked > 0


def overlaps(suv: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Dice of each way."""
    hull = back_projected(projections(torch.from_numpy(np.ascontiguousarray(mask)))).float().numpy()
    return {way: dice(tumour_mask(suv, hull, settings), mask) for way, settings in WAYS.items()}


def dice(found: np.ndarray, mask: np.ndarray) -> float:
    """2 |A ∩ B| / (|A| + |B|)."""
    return float(2 * (found & mask).sum() / (found.sum() + mask.sum()))


def show(dice: dict[str, list[float]]) -> None:
    """Mean, standard deviation, median and range."""
    patients = len(next(iter(dice.values())))
    table = Table("way", "mean ± sd", "median", "range", title=f"Dice over {patients} patients")
    for way, values in dice.items():
        spread = f"{min(values):.2f} … {max(values):.2f}"
        table.add_row(way, f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}", f"{np.median(values):.2f}", spread)
    Console().print(table)


if __name__ == "__main__":
    main()
