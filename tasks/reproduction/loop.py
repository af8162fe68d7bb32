"""The trials one after another; one that fails is booked with its reason, and the others go on."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from statistics import mean
from typing import Any, NamedTuple

from models.errors import ModelError
from storage.errors import CohortError, SourceError
from storage.loading import LoadingError
from tasks.errors import TrainingError, TrainingStoppedError
from tasks.reproduction.arms import run_trial
from tasks.reproduction.plan import Plan, Trial, told

MEANT_FOR_A_PERSON = (TrainingError, ModelError, CohortError, SourceError, LoadingError)


class Outcomes(NamedTuple):
    """What the trials answered, and {"arm", "seed", "reason"} of those that failed."""

    done: list[dict[str, Any]]
    failed: list[dict[str, Any]]


def run_trials(plan: Plan, parent: str) -> Outcomes:
    """Every trial of the plan, those done before handed back at once.

    Raises:
        TrainingError: all failed, or a signal ended one.
    """
    trials, outcomes = plan.trials, Outcomes([], [])
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for number, trial in enumerate(trials):
        told(f"{number + 1} of {len(trials)}: {trial.arm}, seed {trial.seed}{time_left(trials[number:], seconds)}")
        try:
            answer = run_trial(plan, trial, parent)
        except TrainingStoppedError:
            raise
        except Exception as error:
            outcomes.failed.append({"arm": trial.arm, "seed": trial.seed, "reason": reason_of(error)})
            told(f"{trial.arm}, seed {trial.seed} failed: {reason_of(error)}")
        else:
            outcomes.done.append(answer)
            told(f"{trial.arm}, seed {trial.seed}: {found(plan, answer)}")
            seconds[trial.arm].append(answer["seconds"])
    if not outcomes.done:
        raise TrainingError(f"all {len(trials)} trials failed; the first one: {outcomes.failed[0]['reason']}")
    return outcomes


def time_left(trials: Sequence[Trial], seconds: Mapping[str, Sequence[float]]) -> str:
    """How long the rest takes, as each arm took before; an arm not seen yet takes as long as the others on average."""
    if not seconds:
        return ""
    by_arm = {arm: mean(took) for arm, took in seconds.items()}
    usual = mean(by_arm.values())
    left = sum(by_arm.get(trial.arm, usual) for trial in trials)
    return f"; about {timedelta(seconds=round(left))} left"


def found(plan: Plan, answer: Mapping[str, Any]) -> str:
    """The headline figure of a trial."""
    metric = plan.experiment.metric
    value = answer["metrics"].get(metric)
    known = f"{metric} {value:.3f}" if value is not None else f"no {metric}"
    return f"{known}, {'done before' if answer.get('reused') else str(answer['seconds']) + ' s'}"


def reason_of(error: Exception) -> str:
    """The error in one line; of what nobody foresaw, its kind as well."""
    first = next(iter(str(error).splitlines()), "")
    return first if isinstance(error, MEANT_FOR_A_PERSON) else f"{type(error).__name__}: {first}"
