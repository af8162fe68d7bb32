"""The page of a search, and the table of its trials."""

import json
from collections.abc import Sequence
from pathlib import Path

import optuna
import pandas as pd
from optuna import Study
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import JsonValue
from scipy.stats import rankdata

from tasks.reporting import Section, publish_report
from tasks.search.figures import importance_bars, search_history, slices
from tasks.search.space import Space
from tasks.search.study import STATES, best_trial
from tasks.tracking.runs import TrackedRun

FEWEST_FOR_IMPORTANCE = 10
IMPORTANCE = (
    "By fANOVA on the ranks of {count} trials, pruned ones at their last value. Rough with fewer than some dozens of "
    "them, and blind to what all have in common."
)


def trials_table(study: Study, space: Space) -> pd.DataFrame:
    """A row a trial: how it ended, with what value (a pruned one: its last) after how many epochs, and its settings."""
    return pd.DataFrame(
        {
            "trial": trial.number,
            "ended": STATES.get(trial.state, "running"),
            "value": trial.value,
            "epochs": len(trial.intermediate_values),
            **{key: shown(value) for key, value in space.values(trial).items()},
            "reason": trial.user_attrs.get("reason", ""),
            "run": trial.user_attrs.get("run", ""),
        }
        for trial in study.get_trials(deepcopy=False)
    )


def publish_search(run: TrackedRun, system: str, study: Study, space: Space, monitor: str, table: pd.DataFrame) -> Path:
    """The page and its figures, in MLflow too."""
    best = best_trial(study)
    assert best is not None
    settings = {monitor: best.value, **space.values(best)}
    texts = [f"{value:.4g}" if isinstance(value, float) else str(shown(value)) for value in settings.values()]
    sections = [
        Section(
            f"The best: trial {best.number}",
            "On validation cases, by which it was chosen: optimistic.",
            table=pd.DataFrame({"": list(settings), "value": texts}),
        ),
        Section("Course", figure=search_history(study, monitor)),
        *importance_section(study),
        Section("Along each setting", figure=slices(study, space, monitor)),
        Section("Trials", table=table),
    ]
    return publish_report("search", run, f"Search for settings of {system}", sections)


def shown(value: JsonValue) -> int | float | str:
    """A setting in a table: a number, or YAML of anything else."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else json.dumps(value)


def importance_section(study: Study) -> list[Section]:
    """Which settings matter, where enough trials have come far enough."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    if len(trials) < FEWEST_FOR_IMPORTANCE:
        return []
    text = IMPORTANCE.format(count=len(trials))
    return [Section("What matters", text, figure=importance_bars(importances(trials)))]


def importances(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """The share of each setting in the variation of the trials' ranks, largest first.

    Optuna takes complete trials alone, and so leaves out the worst; of raw values, one that diverged decides all.
    """
    ranked = optuna.create_study()
    for trial, rank in zip(trials, rankdata([trial.value for trial in trials]), strict=True):
        ranked.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=float(rank)))
    return get_param_importances(ranked, evaluator=FanovaImportanceEvaluator(seed=0))
