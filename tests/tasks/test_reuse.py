import json

from tasks.reuse import fingerprint, finished, remember, write_json
from tasks.workspace import Workspace


def test_fingerprint_follows_inputs_and_step():
    same = fingerprint("train", seed=0, cohort="a")
    assert same == fingerprint("train", cohort="a", seed=0)
    assert len({same, fingerprint("train", seed=1, cohort="a"), fingerprint("localize", seed=0, cohort="a")}) == 3


def test_finished_step_is_answered_from_its_record(workspace: Workspace):
    made = workspace.root / "made.txt"
    made.write_text("whole")
    remember("step", "key", {"answer": 1}, [made])
    assert finished("step", "key") == {"answer": 1}
    assert finished("step", "other") is None


def test_record_of_an_altered_or_missing_file_counts_for_nothing(workspace: Workspace):
    made = workspace.root / "made.txt"
    made.write_text("whole")
    remember("step", "key", {"answer": 1}, [made])
    made.write_text("torn")
    assert finished("step", "key") is None
    made.unlink()
    assert finished("step", "key") is None


def test_json_replaces_the_old_file_whole(workspace: Workspace):
    file = write_json(workspace.root / "a" / "x.json", {"n": 1})
    write_json(file, {"n": 2})
    assert file.read_text() == '{\n "n": 2\n}'
    assert [entry.name for entry in file.parent.iterdir()] == ["x.json"]


def test_json_says_null_where_there_is_no_number(workspace: Workspace):
    file = write_json(workspace.root / "x.json", {"ap": float("nan"), "interval": [0.5, float("inf")]})
    assert json.loads(file.read_text()) == {"ap": None, "interval": [0.5, None]}
