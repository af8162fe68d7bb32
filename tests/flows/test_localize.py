"""Ways to make maps, as a user types them: the system's own, a method with settings, under a name of one's own."""

import json
import re
from pathlib import Path

import pytest
import torch

from models.registry import OWN_SYSTEMS, _import_families, build
from models.saliency import SALIENCY
from storage.cohort import Cohort
from tasks.model_files import save_model
from tests.flows.conftest import Command
from tests.toys import MODULES

CONFIGS = {
    "iterative-refinement": {
        "network": {"size": 32, "stem_stride": 1, "block5_valid": False, "width": 0.1, "head": [], "head_pool": 1}
    },
    "toy-gan": {},
}
LOOP = ["--set", "max_iterations=1", "--set", "stop_score=-100"]


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OWN_SYSTEMS, MODULES)
    _import_families.cache_clear()


@pytest.fixture(scope="module")
def cohort(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohorts") / "small"
    assert command("ingest", "sim:fundus?cases=6&size=32&seed=2", folder).status == 0
    return folder


@pytest.fixture
def localized(command: Command, cohort: Path, tmp_path: Path):
    """`localized(system, arguments…)`: what the command answers, of a network that nobody trained."""

    def run(system: str, *arguments: str) -> dict:
        torch.manual_seed(0)
        untrained, folder = build(system, CONFIGS[system]), tmp_path / system
        config = untrained.config.model_dump(mode="json")
        save_model(folder, system, config, untrained.state_dict(), target="grade")
        done = command("localize", cohort, "--model", folder, *arguments, "--json", tmp_path / "answer.json")
        if done.status:
            return {"status": done.status, "err": done.err}
        return json.loads((tmp_path / "answer.json").read_text())

    return run


def ends(answer: dict) -> list[str]:
    return [name.rsplit("/", 1)[-1] for name in answer["maps"]]


def test_a_system_is_localised_in_its_own_way_unless_another_is_named(cohort: Path, localized):
    assert ends(localized("iterative-refinement", *LOOP)) == ["S", "s_0"]
    own = localized("toy-gan")
    assert ends(own) == ["map"]
    assert own["new"] == 6
    maps = Cohort.open(cohort).maps(own["maps"][0])
    assert maps.attrs["method"] == "own"
    assert maps.array_names == ("image",)
    assert localized("toy-gan")["new"] == 0
    assert ends(localized("toy-gan", "--saliency", "gradient")) == ["gradient"]
    assert ends(localized("iterative-refinement", "--method", "own")) == ["map"]
    assert ends(localized("iterative-refinement", "--method", "saliency")) == ["guided_backprop"]


def test_a_map_set_can_be_given_a_name(localized):
    assert ends(localized("iterative-refinement", *LOOP, "--as", "paper")) == ["paper", "paper.s_0"]
    assert ends(localized("toy-gan", "--as", "gdc")) == ["gdc"]
    plain = localized("iterative-refinement", "--method", "saliency", "--saliency", "grad_cam", "--as", "grad-cam-2")
    assert ends(plain) == ["grad-cam-2"]


def test_settings_of_a_method_make_its_maps_anew(cohort: Path, localized):
    few = ["--method", "saliency", "--saliency", "occlusion", "--set", "saliency_settings.patch=16"]
    answer = localized("iterative-refinement", *few)
    assert answer["new"] == 6
    settings = Cohort.open(cohort).maps(answer["maps"][0]).attrs["saliency_settings"]
    assert settings == {"patch": 16}
    assert localized("iterative-refinement", *few)["new"] == 0
    assert localized("iterative-refinement", *few, "--set", "saliency_settings.fill=[0,0.5,1]")["new"] == 6
    assert localized("iterative-refinement", *few, "--set", "saliency_settings.fill=[0,0.5,1]")["new"] == 0


MISTAKES = {
    ("--saliency", "smoothgrad", "--set", "saliency_settings.sample=3"): "smoothgrad has no setting 'sample'",
    ("--method", "saliency", "--saliency", "rise", "--set", "saliency_settings.masks=0"): "masks: .*greater than 0",
    ("--method", "saliency", "--saliency", "lime"): "no saliency method 'lime'; there are: cam, deeplift",
    ("--method", "own", "--saliency", "cam"): "own maps take no --saliency",
    ("--method", "own", "--set", "decay=2"): "own maps take no --set decay",
    ("--as", "a/b"): "maps cannot be called 'a/b'",
    ("--as", "saliency"): "maps cannot be called 'saliency'",
    ("--method", "saliency", "--saliency", "grad_cam", "--set", "saliency_settings.layer=conv9"): "no layer 'conv9'",
}


@pytest.mark.parametrize(("arguments", "line"), MISTAKES.items())
def test_a_mistake_is_one_line(arguments, line, localized):
    failed = localized("iterative-refinement", *arguments)
    assert failed["status"] == 2
    [said] = [text for text in failed["err"].splitlines() if text.startswith("lesionflow:")]
    assert re.search(line, said)


def test_help_names_every_saliency_method(command: Command):
    shown = " ".join(command("localize", "--help").out.replace("│", " ").split())
    assert all(name in shown for name in SALIENCY)
