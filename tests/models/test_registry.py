import subprocess
import sys

import pytest

from models import registry
from models.config import Config
from models.errors import ModelError
from models.registry import build, restore, system, systems
from models.system import System

SMALL = {"network": {"size": 64, "stem_stride": 1, "width": 0.05, "head": [4]}}


def test_every_system_says_what_it_is():
    for name, entry in systems().items():
        assert entry.name == name == entry.system.name
        assert entry.family in registry.FAMILIES
        assert entry.paper
        assert issubclass(entry.config, Config)
        assert entry.config() == entry.config.model_validate(entry.config().model_dump(mode="json"))


@pytest.mark.slow
def test_a_file_in_a_family_s_folder_is_enough():
    script = "from models.registry import systems; print('iterative-refinement' in systems())"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.parametrize(
    ("name", "config", "complaint"),
    [
        ("iterative", {}, "no system is called 'iterative'; there are: .*iterative-refinement"),
        ("iterative-refinement", {"depth": 3}, "^iterative-refinement: depth is not a setting$"),
        ("iterative-refinement", {"network": {"width": "wide"}}, "^iterative-refinement: network.width: .*not 'wide'$"),
        (
            "iterative-refinement",
            {"network": {"size": 16}},
            "^iterative-refinement: network: size 16 is too small.*127$",
        ),
        ("iterative-refinement", {"mean": [0.5, 0.5]}, "^iterative-refinement: mean has 2 values for 3 channels"),
        ("iterative-refinement", {"refinement": {"saliency": "lime"}}, "'lime' is unknown; there are: gradient"),
        (
            "iterative-refinement",
            {"refinement": {"inpainter": "paint"}},
            "'paint' is unknown; there are: navier_stokes",
        ),
        ("iterative-refinement", {"refinement": {"threshold": "fraction"}}, "threshold_value 99.5 must be < 1"),
        ("iterative-refinement", {"refinement": {"saliency": "grad_cam", "sign": "negative"}}, "no negative part"),
    ],
)
def test_mistakes_get_one_line(name, config, complaint):
    with pytest.raises(ModelError, match=complaint) as error:
        build(name, config)
    assert "\n" not in str(error.value)


def test_a_checkpoint_brings_its_configuration(tmp_path):
    import torch

    trained = build("iterative-refinement", SMALL)
    torch.save({"state_dict": trained.state_dict(), "hyper_parameters": dict(trained.hparams)}, tmp_path / "last.ckpt")
    again = restore(torch.load(tmp_path / "last.ckpt", weights_only=True))
    assert again.config == trained.config
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), trained.state_dict().values(), strict=True)
    )
    with pytest.raises(ModelError, match="was not written by training a registered system"):
        restore({"state_dict": {}})


def test_names_and_families_are_unique(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})

    class One(System):
        config: Config

    class Other(System):
        config: Config

    Other.__module__ = "models.localization.other"
    system("one", family="localization", paper="A paper")(One)
    with pytest.raises(ModelError, match="two systems are called 'one'"):
        system("one", family="localization", paper="A paper")(Other)
    with pytest.raises(ModelError, match="families are: localization, segmentation"):
        system("two", family="surgery", paper="A paper")
