"""Shared fixtures. The workspace is entered before anything imports Prefect or MLflow."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.workspace import VARIABLE, Workspace, current_workspace, enter_workspace

CHROMIUM = Path("/usr/bin/chromium")
_session_workspace = Path(tempfile.mkdtemp(prefix="lesionflow-tests-"))
os.environ.pop("MLFLOW_TRACKING_URI", None)
enter_workspace(_session_workspace)
os.environ.pop("MLFLOW_TRACKING_URI")  # each test's workspace has its own database


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A fresh workspace for one test."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "workspace"))
    return current_workspace()


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Prefect on a temporary database, for tests that run flows."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser; gone with its module, since a thread in which Playwright is cannot run an event loop."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()
