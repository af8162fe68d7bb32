"""The flow `promote`: history, rollback, frozen cases; and how a person sees it."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from flows.promote import promote
from flows.show import show_decisions
from storage.cohort import Cohort
from storage.ingestion import ingest
from storage.sources import open_source
from tasks.errors import PromotionError
from tasks.promotion.ledger import Decision, decide
from tasks.tracking.runs import tracking_client

pytestmark = pytest.mark.usefixtures("prefect_server")


def shown(answer: dict) -> str:
    console = Console(file=io.StringIO(), width=200)
    show_decisions(console, answer)
    return console.file.getvalue()


def test_history_of_a_model_without_decisions_is_its_state(led: str):
    answer = promote(led)
    nothing = {"challenger": None, "previous": None, "frozen": None, "decisions": []}
    assert answer == {"name": led, "champion": 1, **nothing}
    assert shown(answer) == f"{led}: champion 1, challenger none, previous none\n"


def test_version_leads_and_is_rolled_back(led: str):
    assert promote(led, "3", "it is better")["champion"] == 3
    answer = promote(led, "previous", "it was not")
    assert (answer["champion"], answer["previous"]) == (1, 3)
    assert [made["reason"] for made in answer["decisions"]] == ["it was not", "it is better"]
    assert "it was not" in shown(answer)


def test_history_applies_what_was_left(led: str):
    made = decide(Decision(name=led, decision="promoted", champion=1, challenger=2, reason="better", by="gate"))
    client = tracking_client()
    client.set_registered_model_alias(led, "champion", "1")
    client.delete_tag(made["run_id"], "applied")
    answer = promote(led)
    assert answer["champion"] == 2
    assert answer["decisions"][0]["applied"]


def test_cases_are_frozen_anew(led: str, tmp_path: Path):
    ingest(open_source("sim:fundus?cases=20&size=32&seed=3"), tmp_path / "fundus", fractions=(0.4, 0.2, 0.4))
    answer = promote(led, freeze=str(tmp_path / "fundus"))
    counts = int((Cohort.open(tmp_path / "fundus").table["split"] == "test").sum())
    assert answer["frozen"]["cases"] == answer["frozen"]["labelled"] == counts
    assert f"frozen: cases {counts}, patients" in shown(answer)


@pytest.mark.parametrize(
    ("named", "complaint"),
    [
        ({"to": "3", "freeze": "cohort"}, "say either"),
        ({"to": "newest"}, "'newest' is no version"),
        ({"to": "9"}, "has no version 9"),
        ({"to": "1"}, "is the champion of"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(led: str, named: dict[str, str], complaint: str):
    with pytest.raises(PromotionError, match=complaint):
        promote(led, **named)


@pytest.mark.parametrize("name", ["fundos", "retina/fundus"])
def test_unknown_model_is_refused(led: str, name: str):
    with pytest.raises(PromotionError, match=f"no registered model '{name}'; there are: .*{led}"):
        promote(name)
