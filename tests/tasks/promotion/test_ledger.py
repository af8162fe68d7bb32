"""Decisions on a real registry: recorded, applied, completed after a kill, and undone by hand."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from filelock import Timeout

from tasks.errors import PromotionError
from tasks.promotion.ledger import (
    BY_HAND,
    Decision,
    champion_version,
    decide,
    decisions,
    promote_by_hand,
    promotion_lock,
    propose,
    recorded,
    registry_state,
    settle,
)
from tasks.reuse import PROJECT
from tasks.tracking.runs import tracking_client

KILLED = """
import os, signal
from mlflow import MlflowClient
from mlflow.tracking.client import MlflowClient as Client
from tasks.promotion.ledger import promote_by_hand
def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(Client, "{call}", die)
promote_by_hand("{name}", {to}, "because")
"""


def made(name: str, decision: str, challenger: int, champion: int | None = 1, reason: str = "so it is") -> Decision:
    return Decision(
        name=name, decision=decision, champion=champion, challenger=challenger, reason=reason, by="gate", key="k"
    )


def state(name: str) -> tuple[int | None, int | None, int | None]:
    """Champion, challenger, and the champion before."""
    return tuple(registry_state(name).values())


def refused_by(name: str, version: int) -> str | None:
    return tracking_client().get_model_version(name, str(version)).tags.get("refused")


def killed_while(name: str, call: str, to: int | str = 2) -> None:
    """Promote by hand in a process that is killed at its first such call to MLflow."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(name=name, call=call, to=repr(to))], cwd=PROJECT, timeout=120
    )
    assert done.returncode == -signal.SIGKILL


def test_promoted_version_leads_and_the_one_before_is_noted(led: str):
    propose(led, 2)
    decide(made(led, "promoted", 2))
    assert state(led) == (2, None, 1)


def test_refused_version_stays_challenger_and_says_by_which_run(led: str):
    propose(led, 2)
    answer = decide(made(led, "refused", 2))
    assert state(led) == (1, 2, None)
    assert refused_by(led, 2) == answer["run_id"]


def test_first_version_leads_without_one_before(led: str):
    tracking_client().delete_registered_model_alias(led, "champion")
    decide(made(led, "promoted", 2, champion=None))
    assert state(led) == (2, None, None)


@pytest.mark.usefixtures("shared_workspace")
def test_nobody_leads_a_model_that_is_not_registered():
    assert champion_version("unheard-of") is None
    assert decisions("unheard-of") == []
    settle("unheard-of")


def test_decisions_are_listed_newest_first_with_what_they_rest_on(led: str, tmp_path):
    (tmp_path / "known.txt").write_text("cases")
    answer = decide(made(led, "promoted", 2), tags={"retrain.name": led}, files=[tmp_path / "known.txt"])
    promote_by_hand(led, "previous", "it missed haemorrhages")
    newest, first = decisions(led)
    assert (newest["decision"], newest["champion"], newest["challenger"]) == (BY_HAND, 2, 1)
    assert newest["reason"] == "it missed haemorrhages"
    assert (first["number"], first["by"], first["applied"], first["run_id"]) == (1, "gate", True, answer["run_id"])
    assert recorded(first) == answer
    run = tracking_client().get_run(first["run_id"])
    assert run.data.tags["retrain.name"] == led
    assert "known.txt" in {file.path for file in tracking_client().list_artifacts(run.info.run_id)}


def test_roll_back_and_forth(led: str):
    promote_by_hand(led, 3, "it is better")
    assert state(led) == (3, None, 1)
    promote_by_hand(led, "previous", "it was not")
    assert state(led) == (1, None, 3)
    promote_by_hand(led, "previous", "it was after all")
    assert state(led) == (3, None, 1)


def test_refused_version_that_is_promoted_by_hand_is_refused_no_longer(led: str):
    decide(made(led, "refused", 2))
    promote_by_hand(led, 2, "the test cases are too few")
    assert refused_by(led, 2) is None


@pytest.mark.parametrize(
    ("to", "complaint"),
    [
        (4, "has no version 4; it has: 1, 2, 3"),
        (1, "version 1 is the champion of fundus-.* already"),
        ("previous", "no champion before"),
    ],
)
def test_promotion_that_cannot_be_is_refused_in_one_line(led: str, to, complaint: str):
    with pytest.raises(PromotionError, match=complaint):
        promote_by_hand(led, to, "")
    assert decisions(led) == []


def test_unknown_model_is_refused_with_those_there_are(led: str):
    with pytest.raises(PromotionError, match=f"no registered model 'fundos'; there are: .*{led}"):
        promote_by_hand("fundos", 1, "")


@pytest.mark.parametrize(
    "call",
    [
        pytest.param("set_registered_model_tag", marks=pytest.mark.slow),
        "set_registered_model_alias",
        pytest.param("delete_model_version_tag", marks=pytest.mark.slow),
        pytest.param("set_tag", marks=pytest.mark.slow),
    ],
)
def test_decision_that_was_killed_before_it_was_applied_is_applied_by_settle(led: str, call: str):
    killed_while(led, call)
    [entry] = decisions(led)
    assert not entry["applied"]
    settle(led)
    settle(led)
    assert state(led) == (2, None, 1)
    assert [entry["applied"] for entry in decisions(led)] == [True]


def test_decision_that_was_killed_before_it_was_recorded_has_changed_nothing(led: str):
    killed_while(led, "set_terminated")
    assert decisions(led) == []
    settle(led)
    assert state(led) == (1, None, None)


def test_rollback_that_was_killed_and_is_asked_for_again_goes_back_once(led: str):
    promote_by_hand(led, 2, "")
    killed_while(led, "set_tag", "previous")
    assert champion_version(led) == 1
    answer = promote_by_hand(led, "previous", "because")
    assert state(led) == (1, None, 2)
    assert answer["challenger"] == 1
    assert len(decisions(led)) == 2


def test_rollback_wins_over_an_older_decision_that_was_never_applied(led: str):
    first = decide(made(led, "promoted", 2))
    promote_by_hand(led, "previous", "")
    tracking_client().delete_tag(first["run_id"], "applied")
    settle(led)
    assert champion_version(led) == 1


@pytest.mark.parametrize("change", ["alias", pytest.param("version", marks=pytest.mark.slow)])
def test_decision_that_the_registry_has_overtaken_is_not_applied(led: str, change: str):
    killed_while(led, "set_registered_model_alias")
    client = tracking_client()
    if change == "alias":
        client.set_registered_model_alias(led, "champion", "3")
    else:
        client.delete_model_version(led, "2")
    settle(led)
    assert champion_version(led) == (3 if change == "alias" else 1)
    assert client.get_run(decisions(led)[0]["run_id"]).data.tags["applied"] == "overtaken"


def test_two_at_once_decide_one_after_the_other(led: str):
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda to: promote_by_hand(led, to, ""), (2, 3)))
    newest, first = decisions(led)
    assert (first["champion"], newest["champion"]) == (1, first["challenger"])
    assert champion_version(led) == newest["challenger"]
    assert {answer["challenger"] for answer in answers} == {2, 3}


def test_lock_goes_with_the_process_that_is_killed(led: str):
    script = f"from tasks.promotion.ledger import promotion_lock\nimport time\nwith promotion_lock('{led}'):\n"
    script += "    print('held', flush=True)\n    time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Timeout):
        promotion_lock(led).acquire(timeout=0.1)
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    settle(led)


def test_two_hundred_decisions_are_listed_within_a_second_of_work(led: str):
    from tasks.promotion import ledger

    client = tracking_client()
    decide(made(led, "refused", 2))
    experiment = client.get_experiment_by_name("lesionflow").experiment_id
    for number in range(2, 202):
        marks = ledger._marks(made(led, "refused", 2), number, None)
        run = client.create_run(experiment, tags={"step": "promotion", "applied": "yes", **marks})
        client.set_terminated(run.info.run_id)
    begun = time.process_time()  # the database is in this process
    found = decisions(led)
    seconds = time.process_time() - begun
    assert [entry["number"] for entry in found] == list(range(201, 0, -1))
    assert seconds < 1
