"""A case that cannot be done: the others are, the verb says so and exits 1, and goes on when the case is mended."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from storage.cohort import Cohort
from tasks.tracking.runs import tracking_client
from tasks.workspace import VARIABLE
from tests.damage import damage_one_case
from tests.flows.conftest import Command

LOOP = ["--set", "max_iterations=1", "--set", "stop_score=-10"]


def damaged_test_case(cohort: Cohort) -> tuple[int, Path, bytes]:
    return damage_one_case(cohort, cohort.table.index[cohort.table["split"] == "test"])


@pytest.fixture
def copied(fundus_cohort: Path, tmp_path: Path) -> Path:
    shutil.copytree(fundus_cohort, tmp_path / "cohort")
    return tmp_path / "cohort"


@pytest.mark.slow
def test_localize_reports_the_case_alone_and_makes_its_map_once_it_is_mended(
    command: Command, copied: Path, trained_model: Path, tmp_path: Path, workspace_folder: Path
):
    guilty, file, content = damaged_test_case(Cohort.open(copied))
    name, answer = Cohort.open(copied).table["case_id"].iloc[guilty], tmp_path / "answer.json"
    arguments = ["localize", copied, "--model", trained_model, "--split", "test", *LOOP, "--json", answer]
    done = command(*arguments)
    said = json.loads(answer.read_text())
    assert done.status == 1
    [line] = [line for line in done.err.splitlines() if line.startswith("lesionflow: ")]
    assert line.startswith(f"lesionflow: 1 case failed ({name}: ")
    assert [one["cases"] for one in said["failed"]] == [[name]]
    assert said["new"] == said["cases"] - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(workspace_folder))
        artifacts = [found.path for found in tracking_client().list_artifacts(said["run_id"])]
    assert "failed.json" in artifacts
    file.write_bytes(content)
    assert command(*arguments).status == 0
    assert json.loads(answer.read_text())["new"] == 1


@pytest.mark.slow
def test_radiomics_measures_the_others_and_ends_as_if_nothing_had_been(
    command: Command, copied: Path, tmp_path: Path, workspace_folder: Path
):
    undisturbed, out = tmp_path / "undisturbed.parquet", tmp_path / "features.parquet"
    assert command("radiomics", copied, "--masks", "--split", "test", "-o", undisturbed).status == 0
    guilty, file, content = damaged_test_case(Cohort.open(copied))
    name = Cohort.open(copied).table["case_id"].iloc[guilty]
    done = command("radiomics", copied, "--masks", "--split", "test", "-o", out)
    assert done.status == 1
    assert f"1 case failed ({name}: " in done.err
    whole, part = pd.read_parquet(undisturbed), pd.read_parquet(out)
    assert set(whole["case_id"]) - set(part["case_id"]) == {name}
    assert (workspace_folder / "shards" / "radiomics").is_dir()
    file.write_bytes(content)
    assert command("radiomics", copied, "--masks", "--split", "test", "-o", out).status == 0
    pd.testing.assert_frame_equal(pd.read_parquet(out), whole)
    assert pd.read_parquet(out).attrs["snapshot"] == Cohort.open(copied).snapshot
    assert not (workspace_folder / "shards").exists()
