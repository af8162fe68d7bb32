"""Real services, shared by the tests of a session."""

from collections.abc import Iterator

import pytest

from tests.services.postgres import private_postgres
from tests.services.processes import Receiver, Services, running_services, webhook_receiver


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def services(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Prefect's server, MLflow's server and a worker, with all flows deployed, over either kind of database."""
    root = tmp_path_factory.mktemp("services") / request.param
    if request.param == "sqlite":
        yield from deployed(running_services(root))
        return
    with private_postgres() as address:
        stores = {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{address}/prefect",
            "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://{address}/mlflow",
        }
        yield from deployed(running_services(root, stores))


def deployed(starting) -> Iterator[Services]:
    with starting as services:
        services.prefect("deploy", "--all")
        services.start_worker()
        yield services


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """Where LESIONFLOW_WEBHOOK may point."""
    with webhook_receiver() as standing:
        yield standing
