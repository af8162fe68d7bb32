from pathlib import Path

import nibabel
import numpy as np
import pytest

from storage.case import Case
from storage.sources.datasets import open_autopet, open_hecktor
from storage.sources.detection import detect

CT_GRID = np.diag([-1.0, -1.0, 2.0, 1.0])
PET_GRID = np.diag([-2.0, -2.0, 2.0, 1.0])
STUDY = "03-23-2003-NA-PET-CT Ganzkoerper-00293"


def save(path: Path, affine: np.ndarray, shape: tuple[int, int, int], seed: int = 0, most: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, most, shape).astype(np.int16)
    nibabel.Nifti1Image(array, affine).to_filename(path)


def hecktor(folder: Path) -> Path:
    for case in ("CHUM-001", "MDA-200"):
        save(folder / "imagesTr" / f"{case}__CT.nii.gz", CT_GRID, (8, 8, 4))
        save(folder / "imagesTr" / f"{case}__PT.nii.gz", PET_GRID, (4, 4, 4), 1)
    save(folder / "labelsTr" / "CHUM-001.nii.gz", CT_GRID, (8, 8, 4), 2, 3)
    (folder / "patients.csv").write_text("PatientID,Relapse\nCHUM-001,1\nMDA-200,0\n")
    return folder


def autopet_challenge(folder: Path) -> Path:
    for case in (
        "fdg_0011f3deaf_03-23-2003-NA-PET-CT",
        "fdg_0011f3deaf_05-01-2004-NA-PET-CT",
        "psma_95b833d6_2018-04-16",
    ):
        for channel in ("0000", "0001"):
            save(folder / "imagesTr" / f"{case}_{channel}.nii.gz", PET_GRID, (4, 4, 4), int(channel))
        save(folder / "labelsTr" / f"{case}.nii.gz", PET_GRID, (4, 4, 4), 2, 2)
    return folder


def autopet_archive(folder: Path) -> Path:
    study = folder / "PETCT_0011f3deaf" / STUDY
    for seed, name in enumerate(("CT", "CTres", "SUV", "PET")):
        save(study / f"{name}.nii.gz", PET_GRID, (4, 4, 4), seed)
    save(study / "SEG.nii.gz", PET_GRID, (4, 4, 4), 9, 2)
    return folder


def test_hecktor_brings_pet_onto_the_grid_of_ct_with_both_classes(tmp_path):
    assert detect(str(hecktor(tmp_path))) == "hecktor"
    source = open_hecktor(str(tmp_path), labels=tmp_path / "patients.csv", label={"relapse": "Relapse"})
    assert (source.name, source.channels, source.lesions) == ("hecktor", ("CT", "PET"), ("GTVp", "GTVn"))
    read = {key.case_id: source.read(key) for key in source.listing()}
    assert all(isinstance(case, Case) for case in read.values()), read
    annotated = read["CHUM-001"]
    assert annotated.image.shape == (2, 4, 8, 8)
    numbers = np.asarray(nibabel.load(tmp_path / "labelsTr" / "CHUM-001.nii.gz").dataobj).T
    assert np.array_equal(annotated.masks["GTVp"], numbers == 1)
    assert np.array_equal(annotated.masks["GTVn"], numbers == 2)
    assert read["MDA-200"].masks is None
    assert {case: read[case].labels["relapse"] for case in read} == {"CHUM-001": 1, "MDA-200": 0}


def test_autopet_of_the_challenge_knows_its_patients(tmp_path):
    assert detect(str(autopet_challenge(tmp_path))) == "autopet"
    source = open_autopet(str(tmp_path), spacing=(4.0, 4.0, 4.0))
    assert (source.name, source.channels, source.lesions) == ("autopet", ("CT", "PET"), ("lesion",))
    assert [key.patient_id for key in source.listing()] == ["fdg_0011f3deaf", "fdg_0011f3deaf", "psma_95b833d6"]
    assert source.read(source.listing()[0]).image.shape == (2, 2, 2, 2)


def test_autopet_of_the_archive_is_a_folder_a_study(tmp_path):
    assert detect(str(autopet_archive(tmp_path))) == "autopet"
    source = open_autopet(str(tmp_path))
    (key,) = source.listing()
    assert (key.case_id, key.patient_id) == (f"PETCT_0011f3deaf/{STUDY}", "PETCT_0011f3deaf")
    case = source.read(key)
    study = tmp_path / "PETCT_0011f3deaf" / STUDY
    for channel, name in enumerate(("CTres", "SUV")):
        assert np.array_equal(case.image[channel], np.asarray(nibabel.load(study / f"{name}.nii.gz").dataobj).T)
    assert np.array_equal(case.masks["lesion"], np.asarray(nibabel.load(study / "SEG.nii.gz").dataobj).T > 0)


@pytest.mark.parametrize(
    ("names", "kind"), [('{"0": "CT", "1": "SUV"}', "autopet"), ('{"0": "T1", "1": "T2"}', "nifti")]
)
def test_two_channels_of_nnu_net_are_autopet_only_if_they_are_ct_and_pet(tmp_path, names, kind):
    for channel in ("0000", "0001"):
        save(tmp_path / "imagesTr" / f"case_{channel}.nii.gz", PET_GRID, (4, 4, 4))
    (tmp_path / "dataset.json").write_text(f'{{"channel_names": {names}}}')
    assert detect(str(tmp_path)) == kind


def test_masks_are_optional(tmp_path):
    autopet_challenge(tmp_path)
    for mask in (tmp_path / "labelsTr").iterdir():
        mask.unlink()
    (tmp_path / "labelsTr").rmdir()
    source = open_autopet(str(tmp_path))
    assert source.lesions == ()
    assert source.read(source.listing()[0]).masks is None
