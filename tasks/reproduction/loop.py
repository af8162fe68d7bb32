"""The trials one after another; one that fails is booked with its reason, and the others go on."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import mean
from typing import Any, NamedTuple

from tasks.errors import MEANT_FOR_A_PERSON, TrainingError, TrainingStoppedError
from tasks.reproduction.arms import run_trial
from tasks.reproduction.plan import Plan, Trial, told


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
    pace = Pace()
    for number, trial in enumerate(trials):
        left = pace.left(plan, trials[number:])
        estimate = "" if left is None else f"; about {timedelta(seconds=round(left))} left"
        told(f"{number + 1} of {len(trials)}: {trial.arm}, seed {trial.seed}{estimate}")
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
            pace.note(plan, answer)
    if not outcomes.done:
        raise TrainingError(f"all {len(trials)} trials failed; the first one: {outcomes.failed[0]['reason']}")
    return outcomes


@dataclass
class Pace:
    """How long trials took: what is trained by its settings, what follows by arm; several arms may share a training."""

    trainings: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rest: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    trained: set[tuple[str, int]] = field(default_factory=set)

    def note(self, plan: Plan, answer: Mapping[str, Any]) -> None:
        """Book a trial."""
        what = plan.training_of(answer["arm"])
        if (what, answer["seed"]) not in self.trained:
            self.trained.add((what, answer["seed"]))
            self.trainings[what].append(answer["training_seconds"])
        self.rest[answer["arm"]].append(answer["seconds"] - answer["training_seconds"])

    def left(self, plan: Plan, trials: Sequence[Trial]) -> float | None:
        """Seconds of `trials`; what has not been seen yet takes as long as the others on average. None: nothing has."""
        if not self.rest:
            return None
        trainings = {(plan.training_of(trial.arm), trial.seed) for trial in trials} - self.trained
        return sum(usual(self.trainings, what) for what, _ in trainings) + sum(
            usual(self.rest, trial.arm) for trial in trials
        )


def usual(seconds: Mapping[str, Sequence[float]], name: str) -> float:
    """The mean of `name`, or of all where there is nothing of it."""
    return mean(seconds[name]) if name in seconds else mean(map(mean, seconds.values()))


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
