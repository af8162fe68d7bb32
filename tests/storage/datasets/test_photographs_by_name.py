import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.case import Case
from storage.errors import SourceError
from storage.sources.datasets import NAMED, open_aptos, open_chase_db1, open_eyepacs, open_hrf, open_idrid, open_isic
from storage.sources.detection import detect
from tests.real_images import REAL_IMAGES

SIDE = 24


def photograph(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)


def mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[4:9, 4:9] = 255
    Image.fromarray(pixels).save(path)


def read_all(source) -> dict[str, Case]:
    source = pickle.loads(pickle.dumps(source))
    return {key.case_id: source.read(key) for key in source.listing()}


def idrid_segmentation(folder: Path) -> Path:
    images, masks = folder / "1. Original Images", folder / "2. All Segmentation Groundtruths"
    for part, number in (("a. Training Set", "01"), ("a. Training Set", "02"), ("b. Testing Set", "55")):
        photograph(images / part / f"IDRiD_{number}.jpg", int(number))
    mask(masks / "a. Training Set" / "1. Microaneurysms" / "IDRiD_01_MA.tif")
    mask(masks / "a. Training Set" / "5. Optic Disc" / "IDRiD_01_OD.tif")
    mask(masks / "b. Testing Set" / "3. Hard Exudates" / "IDRiD_55_EX.tif")
    return folder


def idrid_grading(folder: Path) -> Path:
    for part in ("a. Training Set", "b. Testing Set"):
        photograph(folder / "1. Original Images" / part / "IDRiD_001.jpg", len(part))
    tables = folder / "2. Groundtruths"
    tables.mkdir()
    header = "Image name,Retinopathy grade,Risk of macular edema ,,,\n"
    (tables / "a. IDRiD_Disease Grading_Training Labels.csv").write_text(header + "IDRiD_001,3,2,,,\n")
    (tables / "b. IDRiD_Disease Grading_Testing Labels.csv").write_text(header + "IDRiD_001,1,0,,,\n")
    return folder


def aptos(folder: Path) -> Path:
    photograph(folder / "train_images" / "000c1434d8d7.png")
    photograph(folder / "test_images" / "0005cfc8afb6.png")
    (folder / "train.csv").write_text("id_code,diagnosis\n000c1434d8d7,2\n")
    (folder / "test.csv").write_text("id_code\n0005cfc8afb6\n")
    return folder


def eyepacs(folder: Path) -> Path:
    for name in ("10_left", "10_right", "13_left"):
        photograph(folder / "train" / f"{name}.jpeg")
    (folder / "trainLabels.csv").write_text("image,level\n10_left,0\n10_right,1\n13_left,4\n")
    return folder


def isic(folder: Path) -> Path:
    for part, name in (("Training", "ISIC_0000000"), ("Training", "ISIC_0000001"), ("Test_v2", "ISIC_0012086")):
        photograph(folder / f"ISIC-2017_{part}_Data" / f"{name}.jpg")
        photograph(folder / f"ISIC-2017_{part}_Data" / f"{name}_superpixels.png")
    mask(folder / "ISIC-2017_Training_Part1_GroundTruth" / "ISIC_0000000_segmentation.png")
    table = "image_id,melanoma,seborrheic_keratosis\nISIC_0000000,0.0,1.0\nISIC_0000001,1.0,0.0\n"
    (folder / "ISIC-2017_Training_Part3_GroundTruth.csv").write_text(table)
    return folder


def chase_db1(folder: Path) -> Path:
    for name in ("01L", "01R", "09L", "11R"):
        photograph(folder / f"Image_{name}.jpg", int(name[:2]))
        for observer in ("1st", "2nd"):
            mask(folder / f"Image_{name}_{observer}HO.png")
    (folder / "Image_11R_2ndHO.png").unlink()
    (folder / "readme.txt").write_text("hello")
    return folder


def hrf(folder: Path, masks: str = "manual1", suffix: str = "tif") -> Path:
    for name in ("01_dr.JPG", "01_g.jpg", "01_h.jpg"):
        photograph(folder / "images" / name, len(name))
        mask(folder / masks / f"{name[:-4]}.{suffix}")
    mask(folder / "mask" / "01_dr_mask.tif")
    return folder


LAYOUTS = {
    "idrid": idrid_segmentation,
    "aptos": aptos,
    "eyepacs": eyepacs,
    "isic": isic,
    "chase_db1": chase_db1,
    "hrf": hrf,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layout_is_recognised(tmp_path, name):
    assert detect(str(LAYOUTS[name](tmp_path))) == name
    assert NAMED[name](str(tmp_path)).name == name


@pytest.mark.parametrize("name", NAMED)
def test_another_folder_is_told_the_layout(tmp_path, name):
    photograph(tmp_path / "a.png")
    with pytest.raises(SourceError, match=r"is not laid out as .* is: expected '") as raised:
        NAMED[name](str(tmp_path))
    assert "\n" not in str(raised.value)
    with pytest.raises(SourceError, match="there is no folder"):
        NAMED[name](str(tmp_path / "absent"))


def test_idrid_has_its_masks_and_its_splits(tmp_path):
    source = open_idrid(str(idrid_segmentation(tmp_path)), size=SIDE, crop=False)
    read = read_all(source)
    assert source.lesions == ("EX", "HE", "MA", "SE")
    assert {case: read[case].split for case in read} == {
        "train/IDRiD_01": "train",
        "train/IDRiD_02": "train",
        "test/IDRiD_55": "test",
    }
    assert {case: set(read[case].masks) for case in read} == {
        "train/IDRiD_01": {"MA"},
        "train/IDRiD_02": set(),
        "test/IDRiD_55": {"EX"},
    }
    assert read["train/IDRiD_01"].masks["MA"].sum() == 25
    with_disc = open_idrid(str(tmp_path), size=SIDE, lesions=["MA", "OD"])
    assert set(read_all(with_disc)["train/IDRiD_01"].masks) == {"MA", "OD"}


def test_idrid_grades_of_both_parts_stay_apart(tmp_path):
    source = open_idrid(str(idrid_grading(tmp_path)), size=SIDE)
    assert source.labels == ("grade", "macular_edema")
    assert {key.case_id: (dict(key.labels), key.split) for key in source.listing()} == {
        "train/IDRiD_001": ({"grade": 3.0, "macular_edema": 2.0}, "train"),
        "test/IDRiD_001": ({"grade": 1.0, "macular_edema": 0.0}, "test"),
    }
    assert all(case.masks is None for case in read_all(source).values())


def test_aptos_has_its_grades(tmp_path):
    (key,) = open_aptos(str(aptos(tmp_path))).listing()
    assert (key.case_id, key.labels) == ("000c1434d8d7", {"grade": 2.0})


def test_both_eyes_of_eyepacs_are_one_patient(tmp_path):
    keys = open_eyepacs(str(eyepacs(tmp_path))).listing()
    assert [(key.case_id, key.patient_id, key.labels["grade"]) for key in keys] == [
        ("10_left", "10", 0.0),
        ("10_right", "10", 1.0),
        ("13_left", "13", 4.0),
    ]


def test_isic_has_diagnoses_and_outlines_of_those_that_were_annotated(tmp_path):
    source = open_isic(str(isic(tmp_path)), size=SIDE, crop=False)
    assert (source.labels, source.lesions) == (("melanoma", "seborrheic_keratosis"), ("lesion",))
    read = read_all(source)
    assert {case: read[case].split for case in read} == {
        "ISIC_0000000": "train",
        "ISIC_0000001": "train",
        "ISIC_0012086": "test",
    }
    assert read["ISIC_0000000"].masks["lesion"].sum() == 25
    assert read["ISIC_0000001"].masks is None
    assert read["ISIC_0000000"].labels == {"melanoma": 0.0, "seborrheic_keratosis": 1.0}
    assert np.isnan(read["ISIC_0012086"].labels["melanoma"])


def test_both_observers_of_chase_db1_are_classes_and_both_eyes_of_a_child_one_patient(tmp_path):
    source = open_chase_db1(str(chase_db1(tmp_path)), size=SIDE, crop=False)
    assert (source.lesions, source.labels) == (("vessels", "vessels_second"), ())
    assert [(key.case_id, key.patient_id, key.split) for key in source.listing()] == [
        ("01L", "01", "train"),
        ("01R", "01", "train"),
        ("09L", "09", "validation"),
        ("11R", "11", "test"),
    ]
    masks = {case: set(read.masks) for case, read in read_all(source).items()}
    both = {"vessels", "vessels_second"}
    assert masks == {"01L": both, "01R": both, "09L": both, "11R": {"vessels"}}
    assert set(read_all(open_chase_db1(str(tmp_path), size=SIDE, lesions=["vessels"]))["01L"].masks) == {"vessels"}


@pytest.mark.parametrize(("masks", "suffix"), [("manual1", "tif"), ("vessels", "png")])
def test_hrf_has_vessels_and_the_disease_of_its_name(tmp_path, masks, suffix):
    source = open_hrf(str(hrf(tmp_path, masks, suffix)), size=SIDE, crop=False)
    read = read_all(source)
    assert {case: (read[case].labels["diabetic_retinopathy"], read[case].labels["glaucoma"]) for case in read} == {
        "01_dr": (1.0, 0.0),
        "01_g": (0.0, 1.0),
        "01_h": (0.0, 0.0),
    }
    assert all(case.masks["vessels"].sum() == 25 and case.patient_id == name for name, case in read.items())


def test_a_stamp_changes_with_the_mask(tmp_path):
    before = {key.case_id: key.stamp for key in open_isic(str(isic(tmp_path))).listing()}
    (tmp_path / "ISIC-2017_Training_Part1_GroundTruth" / "ISIC_0000000_segmentation.png").write_bytes(b"other")
    after = {key.case_id: key.stamp for key in open_isic(str(tmp_path)).listing()}
    assert {case for case in after if after[case] != before[case]} == {"ISIC_0000000"}


def real(name: str) -> Path:
    folder = REAL_IMAGES / name
    if not folder.is_dir():
        pytest.skip(f"no photographs in {folder}")
    return folder


@pytest.mark.parametrize(
    ("folder", "name"),
    [("idrid_lesions", "idrid"), ("idrid_grades", "idrid"), ("isic2017", "isic"), ("hrf", "hrf")],
)
def test_real_copies_are_recognised_and_listed_whole(folder, name):
    path = real(folder)
    assert detect(str(path)) == name
    source = NAMED[name](str(path))
    assert len(source.listing()) == len(list((path / "images").iterdir()))
    assert not any(key.problem for key in source.listing())
    assert {key.split for key in source.listing()} <= {"train", "test", None}


def test_real_idrid_lesions_have_all_four_classes():
    source = open_idrid(str(real("idrid_lesions")), size=64)
    assert source.lesions == ("EX", "HE", "MA", "SE")
    case = source.read(source.listing()[0])
    assert {"EX", "HE", "MA"} <= set(case.masks)


def test_real_isic_outlines_belong_to_the_test_part():
    source = open_isic(str(real("isic2017")), size=32)
    outlined = [key for key in source.listing() if key.file in source.masks]
    assert 0 < len(outlined) == len(list((REAL_IMAGES / "isic2017" / "masks").iterdir()))
    assert {key.split for key in outlined} == {"test"}
    assert source.read(outlined[0]).masks["lesion"].any()
    assert source.read(source.listing()[0]).masks is None


@pytest.mark.parametrize(("name", "cases", "patients"), [("chase_db1", 28, 14), ("hrf", 20, 20)])
def test_real_vessels_are_a_tenth_of_the_photograph(name, cases, patients):
    folder = real(name)
    assert detect(str(folder)) == name
    source = NAMED[name](str(folder), size=128)
    assert (len(source.listing()), len({key.patient_id for key in source.listing()})) == (cases, patients)
    masks = source.read(source.listing()[0]).masks
    assert all(0.03 < mask.mean() < 0.2 for mask in masks.values())
    assert set(masks) == set(source.lesions)
