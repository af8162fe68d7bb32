"""The book of decisions: each is a finished MLflow run, and the registry's aliases follow from the newest one.

A decision is written down first: a run of step `promotion`, which counts from the moment it is FINISHED. Then the alias
`champion` is moved, and last the run is tagged `applied`. A process that dies before the first has changed nothing; one
that dies after it leaves a decision that `settle` applies, since every step of that can be repeated. Only the newest
decision is ever applied, so one by hand stands until the next comparison.
"""

import getpass
import json
import socket
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import BaseFileLock, FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from pydantic import Field

from models.config import Config
from tasks.errors import PromotionError
from tasks.notifications import notify
from tasks.promotion.frozen import ABSENT, registered_model
from tasks.promotion.gate import Gate, Verdict
from tasks.reuse import without_nan
from tasks.tracking.runs import EXPERIMENT, TrackedRun, tracked_run, tracking_client
from tasks.workspace import current_workspace

STEP, FILE = "promotion", "decision.json"
CHAMPION, CHALLENGER, PREVIOUS, REFUSED = "champion", "challenger", "previous", "refused"
NUMBER, KEY, FIGURES, APPLIED = "promotion.number", "promotion.key", "promotion.figures", "applied"
OVERTAKEN = "overtaken"
GATE, BY_HAND = "gate", "by hand"
PAGE = 1000

Publish = Callable[[TrackedRun], Path]


class Decision(Config):
    """A decision and all it rests on; one by hand has no gate, verdict or figures.

    `champion` is the version that led before, `challenger` the one that was decided on. `metrics` are those of either
    by role, `gains` the differences turned so that more is better. `earlier` counts the comparisons before this one on
    the same frozen cases. `asked` is what a person asked for.
    """

    name: str
    decision: Literal["promoted", "refused", "by hand"]
    champion: int | None
    challenger: int
    reason: str
    by: str
    asked: str | None = None
    key: str = ""
    verdict: Verdict | None = None
    metrics: dict[str, dict[str, Any]] = Field(default={})
    gains: dict[str, Any] = Field(default={})
    frozen_run: str | None = None
    frozen_cases: int = 0
    earlier: int = 0
    cohort: str | None = None
    snapshot: str | None = None
    content: str | None = None
    gate: Gate | None = None
    settings: dict[str, Any] = Field(default={})


def champion_version(name: str) -> int | None:
    """The version that leads; None where none does."""
    return _aliases(tracking_client(), name).get(CHAMPION)


def propose(name: str, version: int) -> None:
    """Let the alias `challenger` name the version."""
    tracking_client().set_registered_model_alias(name, CHALLENGER, str(version))


def decisions(name: str) -> list[dict[str, Any]]:
    """Every decision on a registered model, newest first.

    Each has number, when (UTC), decision, champion, challenger, reason, by, applied, run_id, report, key, asked,
    frozen_run, and of a comparison metric, champion_value, challenger_value, gain, interval, cases, patients.
    """
    client = tracking_client()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return []
    wanted = f"attributes.status = 'FINISHED' and tags.step = '{STEP}' and tags.registered = '{name}'"
    page = client.search_runs([experiment.experiment_id], wanted, max_results=PAGE)
    found: list[Run] = list(page)
    while page.token:
        page = client.search_runs([experiment.experiment_id], wanted, max_results=PAGE, page_token=page.token)
        found += page
    return sorted(map(_entry, found), key=lambda entry: -entry["number"])


def recorded(entry: dict[str, Any]) -> dict[str, Any]:
    """The whole decision of an entry, as `decide` answered."""
    with tempfile.TemporaryDirectory() as folder:
        file = tracking_client().download_artifacts(entry["run_id"], FILE, folder)
        content = json.loads(Path(file).read_text())
    return {**content, "run_id": entry["run_id"], "report": entry["report"]}


def promotion_lock(name: str) -> BaseFileLock:
    """Held while a decision on `name` is taken and applied; it goes with its process."""
    folder = current_workspace().root / "locks"
    folder.mkdir(exist_ok=True)
    return FileLock(folder / f"promotion-{name.replace('/', '-')}.lock")


def settle(name: str) -> None:
    """Apply the newest decision if a process died before it did."""
    with promotion_lock(name):
        apply_newest(name)


def apply_newest(name: str) -> dict[str, Any] | None:
    """`settle` for who holds the lock: the entry that was applied, None where there was nothing to do."""
    newest = next(iter(decisions(name)), None)
    if newest is None or newest["applied"]:
        return None
    client = tracking_client()
    outcome = _mark_refused(client, name, newest) if newest["decision"] == "refused" else _install(client, name, newest)
    if outcome != OVERTAKEN:
        _tell(name, newest)
    client.set_tag(newest["run_id"], APPLIED, outcome)
    return newest


def decide(
    decision: Decision,
    publish: Publish | None = None,
    tags: dict[str, str] | None = None,
    files: Sequence[Path] = (),
) -> dict[str, Any]:
    """Write the decision down, then apply it; for who holds the lock. The decision with `run_id` and `report`."""
    known = decisions(decision.name)
    content = without_nan(decision.model_dump(mode="json"))
    config = {key: content[key] for key in ("name", "champion", "challenger", "gate", "settings", "frozen_run")}
    with tracked_run(STEP, config) as run:
        report = str(publish(run)) if publish else None
        run.log_json(content, FILE)
        for file in files:
            run.log_file(file)
        for role, metrics in decision.metrics.items():
            run.log_metrics({f"{role}/{key}": value for key, value in metrics.items()})
        run.log_metrics({f"gain/{key}": value for key, value in decision.gains.items()})
        number = 1 + max((entry["number"] for entry in known), default=0)
        run.tag(**{**(tags or {}), **_marks(decision, number, report)})
    apply_newest(decision.name)
    return {**content, "run_id": run.run_id, "report": report}


def promote_by_hand(name: str, to: int | Literal["previous"], reason: str) -> dict[str, Any]:
    """Make a version the champion because a person says so; "previous" is the one that led before.

    Asked again after a process died on the way, it completes what was asked for.

    Raises:
        PromotionError: no such model or version, no previous one, or it leads already.
    """
    with promotion_lock(name):
        completed = apply_newest(name)
        if completed and completed["decision"] == BY_HAND and completed["asked"] == str(to):
            return recorded(completed)
        client = tracking_client()
        version = _version_meant(client, name, to)
        champion = _aliases(client, name).get(CHAMPION)
        if version == champion:
            raise PromotionError(f"version {version} is the champion of {name} already")
        by = f"{_user()}@{socket.gethostname()}"
        said = reason or "no reason was given"
        made = Decision(
            name=name, decision=BY_HAND, champion=champion, challenger=version, reason=said, by=by, asked=str(to)
        )
        return decide(made)


def registry_state(name: str) -> dict[str, int | None]:
    """The versions that are champion, challenger and previous champion.

    Raises:
        PromotionError: there is no such registered model.
    """
    client = tracking_client()
    model = registered_model(client, name)
    if model is None:
        known = ", ".join(sorted(other.name for other in client.search_registered_models())) or "none"
        raise PromotionError(f"no registered model {name!r}; there are: {known}")
    aliases, previous = _aliases(client, name), model.tags.get(PREVIOUS)
    return {
        CHAMPION: aliases.get(CHAMPION),
        CHALLENGER: aliases.get(CHALLENGER),
        PREVIOUS: int(previous) if previous else None,
    }


def _version_meant(client: MlflowClient, name: str, to: int | str) -> int:
    state = registry_state(name)
    version = state[PREVIOUS] if to == PREVIOUS else int(to)
    if version is None:
        raise PromotionError(f"{name} has had no champion before the present one")
    versions = sorted(int(known.version) for known in client.search_model_versions(f"name = '{name}'"))
    if version not in versions:
        raise PromotionError(f"{name} has no version {version}; it has: {', '.join(map(str, versions)) or 'none'}")
    return version


def _install(client: MlflowClient, name: str, entry: dict[str, Any]) -> str:
    """Move the alias, unless somebody else has moved it since the decision, or the version was deleted."""
    before, version = entry[CHAMPION], entry[CHALLENGER]
    present = _aliases(client, name)
    if present.get(CHAMPION) not in (before, version) or not _exists(client, name, version):
        return OVERTAKEN
    if before is not None:
        client.set_registered_model_tag(name, PREVIOUS, str(before))
    client.set_registered_model_alias(name, CHAMPION, str(version))
    if present.get(CHALLENGER) == version:
        client.delete_registered_model_alias(name, CHALLENGER)
    client.delete_model_version_tag(name, str(version), REFUSED)
    return "yes"


def _mark_refused(client: MlflowClient, name: str, entry: dict[str, Any]) -> str:
    if not _exists(client, name, entry[CHALLENGER]):
        return OVERTAKEN
    client.set_model_version_tag(name, str(entry[CHALLENGER]), REFUSED, entry["run_id"])
    return "yes"


def _tell(name: str, entry: dict[str, Any]) -> None:
    event = "refused" if entry["decision"] == "refused" else "promoted"
    by = f", {entry['by']}" if entry["decision"] == BY_HAND else ""
    text = f"{name}: version {entry[CHALLENGER]} {event}{by}: {entry['reason']}"
    details = {key: entry[key] for key in (CHAMPION, CHALLENGER, "decision", "run_id", "report")}
    notify(event, text, name=name, **details)


def _marks(decision: Decision, number: int, report: str | None) -> dict[str, str]:
    """The tags of a run: for people to search by, and what `decisions` lists without opening an artifact."""
    verdict = decision.verdict
    figures = {
        "by": decision.by,
        "asked": decision.asked,
        "frozen_run": decision.frozen_run,
        "report": report,
        "metric": verdict and verdict.metric,
        "champion_value": verdict and verdict.champion,
        "challenger_value": verdict and verdict.challenger,
        "gain": verdict and verdict.gain,
        "interval": verdict and verdict.interval,
        "cases": verdict and verdict.cases,
        "patients": verdict and verdict.patients,
    }
    return {
        "registered": decision.name,
        CHAMPION: str(decision.champion or ""),
        CHALLENGER: str(decision.challenger),
        "decision": decision.decision,
        "reason": decision.reason[:1000],
        "content": decision.content or "",
        KEY: decision.key,
        NUMBER: str(number),
        FIGURES: json.dumps(without_nan(figures)),
    }


def _entry(run: Run) -> dict[str, Any]:
    tags = run.data.tags
    return {
        "number": int(tags[NUMBER]),
        "when": datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds"),
        "decision": tags["decision"],
        CHAMPION: int(tags[CHAMPION]) if tags[CHAMPION] else None,
        CHALLENGER: int(tags[CHALLENGER]),
        "reason": tags["reason"],
        "applied": APPLIED in tags,
        "run_id": run.info.run_id,
        "key": tags[KEY],
        **json.loads(tags[FIGURES]),
    }


def _aliases(client: MlflowClient, name: str) -> dict[str, int]:
    model = registered_model(client, name)
    return {alias: int(version) for alias, version in model.aliases.items()} if model else {}


def _exists(client: MlflowClient, name: str, version: int) -> bool:
    try:
        client.get_model_version(name, str(version))
    except MlflowException as error:
        if error.error_code == ABSENT:
            return False
        raise
    return True


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "somebody"
