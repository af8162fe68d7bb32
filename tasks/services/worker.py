"""A Prefect worker of a process pool, which gives flow runs the time to stop.

    python -m tasks.services.worker POOL [--name NAME] [--parent PID]

Prefect's own kills its flow runs at once when it is told to end, and forgets them when it is killed. This one, at
SIGTERM or SIGINT, takes no new runs, sends SIGTERM to those under way, waits until they have written their checkpoints
and their states are known, and ends; a second signal hurries. What a killed worker has left behind is ended, and said
to have crashed, by the next worker of that name.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any
from uuid import UUID

import anyio
from anyio.abc import TaskStatus
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from tasks.notifications import notify, run_page
from tasks.services.flow_runs import SECONDS_TO_STOP, LeftBehind, left_behind, strike_out, write_down
from tasks.services.lifeline import end_with, signal_group, signal_process
from tasks.services.users import WORKERS, join
from tasks.workspace import current_workspace

LOOK_SECONDS = 0.3
SECONDS_TO_SAY_GOODBYE = 15.0
ONE_SIGNAL_SECONDS = 1.0  # a parent that is killed may send its signal several times (`end_with`)
HURRIED = 3  # exit status
AT_ONCE = max(4, os.cpu_count() or 1)  # flow runs: a hundred asked for at once keep a server busy for minutes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it takes the place of Prefect's worker of this type is what is wanted

    class PatientWorker(ProcessWorker):
        """A process worker that knows its flow runs' processes, and can end them."""

        type = "process"

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.is_stopping = False
            self.under_way: dict[str, int] = {}  # process id by flow run id

        async def setup(self) -> None:
            """Meet the server, and close what an earlier worker of this name has left."""
            await super().setup()
            await self.close_left_behind()

        async def get_and_submit_flow_runs(self) -> list[FlowRun]:
            """The runs that are due; none while the worker stops."""
            return [] if self.is_stopping else await super().get_and_submit_flow_runs()

        async def _submit_run(self, flow_run: FlowRun) -> None:
            """Claim the run before the server takes it for begun.

            A worker killed in between would leave it pending, and in its deployment's place, for ever.
            """
            write_down(self.name, str(flow_run.id), None)
            await super()._submit_run(flow_run)
            if str(flow_run.id) not in self.under_way:
                strike_out(self.name, str(flow_run.id))

        async def run(
            self,
            flow_run: FlowRun,
            configuration: ProcessJobConfiguration,
            task_status: TaskStatus[int] | None = None,
        ) -> ProcessWorkerResult:
            """Run to the end, hooks and all, known by its process meanwhile."""
            flow_run_id = str(flow_run.id)

            def begun(pid: int) -> None:
                self.under_way[flow_run_id] = pid
                write_down(self.name, flow_run_id, pid)
                if task_status is not None:
                    task_status.started(pid)

            try:
                result = await super().run(flow_run, configuration, _Begun(begun))
            except Exception:
                strike_out(self.name, flow_run_id)
                raise
            finally:
                self.under_way.pop(flow_run_id, None)
            strike_out(self.name, flow_run_id)
            return result

        async def close_left_behind(self) -> None:
            """End what an earlier worker of this name has left, and let the server know."""
            for found in list(left_behind(self.name)):
                await anyio.to_thread.run_sync(found.end)
                await self._say_crashed(found)
                found.file.unlink(missing_ok=True)

        async def _say_crashed(self, found: LeftBehind) -> None:
            try:
                run = await self.client.read_flow_run(UUID(found.flow_run_id))
            except ObjectNotFound:
                return
            if run.state is None or run.state.is_final() or (found.pid is None and not run.state.is_pending()):
                return
            message = "the worker that ran it was killed, and has ended it now that it is back"
            await self.client.set_flow_run_state(run.id, Crashed(message=message), force=True)
            notify("crashed", f"{run.name} crashed: {message}", flow_run=run.name, url=run_page(run.id))

        async def end_flow_runs(self, is_hurried: Callable[[], bool]) -> None:
            """SIGTERM to every flow run, and wait for their ends; SIGKILL once hurried or out of patience."""
            self.is_stopping = True
            told: set[int] = set()
            deadline = time.monotonic() + SECONDS_TO_STOP
            while self.under_way or self._submitting_flow_run_ids:
                is_late = is_hurried() or time.monotonic() > deadline
                for pid in list(self.under_way.values()):
                    if is_late:
                        signal_group(pid, signal.SIGKILL)
                    elif pid not in told:
                        signal_process(pid, signal.SIGTERM)  # its Dask workers and ranks are its own to end
                        told.add(pid)
                if is_late and time.monotonic() > deadline + SECONDS_TO_SAY_GOODBYE:
                    return
                await anyio.sleep(LOOK_SECONDS)


class _Begun(TaskStatus[int]):
    """A task status that calls a function as the process has started."""

    def __init__(self, call: Callable[[int], None]) -> None:
        self._call = call

    def started(self, value: int | None = None) -> None:
        """Prefect's way to say so."""
        if value is not None:
            self._call(value)


async def serve(pool: str, name: str) -> None:
    """Work until a signal comes, and end well."""
    worker = PatientWorker(name=name, work_pool_name=pool, create_pool_if_not_found=False, limit=AT_ONCE)
    first = 0.0
    is_hurried = False
    has_come = asyncio.Event()

    def note() -> None:
        nonlocal first, is_hurried
        first = first or time.monotonic()
        is_hurried = time.monotonic() - first > ONE_SIGNAL_SECONDS
        has_come.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, note)
    async with anyio.create_task_group() as group:
        group.start_soon(_work, worker, has_come)
        await has_come.wait()
        await worker.end_flow_runs(lambda: is_hurried)
        asyncio.get_running_loop().call_later(SECONDS_TO_SAY_GOODBYE, os._exit, HURRIED)  # the server may be gone
        group.cancel_scope.cancel()


async def _work(worker: PatientWorker, has_ended: asyncio.Event) -> None:
    try:
        await worker.start()
    finally:
        has_ended.set()


def main() -> None:
    """Run the worker of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pool")
    parser.add_argument("--name", default="")
    parser.add_argument("--parent", type=int)
    arguments = parser.parse_args()
    if arguments.parent:
        end_with(arguments.parent)
    join(current_workspace().root / WORKERS)
    asyncio.run(serve(arguments.pool, arguments.name or f"{socket.gethostname()}-{arguments.pool}"))
    sys.exit(0)


if __name__ == "__main__":
    main()
