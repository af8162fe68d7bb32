"""Protocol `folds`: the trial with seed s trains without the patients of fold s, and is judged on them.

Folds are the seeds of such an experiment: mean and interval are over them, as papers of cross-validation print them.
Beyond the number of folds, the next repeat divides the patients anew. All arms of a seed have the same fold.
"""

from collections.abc import Sequence

import numpy as np

from storage.cohort import Cohort
from tasks.folds.draw import Fold, draw_folds
from tasks.folds.plan import in_cohort, labels_of
from tasks.reproduction.plan import Plan
from tasks.reproduction.runs import Answer

DRAWN_WITH = 0  # the seed of the division: one for all trials


def fold_of(plan: Plan, seed: int) -> Fold:
    """The fold of a trial, in positions of the cohort: of the cases that have the target, or of all where none has.

    Raises:
        CohortError: there are too few patients for so many folds.
    """
    cohort, folds = Cohort.open(plan.cohort), plan.experiment.folds
    every = list(range(len(cohort)))
    labels = labels_of(cohort, plan.experiment.target, every)
    cases = [case for case in every if np.isfinite(labels[case])] or every
    patients = cohort.table.loc[cases, "patient_id"].tolist()
    drawn = draw_folds(patients, labels[cases], folds, seed // folds + 1, DRAWN_WITH)
    return in_cohort(drawn[seed], cases)


def parts(plan: Plan, done: Sequence[Answer], arm: str) -> list[Answer]:
    """The trials of an arm that together are judged on each case once: those of the folds, else the first."""
    of_arm = [trial for trial in done if trial["arm"] == arm]
    is_folds = plan.experiment.protocol == "folds"
    return [trial for trial in of_arm if trial["seed"] < plan.experiment.folds] if is_folds else of_arm[:1]
