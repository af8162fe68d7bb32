"""`lesionflow reproduce` with a system that is judged by figures of its own, and with what it makes in a training."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from storage.cohort import Cohort
from tests.flows.conftest import Command

SHORT = {"max_epochs": 1, "batch_size": 8}
CLASSIFIER = {"network": {"width": 0.05, "stem_stride": 1}}
EXPERIMENT: dict[str, Any] = {
    "system": "patho-gan",
    "source": {"simulated": "glaucoma", "cases": 24, "size": 32, "seed": 0, "vessels": 1},
    "fractions": [0.5, 0.2, 0.3],
    "target": "glaucoma",
    "lesions": ["rim_loss", "nerve_fibre_defect"],
    "apart": ["rim_loss"],
    "settings": {
        "network": {"generator_width": 0.05, "critic_width": 0.05, "critic_strided": 3},
        "classifier": CLASSIFIER,
        "vessels": {"network": {"width": 0.05}},
    },
    "trainer": SHORT,
    "seeds": 1,
    "arms": {
        "vessels": {
            "system": "vessel-unet",
            "judged": False,
            "settings": {"lesions": ["vessels"], "network": {"width": 0.05}},
            "trainer": {**SHORT, "patch": None},
        },
        "made": {"initial": "vessels"},
        "real": {"system": "classifier", "settings": CLASSIFIER, "trainer": SHORT},
        "enlarged": {"system": "classifier", "settings": CLASSIFIER, "trainer": SHORT, "synthetic": "made"},
    },
    "metric": "pathology_loss",
    "shown": ["low_energy_rim_loss", "kid", "classifier_auc"],
    "expect": ["made < 1000", "enlarged.classifier_auc > 0"],
}


@pytest.fixture(scope="module")
def reproduced(command: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("synthesis")
    file = folder / "toy.yaml"
    file.write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    done = command("reproduce", file, "--json", folder / "toy.json")
    assert done.status == 0, done.err
    answer: dict[str, Any] = json.loads((folder / "toy.json").read_text())
    return answer


pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_arm_is_judged_by_the_figures_of_its_system(reproduced: dict[str, Any]):
    made = reproduced["arms"]["made"]
    assert {"pathology_loss", "low_energy_rim_loss", "kid", "milliseconds"} <= set(made)
    assert "ap_pooled" not in made
    assert "ap_pooled" in reproduced["arms"]["real"]


def test_arm_that_is_there_for_others_is_trained_and_not_judged(reproduced: dict[str, Any]):
    assert set(reproduced["arms"]) == {"made", "real", "enlarged"}
    [trial] = [one for one in reproduced["trials"] if one["arm"] == "made"]
    job = json.loads(Path(trial["model"]).with_name("job.json").read_text())
    started = json.loads(Path(job["initial"]).with_name("job.json").read_text())
    assert started["system"] == "vessel-unet"


def test_training_of_the_other_arm_has_an_image_after_each_abnormal_training_case(reproduced: dict[str, Any]):
    trained = {
        one["arm"]: json.loads(Path(one["model"]).with_name("job.json").read_text()) for one in reproduced["trials"]
    }
    real, enlarged = (Cohort.open(trained[arm]["cohort"]).table for arm in ("real", "enlarged"))
    abnormal = real[(real["split"] == "train") & (real["glaucoma"] == 1)]
    added = enlarged.iloc[len(real) :]
    assert list(enlarged["case_id"][: len(real)]) == list(real["case_id"])
    assert list(added["patient_id"]) == [f"synthetic-{patient}" for patient in abnormal["patient_id"]]
    assert set(added["split"]) == {"train"}


def test_page_shows_what_was_made_beside_the_references(reproduced: dict[str, Any]):
    assert "Synthesised images" in Path(reproduced["report"]).read_text()
