"""`search`: settings of a system, tried by training it on a cohort, the best of them kept."""

from pathlib import Path
from typing import Any

from prefect import flow
from pydantic import PositiveInt

from models.errors import ModelError
from tasks.experiments import experiment, merged, preset
from tasks.notifications import notified
from tasks.reuse import finished, remember
from tasks.search.space import TRAINER, space_of
from tasks.search.trials import SearchPlan, checked_search, run_trials
from tasks.tracking.runs import flattened


@notified
@flow(name="search", flow_run_name="{system} on {cohort}")
def search(
    system: str,
    cohort: str,
    trials: PositiveInt,
    space: dict[str, Any] | None = None,
    target: str = "grade",
    preset_name: str = "small",
    settings: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    seed: int = 0,
    devices: int = 1,
    parallel: PositiveInt = 1,
) -> dict[str, Any]:
    """Search, go on where a killed search stopped, add trials to a shorter one, or hand back what was found before."""
    chosen = preset(system, preset_name)
    plan = SearchPlan(
        cohort=cohort,
        system=system,
        target=target,
        settings=merged(chosen["settings"], settings),
        trainer=merged(chosen["trainer"], trainer),
        seed=seed,
        devices=devices,
        space=space_of(searched_entries(system, space or {}, {**(settings or {}), TRAINER: trainer or {}})),
    )
    key, objective = checked_search(plan)
    known = finished("search", key)
    if known and sum(known["trials"].values()) >= trials:
        return {**known, "reused": True}
    answer = run_trials(key, plan, objective, trials, parallel)
    return remember("search", key, answer, sorted(Path(answer["model"]).iterdir()))


def searched_entries(system: str, given: dict[str, Any], fixed: dict[str, Any]) -> dict[str, Any]:
    """The experiment's `search` section with what is `given` on top, without what is `fixed`.

    Raises:
        ModelError: a setting is both given and fixed.
    """
    set_already = flattened(fixed).keys()
    if both := sorted(set_already & given.keys()):
        raise ModelError(f"{both[0]} is named by --set and by --space: it has one value, or is searched")
    entries = {**experiment(system).get("search", {}), **given}
    return {key: entry for key, entry in entries.items() if key not in set_already}
