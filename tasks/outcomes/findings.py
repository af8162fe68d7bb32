"""What a finished study found, in numbers: metrics, permutations, selected features, risk groups, the paired test."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from models.metrics.bootstrap import with_intervals
from models.outcome import FoldAnswer, Patients, metric_draws
from models.outcome.agreement import (
    delong_p,
    nogueira_stability,
    permutation_p,
    selection_matrix,
    two_sided_p,
)
from models.outcome.judging import concordance
from models.outcome.survival import log_rank_p
from tasks.outcomes.plan import FIRST, OTHER, Plan
from tasks.outcomes.work import Done, high_risk, judged_of

Folds = Mapping[tuple[int, int], FoldAnswer]
SHOWN_FEATURES = 20


def findings(plan: Plan, done: Done) -> dict[str, Any]:
    """All numbers of the answer."""
    first, folds = plan.first, done.folds[FIRST]
    draws = metric_draws(judged_of(first, folds), plan.config.resamples, plan.config.seed)
    selected = selection_shares(first, folds)
    return {
        "metrics": with_intervals(draws),
        **({"permutation": permutation_finding(plan, done)} if done.permuted else {}),
        "selection_stability": stability_of(first, folds),
        "selected": selected.head(SHOWN_FEATURES).round(4).to_dict("records"),
        "settings": chosen_settings(folds),
        **({"risk_groups": group_finding(first, folds)} if survival_of(first) is not None else {}),
        **({"comparison": comparison(plan, done, draws)} if OTHER in plan.patients else {}),
    }


def survival_of(patients: Patients) -> Any:
    """The survival to draw curves of: the outcome itself, or what was followed beside it."""
    return patients.outcome if patients.is_survival else patients.followed


def permutation_finding(plan: Plan, done: Done) -> dict[str, Any]:
    """The first repeat against the same folds and pipeline with shuffled outcomes."""
    observed = concordance(plan.first.outcome, judged_of(plan.first, done.folds[FIRST]).scores[0])
    return {
        "metric": plan.headline,
        "first_repeat": observed,
        "permutations": len(done.permuted),
        "permuted_mean": float(np.mean(done.permuted)),
        "p": permutation_p(observed, done.permuted),
    }


def selection_shares(patients: Patients, folds: Folds) -> pd.DataFrame:
    """How often each feature was selected, the most frequent first; those that never were are left out."""
    matrix = selection_matrix([answer.selected for answer in folds.values()], patients.features)
    table = pd.DataFrame({"feature": patients.features, "share_of_folds": matrix.mean(axis=0)})
    return table[table["share_of_folds"] > 0].sort_values("share_of_folds", ascending=False, kind="stable")


def stability_of(patients: Patients, folds: Folds) -> float:
    """Nogueira's Φ over the selections of all folds."""
    return nogueira_stability(selection_matrix([answer.selected for answer in folds.values()], patients.features))


def chosen_settings(folds: Folds) -> list[dict[str, Any]]:
    """What inner folds chose, and how often."""
    rows = [
        {"features": len(answer.selected), "penalty_or_leaf_size": answer.setting.strength} for answer in folds.values()
    ]
    counts = pd.DataFrame(rows).value_counts().reset_index(name="folds")
    return [{str(key): value for key, value in row.items()} for row in counts.to_dict("records")]


def group_finding(patients: Patients, folds: Folds) -> dict[str, Any]:
    """The risk groups of the first repeat, and the log-rank p of each repeat."""
    groups, followed = high_risk(patients, folds), survival_of(patients)
    values = [log_rank_p(followed, group) for group in groups]
    return {
        "high": int(groups[0].sum()),
        "low": int((~groups[0]).sum()),
        "log_rank_p": values[0],
        "log_rank_p_by_repeat": values,
    }


def comparison(plan: Plan, done: Done, draws: dict[str, Any]) -> dict[str, Any]:
    """The first source minus the other one: same patients, folds and resamples."""
    judged = {source: judged_of(patients, done.folds[source]) for source, patients in plan.patients.items()}
    others = metric_draws(judged[OTHER], plan.config.resamples, plan.config.seed)
    difference = {key: draws[key] - others[key] for key in draws}
    found: dict[str, Any] = {
        "other": plan.files[OTHER],
        "metrics": with_intervals(others),
        "difference": with_intervals(difference),
        "p": two_sided_p(difference[plan.headline][1:]),
    }
    if not plan.first.is_survival:
        means = [judged[source].scores.mean(axis=0) for source in (FIRST, OTHER)]
        found["delong_p"] = delong_p(plan.first.outcome == 1, *means)
    return found
