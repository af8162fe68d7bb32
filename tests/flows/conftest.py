"""What the flow tests share: the command run in this process, and a small cohort with a model trained on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tasks.workspace import VARIABLE

TINY_NETWORK = ["--set", "network.width=0.1", "--set", "network.head=[8]", "--set", "trainer.batch_size=8"]


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture(scope="session")
def workspace_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One workspace for all flow tests of a session."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="session")
def command(prefect_server: None, workspace_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """`lesionflow` with arguments, in this process."""
    import contextlib
    import io
    import os
    import sys
    from unittest import mock

    from flows import cli

    def run(*arguments: str | Path) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        # the command enters its workspace by environment variables, which must not outlive it here
        with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ, {VARIABLE: str(workspace_folder)}):
            patch.setattr(sys, "argv", ["lesionflow", *map(str, arguments)])
            patch.setattr(cli.console, "file", out)
            patch.setattr(cli.console, "width", 200)
            with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
                try:
                    cli.main()
                    status = 0
                except SystemExit as stop:
                    status = int(stop.code or 0)
        return Outcome(status, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def fundus_cohort(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 simulated fundus photographs at 64 pixels."""
    cohort = tmp_path_factory.mktemp("cohorts") / "fundus"
    done = command("ingest", "sim:fundus?cases=40&size=64&seed=1", cohort, "--fractions", "0.5,0.2,0.3")
    assert done.status == 0, done.err
    return cohort


@pytest.fixture(scope="session")
def trained_model(command: Command, fundus_cohort: Path) -> Path:
    """A tiny model, two epochs on `fundus_cohort`."""
    import json

    answer = fundus_cohort.parent / "train.json"
    arguments = ["train", "iterative-refinement", fundus_cohort, "--epochs", "2", *TINY_NETWORK, "--json", answer]
    done = command(*arguments, "--set", "network.block5_valid=false")
    assert done.status == 0, done.err
    return Path(json.loads(answer.read_text())["model"])
