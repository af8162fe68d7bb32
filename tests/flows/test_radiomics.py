import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from tests.flows.conftest import Command
from tests.real_images import REAL_IMAGES

FEW = ["--set", "families=[morphology,intensity_statistics,glcm]"]


@pytest.fixture(scope="module")
def volumes(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five volumes in Hounsfield units, each with a tumour of its own size; the last has two."""
    import nibabel

    folder, random = tmp_path_factory.mktemp("volumes"), np.random.default_rng(0)
    for case in range(5):
        grid = np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in (24, 24, 16)), indexing="ij"))
        mask = (grid**2).sum(axis=0) < (4 + case / 2) ** 2
        if case == 4:
            mask[1:5, 1:5, 1:5] = True
        texture = 300 * ndimage.gaussian_filter(random.normal(size=mask.shape), 1)
        for name, array in (("ct", np.where(mask, 40 + texture, -700 + texture)), ("mask", mask)):
            affine = np.diag([1.0, 1.0, 3.0, 1.0])
            kind = np.float32 if name == "ct" else np.uint8
            nibabel.save(nibabel.Nifti1Image(array.astype(kind), affine), folder / f"p{case}_{name}.nii.gz")
    cohort = folder / "cohort"
    masks = ["--image-pattern", "{case}_ct.nii.gz", "--mask-pattern", "{case}_mask.nii.gz"]
    done = command("ingest", folder, cohort, *masks)
    assert done.status == 0, done.err
    return cohort


def test_volumes_are_measured_by_a_preset_and_their_features_for_stability(
    command: Command, volumes: Path, tmp_path: Path
):
    out, answer = tmp_path / "features.parquet", tmp_path / "answer.json"
    chosen = ["--preset", "ibsi-C", *FEW, "--stability", "--set", "stability.perturbations=3"]
    done = command("radiomics", volumes, "--masks", "-o", out, *chosen, "--json", answer)
    assert done.status == 0, done.err
    table = pd.read_parquet(out)
    assert table.groupby("case_id").size().tolist() == [2, 2, 2, 2, 3]
    assert table.attrs["settings"]["bin_width"] == 25
    whole, each = table[table["lesion"] == 0], table[table["lesion"] == 1]
    assert (whole["volume"] == whole["n_pixels"] * 3).all()
    assert (each["morph_vol_approx"] % 8 == 0).all()  # voxels of 2 mm
    assert each["morph_vol_approx"].to_numpy() == pytest.approx(each["volume"], rel=0.25)
    stability = pd.read_csv(out.with_suffix(".stability.csv"))
    assert list(stability.columns) == ["name", "icc", "icc_low", "icc_high", "lesions"]
    assert set(stability["name"]) <= set(table.columns)
    known = stability.dropna()
    assert ((known["icc_low"] <= known["icc"]) & (known["icc"] <= known["icc_high"])).all()
    assert stability["lesions"].max() == 6
    dictionary = pd.read_csv(out.with_suffix(".dictionary.csv")).set_index("name")
    assert dictionary.loc["stat_mean", "icc"] == pytest.approx(stability.set_index("name").loc["stat_mean", "icc"])
    assert np.isnan(dictionary.loc["volume", "icc"])
    assert json.loads(answer.read_text())["perturbed_lesions"] == 6
    again = command("radiomics", volumes, "--masks", "-o", out, *chosen, "--json", answer)
    assert again.status == 0
    assert json.loads(answer.read_text())["reused"]


def test_stability_rests_on_a_sample_of_the_lesions(command: Command, fundus_cohort: Path, tmp_path: Path):
    out = tmp_path / "features.parquet"
    few = ["--set", "families=[intensity_statistics]", "--set", "stability.lesions=5", "--set", "min_pixels=6"]
    done = command("radiomics", fundus_cohort, "--masks", "--split", "test", "-o", out, *few)
    assert done.status == 0, done.err
    assert pd.read_csv(out.with_suffix(".stability.csv"))["lesions"].max() == 5


def test_wrong_settings_are_one_line(command: Command, volumes: Path, fundus_cohort: Path, tmp_path: Path):
    out = tmp_path / "features.parquet"
    mistakes = {
        (volumes, "--preset", "ibsi-F"): "ibsi-A, ibsi-B",
        (volumes, "--set", "channel=green"): "channel",
        (volumes, "--set", "filter.kind=sobel"): "filter",
        (volumes, "--set", "stability.perturbations=1"): "perturbations",
        (fundus_cohort, "--preset", "ibsi-A", "--set", "families=[morphology]"): "planar",
    }
    for (cohort, *chosen), word in mistakes.items():
        done = command("radiomics", cohort, "--masks", "-o", out, *chosen)
        assert done.status == 2, (chosen, done)
        assert word in done.err
        assert done.err.strip().count("\n") == 0


def test_every_true_tumour_of_the_pet_collection_is_measured(command: Command, tmp_path: Path):
    patients = sorted((REAL_IMAGES / "pet_sts").glob("STS_*"))[:3]
    if not patients:
        pytest.skip(f"the sarcomas are not at {REAL_IMAGES / 'pet_sts'} (set LESIONFLOW_DATA)")
    source, cohort, out = tmp_path / "sts", tmp_path / "cohort", tmp_path / "features.parquet"
    for patient in patients:
        shutil.copytree(patient, source / patient.name)
    where = ["--image-pattern", "{case}/PET_image.nii.gz", "--mask-pattern", "{case}/PET_mask.nii.gz"]
    assert command("ingest", source, cohort, *where).status == 0
    suv = ["--set", "bin_width=0.5", "--set", "bin_anchor=0", "--set", "ivh_bin_width=0.1"]
    done = command("radiomics", cohort, "--masks", "-o", out, *suv)
    assert done.status == 0, done.err
    whole = pd.read_parquet(out).query("lesion == 0").set_index("case_id")
    assert len(whole) == len(patients)
    assert (whole["loc_peak_glob"] <= whole["stat_max"]).all()
    assert whole[["morph_volume", "stat_max", "ih_entropy", "ivh_v10"]].notna().all(axis=None)
