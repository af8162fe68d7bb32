"""Real fundus photographs, where the folder of them is at hand."""

import pytest

from storage import Cohort, ingest, open_source
from tests.real_images import REAL_IMAGES

IDRID = REAL_IMAGES / "idrid_lesions"
GRADES = REAL_IMAGES / "idrid_grades"


@pytest.mark.skipif(not IDRID.is_dir(), reason=f"no photographs in {IDRID}")
def test_idrid_photographs_keep_all_four_lesion_classes_on_a_small_grid(tmp_path):
    names = ("IDRiD_03", "IDRiD_04")
    (tmp_path / "images").mkdir()
    for name in names:
        (tmp_path / "images" / f"{name}.jpg").write_bytes((IDRID / "images" / f"{name}.jpg").read_bytes())
    classes = ("EX", "HE", "MA", "SE")
    source = open_source(str(tmp_path / "images"), size=256, masks=IDRID / "masks", lesions=classes)
    assert ingest(source, tmp_path / "cohort").added == 2
    cohort = Cohort.open(tmp_path / "cohort")
    for case, name in enumerate(names):
        on_disk = {lesion for lesion in classes if (IDRID / "masks" / f"{name}_{lesion}.png").exists()}
        assert {lesion for lesion in classes if cohort.mask(case, [lesion]).any()} == on_disk
    exudates = cohort.mask(0, ["EX"])
    brightness = cohort.image(0)[1].astype(float)
    assert brightness[exudates].mean() > 1.2 * brightness[brightness > 30].mean()  # hard exudates are bright
    assert all(cohort.geometry(case).operations[0].shape[0] < 4288 for case in range(len(cohort)))


@pytest.mark.skipif(not GRADES.is_dir(), reason=f"no photographs in {GRADES}")
def test_idrid_grades_are_read_from_their_csv():
    folder = next(path for path in GRADES.iterdir() if path.is_dir())
    labels = GRADES / "labels.csv"
    source = open_source(str(folder), labels=labels, label={"grade": "dr_grade"}, split_column="idrid_split")
    assert {key.labels["grade"] for key in source.listing()} <= {0.0, 1.0, 2.0, 3.0, 4.0}
    assert not any(key.problem for key in source.listing())
