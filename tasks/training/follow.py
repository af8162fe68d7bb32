"""What a person sees of a training while it runs: its progress, its epochs and samples in MLflow.

All of it comes from the files of the run's folder. Whoever follows may be killed and come again: MLflow is asked which
epochs it has, and pictures are logged by name.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from storage.cohort import Cohort
from tasks.engine.epoch_log import PROGRESS, read_epochs
from tasks.engine.job import TrainingJob
from tasks.progress import Reach, fraction_progress
from tasks.reporting import png_of
from tasks.tracking.runs import TrackedRun
from tasks.training.figures import counted_on
from tasks.training.samples import read_sample, sample_figure

OnEpoch = Callable[[dict[str, Any]], None]
AWAY = (MlflowException, OSError)
IN_EVERY_EPOCH = "seconds"


class Follower:
    """Takes up what is new in the folder of a run at each look.

    `on_epoch` gets every epoch once in this process, also those of before a resumption, and may raise. While MLflow is
    away the training goes on; what it has missed is logged when it is back.
    """

    def __init__(
        self,
        job: TrainingJob,
        run: TrackedRun,
        on_epoch: OnEpoch = lambda line: None,
        reach: Reach = lambda done, note, seconds_left: None,
    ) -> None:
        self.job, self.run, self.on_epoch, self.reach = job, run, on_epoch, reach
        self._handed: set[tuple[str, int]] = set()
        self._logged: dict[str, set[int]] = {}
        self._pictured: dict[str, int] = {}
        self._is_away = False

    def look(self) -> None:
        """Show the progress, log new epochs and samples, hand on new epochs."""
        state, epochs = read_state(self.job.folder), epochs_so_far(self.job.folder)
        if state:
            self.reach(float(state["done"]), note_of(state, epochs), state.get("seconds_left"))
        try:
            self._log(epochs, int(state.get("stages", 0)))
            self._is_away = False
        except AWAY as error:
            self._complain(error)
        for line in epochs:
            if (place := (line["stage"], line["epoch"])) not in self._handed:
                self._handed.add(place)
                self.on_epoch(line)

    def finish(self) -> None:
        """Log what MLflow has missed; MlflowException where it is still away."""
        epochs = epochs_so_far(self.job.folder)
        self._log(epochs, len({line["stage"] for line in epochs}))
        self.reach(1.0, note_of({}, epochs), 0.0)

    def _log(self, epochs: Sequence[Mapping[str, Any]], stages: int) -> None:
        """`stages` tells whether names need the stage's; 0: nobody knows yet."""
        for number, line in zip(counted_on(epochs), epochs, strict=True):
            if stages:
                self._log_epoch(number, line, f"{line['stage']}/" if stages > 1 else "")
        for file in sorted((self.job.folder / "samples").glob("[!.]*.npz")):
            self._log_sample(file)

    def _log_epoch(self, number: int, line: Mapping[str, Any], prefix: str) -> None:
        if prefix not in self._logged:
            self._logged[prefix] = self.run.logged_steps(f"{prefix}{IN_EVERY_EPOCH}")
        if number not in self._logged[prefix]:
            values = {f"{prefix}{name}": value for name, value in line.items() if name not in ("stage", "epoch")}
            self.run.log_metrics(values, step=number)
            self._logged[prefix].add(number)

    def _log_sample(self, file: Path) -> None:
        """The picture beside its numbers, and in MLflow; again where a resumed training wrote it anew."""
        changed = file.stat().st_mtime_ns
        if self._pictured.get(file.name) == changed or (sample := read_sample(file)) is None:
            return
        picture = file.with_suffix(".png")
        picture.write_bytes(png_of(sample_figure(sample, self._cohort)))
        self.run.log_file(picture, "samples")
        self._pictured[file.name] = changed

    @cached_property
    def _cohort(self) -> Cohort:
        return Cohort.open(self.job.cohort, self.job.snapshot)

    def _complain(self, error: Exception) -> None:
        if not self._is_away:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            print(f"MLflow does not answer, the training goes on: {reason}", file=sys.stderr, flush=True)
        self._is_away = True


@contextmanager
def followed(
    job: TrainingJob, run: TrackedRun, on_epoch: OnEpoch = lambda line: None, which: str = ""
) -> Iterator[Callable[[], None]]:
    """`look` of a follower whose progress is shown; `which` of several it is. At a good end all is in MLflow."""
    with fraction_progress(f"train {job.system}{which}") as reach:
        follower = Follower(job, run, on_epoch, reach)
        yield follower.look
        follower.finish()


def epochs_so_far(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of `epochs.jsonl`; none while it cannot be read."""
    try:
        return read_epochs(folder)
    except (OSError, ValueError):
        return []


def read_state(folder: Path) -> dict[str, Any]:
    """`progress.json`; empty while there is none that can be read."""
    try:
        state = json.loads((folder / PROGRESS).read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) and isinstance(state.get("done"), int | float) else {}


def note_of(state: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> str:
    """Where the training is, in words: `adversarial (2/2), epoch 3/30, 212 images/s, val/loss 0.431`."""
    parts = []
    if state.get("stages", 1) > 1:
        parts.append(f"{state['stage']} ({state['stage_number']}/{state['stages']})")
    if "epochs" in state:
        parts.append(f"epoch {state['epoch'] + 1}/{state['epochs']}")
    if rate := state.get("images_per_second"):
        parts.append(f"{rate:.0f} images/s")
    newest = epochs[-1] if epochs else {}
    if names := [name for name in newest if name.startswith("val/") and isinstance(newest[name], int | float)]:
        shown = min(names, key=lambda name: ("loss" not in name, name))
        parts.append(f"{shown} {newest[shown]:.4g}")
    return ", ".join(parts)
