"""The trainings of a plan before its trials: side by side, where one alone would leave part of the machine idle."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.reproduction import choice
from tasks.reproduction.arms import arm_training
from tasks.reproduction.plan import Plan, Trial, told
from tasks.training.placement import cores, device_groups
from tasks.training.side_by_side import Planned, trained_side_by_side


def parallel_by_default() -> int:
    """As many as there are GPUs; without one, as many as cores: a thread each serves small networks best."""
    return len(device_groups(1)) or cores()


@task(name="reproduce-trainings", cache_policy=NO_CACHE)
def train_ahead(plan: Plan, parent: str, parallel: int) -> None:
    """Train what the plan's trials and choices need, `parallel` at a time, as MLflow runs below `parent`.

    An arm that needs another one's model waits for it. A training that fails is left to its trial, which tells why.

    Raises:
        TrainingStoppedError: a signal ended one, and so all.
    """
    if parallel == 1:
        return
    models: dict[Trial, Path] = {}
    for trials in generations(plan):
        ready = {trial: found for trial in trials if (found := needed_models(plan, trial, models)) is not None}
        planned: dict[str, Planned] = {}
        keys: dict[Trial, str] = {}
        for trial, before in ready.items():
            key, job = arm_training(plan, trial, before)
            keys[trial] = key
            planned.setdefault(key, Planned(key, job, {"arm": trial.arm, "seed": str(trial.seed)}))
        found = trained(list(planned.values()), parent, parallel)
        models |= {trial: found[key] for trial, key in keys.items() if key in found}


def generations(plan: Plan) -> list[list[Trial]]:
    """The trials by how many arms' models theirs needs: those from scratch first."""
    wanted = [Trial(arm=one, seed=trial.seed) for trial in needed(plan) for one in lineage(plan, trial.arm)]
    trials = list(dict.fromkeys(wanted))
    depths = {trial: len(plan.ancestry(trial.arm)) for trial in trials}
    return [[trial for trial in trials if depths[trial] == depth] for depth in sorted(set(depths.values()))]


def needed(plan: Plan) -> Iterable[Trial]:
    """The trials, and for each arm with a choice the one that it is made with."""
    chosen = [Trial(arm=name, seed=choice.SEED) for name, arm in plan.arms.items() if arm.choose is not None]
    return [*chosen, *plan.trials]


def lineage(plan: Plan, name: str) -> list[str]:
    """The arm and those whose models it needs, by name."""
    return [name, *(one for before in plan.experiment.arms[name].after.values() for one in lineage(plan, before))]


def needed_models(plan: Plan, trial: Trial, models: Mapping[Trial, Path]) -> dict[str, Path] | None:
    """The models that the trial's training needs, by arm; None where one is missing."""
    wanted = {before: Trial(arm=before, seed=trial.seed) for before in plan.experiment.arms[trial.arm].after.values()}
    if not all(one in models for one in wanted.values()):
        return None
    return {before: models[one] for before, one in wanted.items()}


def trained(planned: list[Planned], parent: str, parallel: int) -> dict[str, Path]:
    """The models by the key of their training; those that failed have none."""
    found: dict[str, Path] = {}
    for number, outcome in trained_side_by_side(planned, parent, parallel):
        key, _, tags = planned[number]
        if isinstance(outcome, Exception):
            told(f"training {tags['arm']}, seed {tags['seed']} failed")
        else:
            found[key] = Path(outcome["model"])
            again = " before" if outcome.get("reused") else ""
            told(f"{tags['arm']}, seed {tags['seed']} trained{again} ({len(found)} of {len(planned)} trainings)")
    return found
