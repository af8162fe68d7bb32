"""Pages as files: whole, the same again, and only what was asked for."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from storage.cohort import Cohort
from storage.errors import CohortError
from tasks.export import export_cohort
from tasks.workspace import Workspace

from .conftest import EVIL, PROJECT, SIDE

Export = Callable[..., dict[str, Any]]
REFERENCE = re.compile(r'(?:href|src)="([^"#?:]+)"')


@pytest.fixture
def export(workspace: Workspace) -> Export:
    def run(cohort: Cohort, out: Path, **more: Any) -> dict[str, Any]:
        given = {"maps": ["S", "grad_cam"], "lesions": [], "splits": [], "grid": "cohort", "dicom": None, **more}
        return export_cohort.fn(cohort.path, str(out), "html", **given)

    return run


def written(out: Path) -> dict[str, int]:
    """When each file but the journal was written."""
    return {str(file.relative_to(out)): file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}


def test_the_manifest_names_every_file_of_every_case(export: Export, photographs: Cohort, tmp_path: Path):
    out = tmp_path / "out"
    answer = export(photographs, out)
    assert (answer["written"], answer["unchanged"], answer["failed"]) == (6, 0, [])
    manifest = pd.read_csv(out / "manifest.csv")
    assert manifest["case_id"].tolist()[1] == EVIL
    named = {file for row in manifest["files"] for file in row.split(";")}
    shared = {"index.html", "cases.js", "manifest.csv", "static/browser.css", "static/case.js", "static/grid.js"}
    assert set(written(out)) == named | shared | {".export.jsonl", ".export.lock"}
    assert answer["files"] == len(named | shared) - 1
    steps = [file for file in named if file.endswith("steps.png")]
    assert sorted(steps) == [f"maps/S/{case}/steps.png" for case in range(5)]


def test_all_links_are_relative_and_lead_somewhere(export: Export, photographs: Cohort, tmp_path: Path):
    out = tmp_path / "out"
    export(photographs, out)
    pages = [out / "index.html", *(out / "cases").iterdir()]
    assert len(pages) == 7
    for page in pages:
        for link in REFERENCE.findall(page.read_text()):
            assert not link.startswith("/")
            assert (page.parent / link).exists(), (page, link)


def test_the_same_again_draws_nothing_and_a_change_does(export: Export, photographs: Cohort, tmp_path: Path):
    out = tmp_path / "out"
    export(photographs, out)
    before = written(out)
    again = export(photographs, out)
    assert (again["written"], again["unchanged"]) == (0, 6)
    after = written(out)
    assert all(after[name] == before[name] for name in before if name.split("/")[0] in ("cases", "maps", "pictures"))
    photographs.write_maps("new", [0], [np.ones((SIDE, SIDE), np.float32)], pd.DataFrame({"score": [0.5]}))
    assert export(photographs, out)["written"] == 6


def test_a_split_has_pages_of_its_own_cases_that_follow_each_other(export: Export, photographs: Cohort, tmp_path: Path):
    out = tmp_path / "out"
    export(photographs, out)
    answer = export(photographs, out, splits=["train", "test"], maps=["S"])
    assert answer["cases"] == 4
    pages = sorted(page.name for page in (out / "cases").iterdir())
    assert pages == ["0.html", "1.html", "4.html", "5.html"]
    assert 'href="4.html"' in (out / "cases" / "1.html").read_text()
    assert not list(out.glob("maps/grad_cam/*/*"))
    assert not list(out.glob("pictures/2/*"))
    assert '"cases":[0,1,4,5]' in (out / "cases.js").read_text()


def test_a_folder_of_something_else_is_refused(export: Export, photographs: Cohort, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(CohortError, match="other files"):
        export(photographs, tmp_path / "out")
    with pytest.raises(CohortError, match="--lesions is not for html"):
        export(photographs, tmp_path / "new", lesions=["MA"])


def test_volumes_have_a_file_a_slice(export: Export, volumes: Cohort, tmp_path: Path):
    export(volumes, tmp_path / "out", maps=["1"])
    slices = list((tmp_path / "out" / "pictures" / "0").glob("axial-*-channel-1.jpg"))
    assert len(slices) == 7
    assert (tmp_path / "out" / "pictures" / "0" / "axial-3-lesion-0.png").exists()
    assert not (tmp_path / "out" / "pictures" / "0" / "axial-0-lesion-0.png").exists()


def test_a_killed_export_goes_on_where_it_stopped(export: Export, photographs: Cohort, tmp_path: Path):
    out = tmp_path / "out"
    code = (
        "import sys; from tasks.browser import site; from storage.cohort import Cohort; site.SHARD = 1;"
        "from unittest import mock; import tasks.shards\n"
        "def one_by_one(function, parts):\n    yield from ((i, function(part)) for i, part in enumerate(parts))\n"
        "site.map_shards = one_by_one\n"
        "import time; drawn = site.write_case\n"
        "def slowly(*given):\n    time.sleep(0.5); return drawn(*given)\n"
        "site.write_case = slowly\n"
        "cohort = Cohort.open(sys.argv[1]); names = [cohort.map_names()[0], cohort.map_names()[1]]\n"
        "site.export_site(cohort, __import__('pathlib').Path(sys.argv[2]), range(6), names)\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", code, photographs.path, str(out)], cwd=PROJECT, env={**os.environ})
    journal = out / ".export.jsonl"
    while not (journal.exists() and len(journal.read_text().splitlines()) >= 3):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (out / "index.html").exists()
    answer = export(photographs, out, maps=photographs.map_names())
    assert 2 <= answer["unchanged"] < 6
    assert answer["written"] == 6 - answer["unchanged"]
    assert (out / "index.html").exists()
