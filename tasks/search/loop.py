"""The loop of a search: which trial comes next, what it reports, how it ends."""

import contextvars
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import mean
from threading import RLock
from typing import Any

from optuna import Study, TrialPruned
from optuna.trial import FrozenTrial, Trial, TrialState

from models.errors import ModelError
from storage.loading import LoadingError
from tasks.errors import TrainingError, TrainingStoppedError
from tasks.search.space import Space
from tasks.search.study import best_trial


class DivergedError(TrainingError):
    """The monitored value is no number any more."""


@dataclass(frozen=True)
class Attempt:
    """A trial as its training sees it; `slot` is its place among those side by side, 0 … parallel − 1.

    `report(epoch, value)` raises TrialPruned where the trial is worse than others were, and DivergedError where the
    value is not finite; an epoch may be reported again. `note(name, value)` keeps something JSON-able with the trial.
    """

    number: int
    slot: int
    values: dict[str, Any]
    report: Callable[[int, float], None]
    note: Callable[[str, Any], None]


Train = Callable[[Attempt], float]
Ended = Callable[[FrozenTrial, str], None]


def run_search(
    study: Study,
    space: Space,
    trials: int,
    train: Train,
    *,
    parallel: int = 1,
    ended: Ended = lambda trial, line: print(line, file=sys.stderr, flush=True),
    stop: Callable[[], None] = lambda: None,
) -> None:
    """Bring `study` to `trials` trials: those of a killed process first, then new ones, `parallel` side by side.

    A trial ends complete with what `train` returns, pruned, or failed with the reason where `train` raises
    TrainingError, ModelError or LoadingError. Any other exception ends the search, and the trial goes on in the next
    one; so does a TrainingStoppedError. `ended` gets each trial that has ended, and a line about it; `stop` is called
    where the search ends early, to stop what trains beside.

    Raises:
        TrainingError: no trial came to its end but by failing.
    """
    search = _Search(study, space, trials, train, parallel, ended, stop)
    if parallel == 1:
        search.work(0)
    else:
        side_by_side(search.work, parallel, search.stop)
    known = study.get_trials(deepcopy=False)
    if all(trial.state == TrialState.FAIL for trial in known):
        raise TrainingError(f"all {len(known)} trials failed; the first one: {known[0].user_attrs['reason']}")


def side_by_side(work: Callable[[int], None], count: int, stop: Callable[[], None]) -> None:
    """`work` in `count` threads, numbered from 0; the first exception stops them all, and goes on."""
    with ThreadPoolExecutor(count, thread_name_prefix="trial") as pool:
        try:
            for future in [pool.submit(contextvars.copy_context().run, work, slot) for slot in range(count)]:
                future.result()
        except BaseException:
            stop()
            raise


class _SearchStoppedError(Exception):
    """Another trial has ended the search."""


@dataclass
class _Search:
    """A search at work; the study is touched under the lock alone."""

    study: Study
    space: Space
    trials: int
    train: Train
    parallel: int
    on_end: Ended
    on_stop: Callable[[], None]
    lock: RLock = field(default_factory=RLock)
    stopped: bool = False
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left_over = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def work(self, slot: int) -> None:
        """Trials one after another until there are enough."""
        try:
            while (trial := self.next_trial()) is not None:
                self.run(trial, slot)
        except _SearchStoppedError:
            return
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Let no trial begin, and every running one end at its next report, if not sooner."""
        self.stopped = True
        self.on_stop()

    def next_trial(self) -> Trial | None:
        """One that a killed process left, or a new one; its values are drawn and kept before it is handed out."""
        with self.lock:
            if self.stopped:
                return None
            if self.left_over:
                trial = Trial(self.study, self.left_over.pop(0)._trial_id)
            elif len(self.study.get_trials(deepcopy=False)) < self.trials:
                trial = self.study.ask()
            else:
                return None
            self.space.draw(trial)
            return trial

    def run(self, trial: Trial, slot: int) -> None:
        """Train, and keep how it ended."""
        started = time.monotonic()
        known = set(self.frozen(trial).intermediate_values)
        attempt = Attempt(
            trial.number,
            slot,
            self.space.draw(trial),
            report=lambda epoch, value: self.report(trial, known, epoch, value),
            note=lambda name, value: self.note(trial, name, value),
        )
        try:
            self.judge(trial)
            value = finite(self.train(attempt))
        except TrialPruned as pruned:
            self.end(trial, TrialState.PRUNED, started, reason=str(pruned))
        except TrainingStoppedError:
            raise
        except (TrainingError, ModelError, LoadingError) as error:
            self.end(trial, TrialState.FAIL, started, reason=str(error))
        else:
            self.end(trial, TrialState.COMPLETE, started, value)

    def report(self, trial: Trial, known: set[int], epoch: int, value: float) -> None:
        """`Attempt.report`; `known` are the epochs reported before."""
        if self.stopped:
            raise _SearchStoppedError
        finite(value, f" in epoch {epoch}")
        if epoch in known:
            return
        with self.lock:
            trial.report(value, epoch)
            known.add(epoch)
            self.judge(trial)

    def judge(self, trial: Trial) -> None:
        """TrialPruned if what the trial has reported is worse than the median of others at that epoch."""
        with self.lock:
            if trial.should_prune():
                raise TrialPruned("worse than the median of the trials before it")

    def note(self, trial: Trial, name: str, value: Any) -> None:
        """`Attempt.note`."""
        with self.lock:
            trial.set_user_attr(name, value)

    def end(
        self, trial: Trial, state: TrialState, started: float, value: float | None = None, reason: str = ""
    ) -> None:
        """Book the end of a trial and tell of it."""
        with self.lock:
            if reason:
                trial.set_user_attr("reason", reason)
            self.study.tell(trial, value, state)
            self.seconds.append(time.monotonic() - started)
            frozen = self.frozen(trial)
            self.on_end(frozen, self.line(frozen))

    def frozen(self, trial: Trial) -> FrozenTrial:
        """The trial as it is in the books."""
        with self.lock:
            return self.study.get_trials(deepcopy=False)[trial.number]

    def line(self, trial: FrozenTrial) -> str:
        """How a trial ended, the best so far, the time left."""
        done = [known for known in self.study.get_trials(deepcopy=False) if known.state.is_finished()]
        left = mean(self.seconds) * max(self.trials - len(done), 0) / self.parallel
        best = best_trial(self.study)
        parts = [
            f"search: {len(done)}/{self.trials}, trial {trial.number} {ending(trial)}",
            f"best {best.value:.4g} by trial {best.number}" if best else "none complete yet",
            f"{left:.0f} s left",
        ]
        return "; ".join(parts)


def finite(value: float, where: str = "") -> float:
    """`value`; DivergedError unless it is a finite number."""
    if not math.isfinite(value):
        raise DivergedError(f"diverged: the monitored value is {value}{where}")
    return value


def ending(trial: FrozenTrial) -> str:
    """How a finished trial ended, in words."""
    match trial.state:
        case TrialState.COMPLETE:
            return f"{trial.value:.4g}"
        case TrialState.PRUNED:
            return f"pruned at {trial.value:.4g} in epoch {trial.last_step}"
        case _:
            return f"failed: {trial.user_attrs['reason']}"
