import io
import os
import pty
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tasks import progress as shown
from tasks.progress import fraction_progress, progress

PROJECT = Path(__file__).resolve().parents[2]


def on_a_terminal(script: str) -> str:
    """What `script` draws on a terminal of its own."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "160", "LINES": "40", "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    drawn = io.BytesIO()
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: the other side has gone
            break
        if not part:
            break
        drawn.write(part)
    os.close(ours)
    assert process.wait() == 0, drawn.getvalue().decode()
    return drawn.getvalue().decode()


def test_without_a_terminal_the_end_is_one_line(capsys: pytest.CaptureFixture[str]):
    with progress("export", 3) as advance:
        for _ in range(3):
            advance(1, "slow disk")
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("export: 3/3, 0 s, 0 s left")
    assert line.endswith("slow disk")


def test_without_a_terminal_a_line_is_said_only_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(shown.time, "monotonic", lambda: float(next(clock)))
    with fraction_progress("train") as reach:
        for step in range(9):
            reach(step / 10, "epoch 1 of 9", 30.0)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in said] == ["train: 30%", "train: 70%"]
    assert "16 s, 30 s left epoch 1 of 9" in said[0]


def test_remaining_time_that_nobody_told_is_estimated_from_the_speed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    clock = iter([0.0, 30.0, 60.0])
    monkeypatch.setattr(shown.time, "monotonic", lambda: next(clock))
    with fraction_progress("train") as reach:
        reach(0.0, "", None)
        reach(0.25, "", None)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "train: 0%, 30 s "
    assert second == "train: 25%, 60 s, 180 s left "


def test_a_training_that_stays_at_its_end_says_so_once(capsys: pytest.CaptureFixture[str]):
    with fraction_progress("train") as reach:
        for _ in range(5):
            reach(1.0, "", 0.0)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_nothing_to_do_is_no_error(capsys: pytest.CaptureFixture[str]):
    with progress("export", 0):
        pass
    assert capsys.readouterr().err == ""


def test_bars_of_several_threads_and_in_each_other_share_one_display():
    drawn = on_a_terminal(
        """
        import threading, time
        from tasks.progress import fraction_progress, progress

        def fold(number):
            with fraction_progress(f"fold {number}") as reach:
                for step in range(11):
                    reach(step / 10, f"epoch {step} of 10", 10.0 - step)
                    time.sleep(0.02)

        with progress("folds", 3) as advance:
            threads = [threading.Thread(target=fold, args=(number,)) for number in range(3)]
            [thread.start() for thread in threads]
            for thread in threads:
                thread.join()
                advance(1, "")
        with progress("afterwards", 2) as advance:
            advance(2, "done")
        """
    )
    last_of_folds = drawn[: drawn.index("afterwards")].rsplit("folds", 1)[1]
    assert "3/3" in last_of_folds
    for number in range(3):
        line = next(line for line in last_of_folds.splitlines() if f"fold {number}" in line)
        assert "100%" in line
        assert "epoch 10 of 10" in line
    assert "2/2" in drawn[drawn.index("afterwards") :]


def test_a_bar_is_taken_down_when_its_work_fails():
    drawn = on_a_terminal(
        """
        from tasks.progress import progress
        try:
            with progress("first", 2) as advance:
                advance(1, "")
                raise ValueError
        except ValueError:
            pass
        with progress("second", 2) as advance:
            advance(2, "")
        """
    )
    assert "1/2" in drawn
    assert "2/2" in drawn.rsplit("second", 1)[1]


@pytest.mark.usefixtures("prefect_server")
def test_a_prefect_run_shows_long_work_as_an_artifact_and_short_work_not_at_all(monkeypatch: pytest.MonkeyPatch):
    import asyncio
    import time

    from prefect import flow, get_client

    from tasks import progress_artifact

    monkeypatch.setattr(progress_artifact, "PATIENCE", 0.3)
    monkeypatch.setattr(progress_artifact, "EVERY", 0.1)

    @flow
    def working() -> None:
        with progress("long work", 4) as advance:
            for _ in range(4):
                time.sleep(0.3)
                advance(1)
        with progress("short work", 1) as advance:
            advance(1)

    async def artifacts() -> dict[str, float]:
        async with get_client() as client:
            return {found.key: found.data for found in await client.read_artifacts()}

    working()
    shown = asyncio.run(artifacts())
    assert shown["progress-long-work"] == 100
    assert "progress-short-work" not in shown


@pytest.mark.usefixtures("prefect_server")
def test_work_goes_on_where_prefect_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    import prefect.artifacts
    from prefect import flow

    from tasks import progress_artifact

    def refused(*arguments: object, **options: object) -> None:
        raise ConnectionError("no API")

    monkeypatch.setattr(progress_artifact, "PATIENCE", 0.0)
    monkeypatch.setattr(prefect.artifacts, "create_progress_artifact", refused)
    done = []

    @flow
    def working() -> None:
        with progress("work", 3) as advance:
            for step in range(3):
                done.append(step)
                advance(1)

    working()
    assert done == [0, 1, 2]
