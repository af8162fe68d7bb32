"""compose.yaml and the Dockerfile as far as they can be checked without Docker."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.services.processes import ROOT

DEPLOYMENTS = ROOT / "deployments"
COMPOSE = yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}


@pytest.mark.parametrize("name", SERVICES)
def test_service_waits_for_services_that_exist_and_can_tell(name: str):
    for other, wait in SERVICES[name].get("depends_on", {}).items():
        assert wait["condition"] in CONDITIONS
        assert wait["condition"] != "service_healthy" or "healthcheck" in SERVICES[other]
        assert wait["condition"] != "service_completed_successfully" or SERVICES[other]["restart"] == "no"


@pytest.mark.parametrize("name", SERVICES)
def test_volume_is_declared_or_a_file_of_the_checkout(name: str):
    for volume in SERVICES[name].get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("./"):
            assert (DEPLOYMENTS / source).exists()
        elif not source.startswith("$"):
            assert source in COMPOSE["volumes"]


def test_ports_are_published_on_loopback_alone():
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_variable_has_a_default_or_says_that_it_is_missing():
    text = (DEPLOYMENTS / "compose.yaml").read_text()
    guarded = set(re.findall(r"\$\{(\w+):[-?]", text))
    assert set(re.findall(r"\$\{(\w+)", text)) == guarded


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"postgres"}))
def test_command_is_one_of_this_environment(name: str):
    program, *rest = SERVICES[name]["command"]
    assert shutil.which(program, path=Path(sys.executable).parent)
    module = rest[1] if rest[0] == "-m" else next((part for part in rest if ":create_app" in part), None)
    if module:
        code = f"import importlib.util as u, sys; sys.exit(u.find_spec({module.split(':')[0]!r}) is None)"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_image_copies_what_there_is_and_does_not_run_as_root():
    lines = (DEPLOYMENTS / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    instructions = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    copied = [shlex.split(rest)[:-1] for word, rest in instructions if word == "COPY"]
    assert all((ROOT / source).exists() for sources in copied for source in sources)
    assert [rest for word, rest in instructions if word == "USER"] == ["lesionflow"]
    assert not any("--no-install-recommends" not in rest for word, rest in instructions if "apt-get install" in rest)


def test_every_linked_file_exists():
    links = re.findall(r"\]\(([^)#:]+)[^)]*\)", (DEPLOYMENTS / "README.md").read_text())
    assert links
    assert [link for link in links if not (DEPLOYMENTS / link).exists()] == []
