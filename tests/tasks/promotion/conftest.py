"""A registered model with three versions, of which the first leads; the versions have no weights."""

from collections.abc import Iterator
from itertools import count

import pytest

from tasks.promotion.frozen import create_registered_model
from tasks.promotion.ledger import CHAMPION
from tasks.tracking.runs import tracking_client
from tasks.workspace import Workspace

_numbers = count(1)


@pytest.fixture
def led(shared_workspace: Workspace) -> Iterator[str]:
    """The name of a registered model of the module's workspace that no other test has."""
    name, client = f"fundus-{next(_numbers)}", tracking_client()
    create_registered_model(client, name)
    for _ in range(3):
        client.create_model_version(name, str(shared_workspace.root / "nothing"))
    client.set_registered_model_alias(name, CHAMPION, "1")
    yield name
    client.delete_registered_model(name)
