"""Progress on anything over two seconds: a bar with remaining time on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

QUIET_SECONDS = 15.0
Advance = Callable[[int, str], None]


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """`advance(done, note)` moves a bar of `total` steps on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as bar:
        shown = bar.add_task(what, total=total, note="")

        def advance(done: int, note: str = "") -> None:
            bar.update(shown, advance=done, note=note)

        yield advance


def _lines(what: str, total: int) -> Advance:
    done, started, said = 0, time.monotonic(), 0.0

    def advance(steps: int, note: str = "") -> None:
        nonlocal done, said
        done += steps
        elapsed = time.monotonic() - started
        if done == total or elapsed - said >= QUIET_SECONDS:
            said = elapsed
            left = elapsed / max(done, 1) * (total - done)
            print(f"{what}: {done}/{total}, {elapsed:.0f} s, {left:.0f} s left {note}", file=sys.stderr, flush=True)

    return advance
