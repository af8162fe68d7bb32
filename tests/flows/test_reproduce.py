"""`lesionflow reproduce` on an experiment file of a developer's own: small systems, simulated photographs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flows.conftest import Command

ROOT = Path(__file__).resolve().parents[2]
NETWORK = {"width": 0.1, "head": [8], "normalisation": "batch", "block5_valid": False, "stem_stride": 2, "head_pool": 1}
LOOP = {"max_iterations": 2, "stop_score": -5.0}
TOY: dict[str, Any] = {
    "system": "iterative-refinement",
    "source": {"simulated": "fundus", "cases": 30, "size": 64, "seed": 5},
    "fractions": [0.5, 0.2, 0.3],
    "settings": {"network": NETWORK},
    "trainer": {"max_epochs": 2, "batch_size": 8},
    "seeds": 2,
    "arms": {
        "plain": {"localize": {"method": "saliency", "saliency": "gradient"}},
        "loop": {"localize": {"method": "iterative-refinement", "saliency": "gradient", "settings": LOOP}},
        "tuned": {
            "initial": "plain",
            "trainer": {"max_epochs": 1},
            "localize": {"method": "saliency", "saliency": "gradient"},
            "choose": {"metric": "energy_red", "among": [{"sign": "negative"}, {"sign": "positive"}]},
        },
    },
    "apart": ["red"],
    "metric": "energy",
    "reported": {"plain": 0.2},
    "reported_on": "nothing at all",
    "expect": ["plain > 0", "loop >= 100 * plain"],
    "gains": [{"arm": "loop", "over": "plain", "metric": "energy", "reported": 0.1}],
}


def written(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    file = folder / "toy.yaml"
    file.write_text(yaml.safe_dump({**TOY, **(changes or {})}, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def reproduced(command: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("reproduce")
    done = command("reproduce", written(folder), "--json", folder / "toy.json")
    assert done.status == 0, done.err
    return {**json.loads((folder / "toy.json").read_text()), "out": done.out, "err": done.err, "file": folder}


@pytest.fixture
def mlflow(workspace_folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{workspace_folder / 'mlflow.db'}")


def values(answer: dict[str, Any], metric: str = "energy") -> dict[str, dict[str, float]]:
    return {arm: metrics[metric]["values"] for arm, metrics in answer["arms"].items()}


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestExperiment:
    def test_answer_has_what_was_designed(self, reproduced: dict[str, Any]):
        assert (reproduced["system"], reproduced["preset"]) == ("iterative-refinement", "small")
        assert reproduced["seconds"] > 0
        assert set(reproduced["arms"]) == {"plain", "loop", "tuned"}
        energy = reproduced["arms"]["plain"]["energy"]
        assert energy["seeds"] == 2
        assert energy["interval"][0] <= energy["mean"] <= energy["interval"][1]
        assert energy["mean"] == pytest.approx(sum(energy["values"].values()) / 2)
        assert reproduced["reported"] == {"plain": 0.2}
        assert [(one["rule"], one["holds"]) for one in reproduced["expect"]] == [
            ("plain > 0", True),
            ("loop >= 100 * plain", False),
        ]
        assert reproduced["protocol"] == "held_out"
        assert reproduced["failed"] == []

    def test_class_judged_apart_has_figures_of_its_own(self, reproduced: dict[str, Any]):
        plain = reproduced["arms"]["plain"]
        assert 0 < plain["energy_red"]["mean"] < 1
        assert plain["energy_red"]["values"] != plain["energy"]["values"]

    def test_choice_is_made_before_the_figures_and_told(self, reproduced: dict[str, Any]):
        choice = reproduced["choices"]["tuned"]
        assert choice["chosen"] == max(choice["among"], key=lambda one: one["value"])["settings"]
        assert all(0 < one["value"] < 1 for one in choice["among"])
        assert {one["seed"] for one in reproduced["trials"]} == {0, 1}

    def test_arms_that_differ_in_their_maps_alone_share_a_training(self, reproduced: dict[str, Any]):
        shared = sorted(arms for arms in reproduced["trainings"].values())
        assert shared == [
            ["plain seed 0", "loop seed 0"],
            ["plain seed 1", "loop seed 1"],
            ["tuned seed 0"],
            ["tuned seed 1"],
        ]

    def test_arm_starts_from_the_weights_of_the_other_with_its_seed(self, reproduced: dict[str, Any]):
        trials = {(one["arm"], one["seed"]): one for one in reproduced["trials"]}
        for seed in range(2):
            job = json.loads(Path(trials["tuned", seed]["model"]).with_name("job.json").read_text())
            assert job["initial"] == trials["plain", seed]["model"]
            assert job["seed"] == seed

    def test_mlflow_has_a_run_an_arm_and_seed_and_the_training_below_it(self, reproduced: dict[str, Any], mlflow: Any):
        experiment = mlflow.get_experiment_by_name("lesionflow").experiment_id

        def below(run_id: str) -> dict[str, Any]:
            found = mlflow.search_runs([experiment], f"tags.mlflow.parentRunId = '{run_id}'")
            return {run.info.run_id: run for run in found}

        found = below(reproduced["run_id"])
        everything = {id_: run for id_, run in found.items() if run.data.tags["step"] == "reproduce-trial"}
        trials = {id_: run for id_, run in everything.items() if run.data.tags["arm"] in reproduced["arms"]}
        assert len(everything) == len(trials) + 2  # those of the choice
        assert {(run.data.tags["arm"], run.data.tags["seed"]) for run in trials.values()} == {
            (arm, seed) for arm in ("plain", "loop", "tuned") for seed in "01"
        }
        assert {run.data.tags["protocol"] for run in trials.values()} == {"held_out"}
        by_arm = {(one["arm"], one["seed"]): one for one in reproduced["trials"]}
        steps = [run.data.tags["step"] for run in below(by_arm["plain", 0]["run_id"]).values()]
        assert sorted(steps) == ["evaluate", "evaluate", "localize", "train"]  # of all lesions, and of the red ones
        assert trials[by_arm["loop", 0]["run_id"]].data.tags["training_run"] == by_arm["plain", 0]["training_run"]
        logged = trials[by_arm["loop", 1]["run_id"]].data.metrics["energy"]
        assert logged == pytest.approx(reproduced["arms"]["loop"]["energy"]["values"]["1"])

    def test_gain_is_relative_and_each_seed_has_the_interval_over_patients(self, reproduced: dict[str, Any]):
        [gain] = reproduced["gains"]
        found = values(reproduced)
        for seed, one in gain["by_seed"].items():
            first, second = found["loop"][seed], found["plain"][seed]
            assert one["relative"] == pytest.approx(first / second - 1)
            assert one["difference"] == pytest.approx(first - second)
            assert one["interval"][0] <= one["difference"] <= one["interval"][1]

    def test_terminal_shows_the_table_what_was_expected_and_the_protocol(self, reproduced: dict[str, Any]):
        assert "0.200" in reproduced["out"]
        assert "no, by" in reproduced["out"]
        assert "trained and evaluated on different patients" in reproduced["out"]
        assert "reproduce: 6 of 6: tuned, seed 1; about " in reproduced["err"]

    def test_page_has_figures_and_tables(self, reproduced: dict[str, Any]):
        page = Path(reproduced["report"]).read_text()
        assert page.count("data:image/png;base64") == 3
        for heading in ("Arms: energy", "What was expected", "Relative gains", "Image, truth, maps"):
            assert heading in page

    def test_again_hands_back_the_answer(self, reproduced: dict[str, Any], command: Command, tmp_path: Path):
        done = command("reproduce", reproduced["file"] / "toy.yaml", "--json", tmp_path / "again.json")
        again = json.loads((tmp_path / "again.json").read_text())
        assert again.pop("reused")
        assert again == {key: value for key, value in reproduced.items() if key not in ("out", "err", "file")}
        assert "1 of 6" not in done.err

    def test_one_arm_more_leaves_the_others_as_they_are(
        self, reproduced: dict[str, Any], command: Command, tmp_path: Path
    ):
        more = {"telea": {"localize": {**TOY["arms"]["loop"]["localize"], "settings": {**LOOP, "inpainter": "telea"}}}}
        file = written(tmp_path, {"arms": {**TOY["arms"], **more}})
        done = command("reproduce", file, "--seeds", "1", "--json", tmp_path / "more.json")
        assert done.status == 0, done.err
        assert done.err.count("done before") == 3
        found = values(json.loads((tmp_path / "more.json").read_text()))
        assert {arm: found[arm]["0"] for arm in TOY["arms"]} == {
            arm: by_seed["0"] for arm, by_seed in values(reproduced).items()
        }

    def test_failed_arm_is_told_and_the_others_are_done(self, command: Command, tmp_path: Path):
        broken = {"trainer": {"batch_size": 64, "max_epochs": 1, "patch": [999, 999]}}
        file = written(
            tmp_path, {"arms": {"broken": broken, "plain": TOY["arms"]["plain"]}, "expect": ["plain > broken"]}
        )
        cut = {"gains": [], "reported": {}}
        file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **cut}, sort_keys=False))
        done = command("reproduce", file, "--seeds", "1", "--json", tmp_path / "broken.json")
        assert done.status == 1
        assert done.err.strip().splitlines()[-1].startswith("lesionflow: failed: broken with seed 0: ")
        answer = json.loads((tmp_path / "broken.json").read_text())
        assert [(one["arm"], one["seed"]) for one in answer["failed"]] == [("broken", 0)]
        assert "energy" in answer["arms"]["plain"]
        assert answer["expect"][0]["holds"] is None

    def test_own_cohort_takes_the_place_of_the_source(
        self, reproduced: dict[str, Any], command: Command, fundus_cohort: Path, tmp_path: Path
    ):
        arguments = ["--cohort", fundus_cohort, "--seeds", "1", "--arm", "plain", "--set", "protocol=transductive"]
        chosen = {name: {key: of[key] for key in of if key != "choose"} for name, of in TOY["arms"].items()}
        file = written(tmp_path, {"arms": chosen})
        done = command("reproduce", file, *arguments, "--json", tmp_path / "own.json")
        assert done.status == 0, done.err
        answer = json.loads((tmp_path / "own.json").read_text())
        assert answer["cohort"] == str(fundus_cohort)
        assert (answer["protocol"], answer["cases"], answer["cohort_cases"]) == ("transductive", 40, 40)
        job = json.loads(Path(answer["trials"][0]["model"]).with_name("job.json").read_text())
        assert len(job["cases"]["train"]) == len(job["cases"]["validation"]) == 40


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], ("no experiment 'nope'", "iterative-refinement")),
        (["demo"], ("no arms",)),
        (["iterative-refinement", "--preset", "huge"], ("no preset 'huge'",)),
        (["iterative-refinement", "--set", "metrc=energy"], ("metrc is not a setting",)),
        (["iterative-refinement", "--cohort", "/nowhere"], ("/nowhere",)),
    ],
)
def test_mistake_is_one_line_and_status_2(command: Command, arguments: list[str], words: tuple[str, ...]):
    done = command("reproduce", *arguments)
    assert done.status == 2
    line = done.err.strip().splitlines()[-1]
    assert line.startswith("lesionflow: ")
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("arms.plain.settings.network.widht=2", ("arms.plain.settings", "network.widht is not a setting")),
        ("arms.plain.trainer.epochs=2", ("arms.plain.trainer", "epochs is not a setting")),
        ("arms.loop.localize.settings.decai=2", ("arms.loop.localize", "decai is not a setting")),
        ("trainer.stages.warmup.max_epochs=2", ("no arm has a stage 'warmup'",)),
    ],
)
def test_wrong_setting_of_an_arm_is_told_before_anything_is_trained(
    command: Command, fundus_cohort: Path, tmp_path: Path, settings: str, words: tuple[str, ...]
):
    done = command("reproduce", written(tmp_path), "--cohort", fundus_cohort, "--set", settings)
    assert done.status == 2
    assert all(word in done.err for word in words), done.err
    assert "1 of" not in done.err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_run_goes_on_with_the_rest_and_ends_with_the_same_figures(tmp_path: Path):
    file = written(tmp_path, {"arms": {arm: TOY["arms"][arm] for arm in ("plain", "loop")}})

    def start(workspace: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "flows.cli", "--workspace", str(workspace), "reproduce", str(file)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))}
        out = str(workspace.with_suffix(".json"))
        return subprocess.Popen(
            [*command, "--json", out],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )

    cut, whole = tmp_path / "cut", tmp_path / "whole"
    killed = start(cut)
    while len(list(cut.glob("steps/reproduce-trial/*.json"))) < 2:  # the second seed's trials have begun
        assert killed.poll() is None, killed.communicate()[1]
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    answers = {}
    for workspace in (cut, whole):
        process = start(workspace)
        told = process.communicate()[1]
        assert process.returncode == 0, told
        answers[workspace] = json.loads(workspace.with_suffix(".json").read_text())
        assert told.count("done before") == (2 if workspace == cut else 0)
    assert dict(answers[cut]["arms"].items()) == answers[whole]["arms"]
    assert answers[cut]["expect"] == answers[whole]["expect"]
    assert len(answers[cut]["trials"]) == 4
