"""The worker, the server or a Dask worker killed while a retraining runs: the next run ends as if nothing had been."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.services.processes import FINAL, Services, eventually, running_services, state_of
from tests.services.retraining import Retraining
from tests.toys.spots import add_photographs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@contextmanager
def begun(root: Path, workers: int = 1) -> Iterator[Retraining]:
    """Services of their own, since a workspace would hand back a training that it has done before."""
    with running_services(root / "services") as services:
        services.prefect("deploy", "--all")
        services.start_worker()
        made = Retraining(services, root, "spots", epochs=6, workers=workers)
        add_photographs(made.photos, "test", 40, seed=1)
        add_photographs(made.photos, "validation", 12, seed=2)
        add_photographs(made.photos, "train", 40, seed=3)
        yield made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    with begun(tmp_path_factory.mktemp("undisturbed")) as made:
        assert made.run(600) == "COMPLETED"
        return made.ending()


def is_training(made: Retraining) -> bool:
    return any(made.services.root.glob("runs/*/stages/*/*.ckpt"))


def processes_with(services: Services, words: str) -> list[psutil.Process]:
    """Processes of this workspace that have these words in their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            is_ours = process.environ().get("LESIONFLOW_WORKSPACE") == str(services.root)
            if is_ours and words in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def kill_worker(made: Retraining) -> None:
    made.services.kill_worker()
    made.services.start_worker()


def kill_server(made: Retraining) -> None:
    made.services.restart_server()


def kill_flow_run(made: Retraining) -> None:
    for process in processes_with(made.services, "-m prefect.engine"):
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_worker, kill_server, kill_flow_run])
def test_killed_while_training(kill: Callable[[Retraining], None], undisturbed: dict[str, object], tmp_path: Path):
    with begun(tmp_path) as made:
        api = made.services.api
        run = made.services.start_run("retrain", made.parameters())
        assert eventually(lambda: is_training(made), 300)
        kill(made)
        assert eventually(lambda: state_of(api, run) in FINAL, 400)
        assert made.champion() in (None, 1)
        assert made.run(500) == "COMPLETED"
        assert made.ending() == undisturbed


def test_dask_worker_killed_while_maps_are_made(undisturbed: dict[str, object], tmp_path: Path):
    with begun(tmp_path, workers=2) as made:
        run = made.services.start_run("retrain", made.parameters())
        victims = eventually(lambda: processes_with(made.services, "multiprocessing.spawn"), 400)
        victims[0].send_signal(signal.SIGKILL)
        assert made.services.final_state(run, 500) == "COMPLETED"
        assert made.ending() == undisturbed
