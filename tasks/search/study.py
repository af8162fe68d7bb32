"""The books of a search: a study of Optuna's in a SQLite file, which one process at a time works on.

The lock is the operating system's and goes with the process, however that ends. So a trial that is still running when
a search begins belongs to a dead process, and goes on with its own values (docs/search.md).
"""

import fcntl
import os
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tasks.errors import TrainingError

DATABASE, LOCK, NAME = "study.db", "lock", "search"
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
optuna.logging.set_verbosity(optuna.logging.WARNING)


class SeededSampler(BaseSampler):
    """TPE without a memory: what it draws depends on the seed, the trial's number and the finished trials alone.

    Optuna's own keeps a random state in the process, so that a search that goes on would draw other values.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is drawn together."""
        return TPESampler().infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Those values."""
        return TPESampler(seed=self._seed(trial)).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value by itself, as in the first trials."""
        sampler = TPESampler(seed=self._seed(trial, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _seed(self, trial: FrozenTrial, parameter: str = "") -> int:
        entropy = [self.seed, trial.number, zlib.crc32(parameter.encode())]
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])


@contextmanager
def opened_study(folder: Path, mode: Literal["min", "max"], *, seed: int, warmup: int) -> Iterator[Study]:
    """The study in `folder`, made where there is none; trials may be pruned from their epoch `warmup` on.

    Raises:
        TrainingError: another process works on it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with only_searcher(folder / LOCK):
        storage = RDBStorage(f"sqlite:///{folder / DATABASE}")
        try:
            yield optuna.create_study(
                storage=storage,
                study_name=NAME,
                load_if_exists=True,
                sampler=SeededSampler(seed),
                pruner=MedianPruner(n_warmup_steps=warmup),
                direction=StudyDirection.MINIMIZE if mode == "min" else StudyDirection.MAXIMIZE,
            )
        finally:
            storage.remove_session()
            storage.engine.dispose()


@contextmanager
def only_searcher(file: Path) -> Iterator[None]:
    """Be the one process that holds `file`'s lock."""
    with closing(os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o644), "r+")) as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = opened.read().strip() or "another"
            raise TrainingError(f"process {owner} works on this search already ({file.parent})") from None
        opened.truncate(0)
        opened.write(str(os.getpid()))
        opened.flush()
        yield


def best_trial(study: Study) -> FrozenTrial | None:
    """The complete trial of the best value, if any is complete."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return study.best_trial if complete else None


def counts(study: Study) -> dict[str, int]:
    """Trials by how they ended."""
    ended = [trial.state for trial in study.get_trials(deepcopy=False)]
    return {name: ended.count(state) for state, name in STATES.items() if state in ended}
