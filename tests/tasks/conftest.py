"""What the tests of tasks share."""

from collections.abc import Iterator

import pytest

from tasks.workspace import VARIABLE, Workspace, current_workspace


@pytest.fixture(scope="module")
def shared_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """One workspace for a module's tests, since MLflow takes seconds to lay out a database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(tmp_path_factory.mktemp("workspace")))
        yield current_workspace()
