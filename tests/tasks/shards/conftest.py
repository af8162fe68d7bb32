"""What the tests of shards share."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def project_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes start with the path of this one, and shards of these tests are functions of `tests`."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[3]))
