"""Progress on anything over two seconds: a bar with remaining time on a terminal, a line now and then elsewhere.

What takes longer shows in Prefect as well (`tasks.progress_artifact`).

All bars of a process share one display, a row each: rich draws only one at a time, and trainings run side by side.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from tasks.progress_artifact import progress_artifact

QUIET_SECONDS = 15.0
Advance = Callable[[int, str], None]
Reach = Callable[[float, str, float | None], None]
Show = Callable[[float, str, str, float | None], None]


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """`advance(done, note)` moves a bar of `total` steps on standard error, and Prefect's artifact."""
    done = 0
    with _shown(what) as show, progress_artifact(what) as tell:

        def advance(steps: int, note: str = "") -> None:
            nonlocal done
            done += steps
            share = done / total if total else 1.0
            tell(share)
            show(share, f"{done}/{total}", note, None)

        if total:
            advance(0)
        yield advance


@contextmanager
def fraction_progress(what: str) -> Iterator[Reach]:
    """`reach(done, note, seconds_left)` moves a bar on standard error to a share of 0 … 1.

    `seconds_left` None: estimated from the speed.
    """
    with _shown(what) as show:
        yield lambda done, note, seconds_left: show(done, f"{done:.0%}", note, seconds_left)


@contextmanager
def _shown(what: str) -> Iterator[Show]:
    """What draws a bar: at a share of 0 … 1, what is counted in words, a note, the seconds left."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what)
        return
    with _DISPLAY.standing(console) as bars:
        row = bars.add_task(what, total=1.0, counted="", note="", seconds_left=None)
        yield lambda done, counted, note, seconds_left: bars.update(
            row, completed=done, counted=counted, note=note, seconds_left=seconds_left
        )


def _lines(what: str) -> Show:
    started, said, finished = time.monotonic(), 0.0, False

    def show(done: float, counted: str, note: str, seconds_left: float | None) -> None:
        nonlocal said, finished
        elapsed = time.monotonic() - started
        if elapsed - said < QUIET_SECONDS and (done < 1 or finished):
            return
        said, finished = elapsed, done >= 1
        left = elapsed * (1 - done) / done if seconds_left is None and done else seconds_left
        remaining = "" if left is None else f", {left:.0f} s left"
        # one write, so that lines of several threads stay whole
        sys.stderr.write(f"{what}: {counted}, {elapsed:.0f} s{remaining} {note}\n")
        sys.stderr.flush()

    return show


class _Display:
    """What all bars of this process are drawn in; it stands while one of them is open."""

    def __init__(self) -> None:
        self.lock, self.open, self.bars = threading.Lock(), 0, Progress()

    @contextmanager
    def standing(self, console: Console) -> Iterator[Progress]:
        """The display, put up for the first bar and taken down after the last."""
        with self.lock:
            if not self.open:
                text = [TextColumn(f"{{task.{name}}}") for name in ("description", "fields[counted]", "fields[note]")]
                self.bars = Progress(
                    text[0], BarColumn(), text[1], TimeElapsedColumn(), _Left(), text[2], console=console
                )
                self.bars.start()
            self.open += 1
            bars = self.bars
        try:
            yield bars
        finally:
            with self.lock:
                self.open -= 1
                if not self.open:
                    bars.stop()


class _Left(ProgressColumn):
    """The remaining time: as told, or as estimated from the speed."""

    def render(self, task: Task) -> Text:
        """`0:01:30`."""
        told = task.fields["seconds_left"]
        seconds = task.time_remaining if told is None else told
        return Text("-:--:--" if seconds is None else str(timedelta(seconds=int(seconds))), style="progress.remaining")


_DISPLAY = _Display()
