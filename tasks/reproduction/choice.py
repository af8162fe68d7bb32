"""Settings of an arm's maps that an experiment leaves to a choice, made before any figure is taken.

A choice is made on the maps of a training of its own and on patients of split `validation`, so that no figure comes
from the network or the cases that it looked at.
"""

import math
from typing import Any, NamedTuple

from tasks.experiments import merged
from tasks.reproduction.arms import run_trial
from tasks.reproduction.experiment import Arm, Choice
from tasks.reproduction.plan import Plan, Trial, map_settings, told

SEED = 1_000_000  # of the training that choices are made with
Chosen = dict[str, Any]


class Settled(NamedTuple):
    """A plan whose choices are made; of each arm with one, {"metric", "among": [settings and value], "chosen"}."""

    plan: Plan
    choices: dict[str, Chosen]


def settled(plan: Plan, parent: str) -> Settled:
    """Make the choices of all wanted arms; their trials are MLflow runs below `parent`, and done before where known.

    Raises:
        TrainingError, ModelError, CohortError, LoadingError: a candidate's maps cannot be made or judged.
    """
    arms, choices = dict(plan.experiment.arms), {}
    for name in plan.chosen:
        arm = arms[name]
        if arm.choose is not None:
            choices[name] = tried(plan, name, arm.choose, parent)
            arms[name] = with_settings(arm, choices[name]["chosen"])
    experiment = plan.experiment.model_copy(update={"arms": arms})
    return Settled(plan.model_copy(update={"experiment": experiment}), choices)


def tried(plan: Plan, name: str, choice: Choice, parent: str) -> Chosen:
    """Every candidate with its value, and the one whose value is the largest (the first of equals)."""
    candidates = {f"{name}_choice_{number}": settings for number, settings in enumerate(choice.among)}
    arm = plan.experiment.arms[name]
    arms = {**plan.experiment.arms, **{one: with_settings(arm, settings) for one, settings in candidates.items()}}
    development = plan.model_copy(
        update={"experiment": plan.experiment.model_copy(update={"arms": arms}), "development": True}
    )
    among: list[dict[str, Any]] = []
    for one, settings in candidates.items():
        metrics = run_trial(development, Trial(arm=one, seed=SEED), parent)["metrics"]
        value = metrics.get(choice.metric)
        among.append({"settings": settings, "value": value if value is not None and math.isfinite(value) else None})
        told(f"{name}: {choice.metric} {value if value is None else round(value, 3)} on validation with {settings}")
    best = max(among, key=lambda one: -math.inf if one["value"] is None else one["value"])
    return {"metric": choice.metric, "among": among, "chosen": best["settings"]}


def with_settings(arm: Arm, settings: dict[str, Any]) -> Arm:
    """The arm with `settings` of `localize` on top of its own, and nothing left to choose."""
    maps = arm.localize.model_copy(update={"settings": merged(map_settings(arm.localize), settings)})
    return arm.model_copy(update={"localize": maps, "choose": None})
