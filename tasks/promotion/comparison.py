"""A challenger against the champion, on the frozen cases: measured, judged, written down, applied."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from models.errors import ModelError
from storage.cohort import Cohort
from tasks.errors import PromotionError
from tasks.localization import REFINED, localize_refined, loop_settings, map_name
from tasks.model_files import describe_model
from tasks.promotion.frozen import Frozen, freeze, frozen_cases, indices_of
from tasks.promotion.gate import Gate, Verdict, gate_metric, judge, rule_in_words
from tasks.promotion.ledger import (
    CHALLENGER,
    CHAMPION,
    GATE,
    Decision,
    champion_version,
    decide,
    decisions,
    promotion_lock,
    recorded,
    settle,
)
from tasks.promotion.measurement import Measured, measure
from tasks.promotion.report import publish_decision
from tasks.tracking.registry import locate_model


@dataclass(frozen=True)
class Contest:
    """Who is compared with whom, on what, and by which rule."""

    name: str
    champion: int | None
    challenger: int
    frozen: Frozen
    gate: Gate
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        """What a decision on it is known by."""
        parts = [self.name, self.champion, self.challenger, self.frozen.run_id, self.gate.model_dump(), self.settings]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def roles(self) -> dict[str, int]:
        """The versions by role, the challenger first."""
        return {CHALLENGER: self.challenger} | ({CHAMPION: self.champion} if self.champion is not None else {})


@task(
    name="compare-with-champion", task_run_name="compare {name} {challenger} with its champion", cache_policy=NO_CACHE
)
def compare_with_champion(
    name: str,
    cohort: str,
    challenger: int,
    gate: Gate,
    *,
    settings: dict[str, Any] = {},  # noqa: B006
    batch_size: int = 32,
    workers: int | None = None,
    tags: dict[str, str] = {},  # noqa: B006
    files: Sequence[Path] = (),
) -> dict[str, Any]:
    """Promote version `challenger` of `name` if `gate` says so, else refuse it; the decision, with `run_id`, `report`.

    What was decided before is not decided again (`reused`). Where nothing is frozen yet, the test cases of `cohort`
    are. `settings` are those of the refinement; `tags` and `files` go into the run of the decision. The lock is held
    only while deciding: should the champion change during the measurements, they begin anew with the new one.

    Raises:
        PromotionError: the frozen cases have changed, or the champion cannot be measured.
    """
    settle(name)
    while True:
        contest = contest_of(name, cohort, challenger, gate, settings)
        if known := decided_before(contest):
            return {**known, "reused": True}
        opened, cases, maps = mapped(contest, cohort, batch_size, workers)
        measured = measure(opened, contest.frozen, cases, maps, gate, workers)
        with promotion_lock(name):
            if contest_of(name, cohort, challenger, gate, settings).key != contest.key or decided_before(contest):
                continue
            made = decision_on(contest, opened, measured)
            publish = partial(publish_decision, decision=made, measured=measured)
            answer = decide(made, publish, tags, files)
        if made.decision == "refused":
            drop_refused(opened, cases, maps)
        return {**answer, "reused": False}


def contest_of(name: str, cohort: str, challenger: int, gate: Gate, settings: dict[str, Any]) -> Contest:
    """The contest as the registry has it now; its test cases are frozen where none are.

    Raises:
        PromotionError: the challenger learned another label than that of the frozen cases.
    """
    target = describe_model(locate_model(f"{name}/{challenger}")).get("target")
    frozen = frozen_cases(name)
    if frozen is None:
        if target is None:
            raise PromotionError(f"version {challenger} of {name} does not say what label it learned")
        frozen = freeze(name, cohort, target)
    if target != frozen.target:
        raise PromotionError(
            f"version {challenger} of {name} learned {target!r}, the frozen cases are labelled with {frozen.target!r}"
        )
    return Contest(name, champion_version(name), challenger, frozen, gate, settings)


def decided_before(contest: Contest) -> dict[str, Any] | None:
    """The decision on the same contest, or that by which the challenger became the champion.

    Raises:
        PromotionError: it leads, but nobody decided so.
    """
    entries = decisions(contest.name)
    if contest.champion == contest.challenger:
        entry = next((one for one in entries if one[CHALLENGER] == contest.challenger), None)
        if entry is None:
            raise PromotionError(f"version {contest.challenger} is the champion of {contest.name} already")
        return recorded(entry)
    entry = next((one for one in entries if one["key"] == contest.key), None)
    return recorded(entry) if entry else None


def mapped(
    contest: Contest, cohort: str, batch_size: int, workers: int | None
) -> tuple[Cohort, list[int], dict[str, str]]:
    """The cohort with the maps of both models on the frozen cases, these cases, and the map sets by role.

    Raises:
        PromotionError: a frozen case has changed.
        ModelError: the settings are wrong.
    """
    indices_of(Cohort.open(cohort), contest.frozen)
    ids = contest.frozen.table["case_id"].tolist()
    maps = {}
    for role, version in contest.roles.items():
        folder = locate_model(f"{contest.name}/{version}")
        about = describe_model(folder)
        loop_settings(about, contest.settings)
        maps[role] = map_name(about, REFINED)
        try:
            localize_refined(cohort, str(folder), [], contest.settings, batch_size, cases=ids, workers=workers)
        except ModelError:
            if role == CHAMPION:
                raise
            # not one case could be done: `measure` finds no map, and says so
    opened = Cohort.open(cohort)
    return opened, indices_of(opened, contest.frozen), maps


def decision_on(contest: Contest, cohort: Cohort, measured: Measured) -> Decision:
    """The verdict with all it rests on."""
    verdict = verdict_on(contest, measured)
    same = [one for one in decisions(contest.name) if one["frozen_run"] == contest.frozen.run_id]
    return Decision(
        name=contest.name,
        decision="promoted" if verdict.promoted else "refused",
        champion=contest.champion,
        challenger=contest.challenger,
        reason=verdict.reason,
        by=GATE,
        key=contest.key,
        verdict=verdict,
        metrics=measured.metrics,
        gains=measured.gains,
        frozen_run=contest.frozen.run_id,
        frozen_cases=len(contest.frozen.table),
        earlier=sum(one[CHAMPION] is not None for one in same),
        cohort=cohort.path,
        snapshot=cohort.snapshot,
        content=cohort.content_digest(),
        gate=contest.gate,
        settings=contest.settings,
    )


def verdict_on(contest: Contest, measured: Measured) -> Verdict:
    """What the gate says; a challenger that could not be measured is refused."""
    gate = contest.gate
    if measured.unusable:
        metric = gate_metric(gate, {})
        return Verdict(promoted=False, metric=metric, rule=rule_in_words(gate, metric), reason=measured.unusable)
    challenger = measured.metrics[CHALLENGER]
    resting = measured.resting_on(gate_metric(gate, challenger))
    return judge(gate, measured.gains, measured.metrics.get(CHAMPION), challenger, *resting)


def drop_refused(cohort: Cohort, cases: Sequence[int], maps: dict[str, str]) -> None:
    """Remove a refused challenger's maps, unless they cover more than the frozen cases, or are the champion's too."""
    refused = maps[CHALLENGER].rsplit("/", 1)[0]
    if CHAMPION in maps and maps[CHAMPION].startswith(f"{refused}/"):
        return
    for name in cohort.map_names():
        if name.startswith(f"{refused}/") and set(map(int, cohort.maps(name).indices)) <= set(cases):
            cohort.drop_maps(name)
