"""`lesionflow ui`: start the services, say where they are, keep them running, end them in order."""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from filelock import FileLock, Timeout

from tasks.notifications import notify
from tasks.services.announcement import Announcement, announce, announced, withdraw
from tasks.services.deployment import DECLARATION, Server, deploy_all, make_pools
from tasks.services.errors import ServicesError
from tasks.services.plan import Plan, Ports, pools
from tasks.services.service import Running, bound, is_free
from tasks.services.users import COMMANDS, users
from tasks.workspace import Workspace, current_workspace

START_SECONDS = 180.0
LOOK_SECONDS = 0.3
LOG_LOOK_SECONDS = 60.0
WELL_SECONDS = 300.0  # after which earlier failures are forgotten
LONGEST_PAUSE = 60.0
ONE_SIGNAL_SECONDS = 1.5  # signals closer to each other are one to a worker
SECONDS_FOR_COMMANDS = 300.0
TITLES = {"prefect": "Prefect", "mlflow": "MLflow", "browser": "results"}


def run_services(
    prefect_port: int = 4200, mlflow_port: int = 5000, browser_port: int = 8080, cohorts: Sequence[str] = ()
) -> None:
    """Run Prefect, MLflow, the results browser and workers on loopback until SIGTERM or Ctrl-C.

    `cohorts` are shown in the browser beside those that the workspace knows.

    Raises:
        ServicesError: they run already on this workspace, a port is taken, or one did not come up.
    """
    workspace, ports = current_workspace(), Ports(prefect_port, mlflow_port, browser_port)
    with alone(workspace), Signals() as signals:
        plan = Plan(workspace, ports, pools(), cohorts)
        check_ports(ports)
        services = Services(plan, signals)
        try:
            services.start()
            services.watch()
        finally:
            withdraw(workspace.root)
            services.stop()


class Signals:
    """How often SIGTERM, Ctrl-C or the end of the terminal has come; the former handlers are put back at the end."""

    def __init__(self) -> None:
        self.count = 0
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup, and shells for what runs in the background
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)

    def _note(self, number: int, frame: Any) -> None:
        self.count += 1


class Services:
    """The servers and workers of one plan, while they run."""

    def __init__(self, plan: Plan, signals: Signals) -> None:
        folder = plan.workspace.root / "services"
        self.plan, self.signals, self.folder = plan, signals, folder
        self.servers = [Running(service, folder / f"{service.name}.log") for service in plan.servers()]
        self.workers = [Running(service, folder / f"{service.name}.log") for service in plan.workers()]
        self.looked_at_logs = time.monotonic()

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether a signal has come."""
        return self.signals.count > 0

    def start(self) -> None:
        """Start the servers, and once they answer, the deployments and the workers; say where they are."""
        for server in self.servers:
            server.start()
        for server in self.servers:
            self._wait_for(server)
            if self.is_asked_to_stop:
                return
            if server is self.servers[0]:
                self._deploy()
        plan = self.plan
        announce(
            plan.workspace.root,
            Announcement.of_this_process(plan.prefect, plan.mlflow, plan.browser, plan.tracking_uri),
        )
        for worker in self.workers:
            worker.start()
        say(f"workers    {', '.join(pool_line(pool.name, pool.limit) for pool in plan.pools)}")
        say(f"logs       {self.folder}")
        say("Ctrl-C ends them: flow runs write their checkpoints first")

    def watch(self) -> None:
        """Start again what dies, and keep logs short, until a signal comes."""
        while not self.is_asked_to_stop:
            for running in (*self.servers, *self.workers):
                keep_up(running)
            if time.monotonic() - self.looked_at_logs > LOG_LOOK_SECONDS:
                self.looked_at_logs = time.monotonic()
                for running in (*self.servers, *self.workers):
                    bound(running.log)
                users(self.plan.workspace.root / COMMANDS)
            time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """End the workers, and with them their flow runs, then the servers, Prefect's last."""
        if any(worker.lives for worker in self.workers):
            say("stopping: flow runs get time to write their checkpoints; Ctrl-C again to hurry")
        end(self.workers, lambda: self.signals.count > 1)
        self._wait_for_commands()
        for server in reversed(self.servers):
            end([server], lambda: False)

    def _wait_for_commands(self) -> None:
        """Let the commands end that report to this Prefect: without it they fail at their end."""
        deadline, told = time.monotonic() + SECONDS_FOR_COMMANDS, False
        while self.servers[0].lives and self.signals.count < 2 and time.monotonic() < deadline:
            if not (found := users(self.plan.workspace.root / COMMANDS)):
                return
            if not told:
                told = True
                who = ", ".join(map(str, found))
                say(
                    f"waiting for commands that report here, five minutes at most: process {who}; Ctrl-C again to hurry"
                )
            time.sleep(LOOK_SECONDS)

    def _wait_for(self, server: Running) -> None:
        """Until the server answers.

        Raises:
            ServicesError: it died, or said nothing for three minutes.
        """
        title, deadline = TITLES[server.service.name], time.monotonic() + START_SECONDS
        with waiting(f"waiting for {title}") as tick:
            while not server.answers and not self.is_asked_to_stop:
                if not server.lives or time.monotonic() > deadline:
                    said = "\n  ".join(["", *server.last_lines()])
                    raise ServicesError(f"{title} did not come up; it said last ({server.log}):{said}")
                tick()
                time.sleep(LOOK_SECONDS)
        if server.lives:
            say(f"{title:10} {server.service.address}")

    def _deploy(self) -> None:
        """Make work pools and deployments; without them the servers are of use all the same."""
        if not DECLARATION.exists():
            return
        server, problem = Server(f"{self.plan.prefect}/api"), ""
        with waiting("deploying the flows") as tick:

            def goes_on() -> bool:
                tick()
                return not self.is_asked_to_stop

            try:
                make_pools(server, self.plan.pools)
                deploy_all(server, self.plan.environment(), self.folder, goes_on)
            except ServicesError as error:
                problem = str(error)
        if problem and not self.is_asked_to_stop:
            say(f"lesionflow: {problem}")


@contextmanager
def alone(workspace: Workspace) -> Iterator[None]:
    """The workspace's services for this process alone; a killed holder lets go by itself.

    Raises:
        ServicesError: another process runs them.
    """
    lock = FileLock(workspace.root / "services.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        found = announced(workspace.root)
        where = f": {found.prefect}, {found.mlflow}, {found.browser}" if found else ", and is starting or stopping"
        who = f"process {found.pid}" if found else "another process"
        raise ServicesError(f"lesionflow ui runs already on {workspace.root} ({who}){where}") from None
    try:
        yield
    finally:
        lock.release()


def check_ports(ports: Ports) -> None:
    """Whether all can be had.

    Raises:
        ServicesError: one is taken.
    """
    for name, port in ports.named().items():
        if not is_free(port):
            raise ServicesError(f"port {port} is taken: choose another for {TITLES[name]} with --{name}-port")


def keep_up(running: Running) -> None:
    """Start a service again that has died: at once, then after 1, 2, 4 … 60 seconds."""
    now = time.monotonic()
    if running.lives:
        if now - running.began > WELL_SECONDS:
            running.failures = 0
        return
    if not running.again_at:
        pause = min(2.0 ** (running.failures - 1), LONGEST_PAUSE) if running.failures else 0.0
        status = running.process.returncode if running.process else None
        running.failures, running.again_at = running.failures + 1, now + pause
        when = f"in {pause:.0f} s" if pause else "at once"
        text = f"{running.service.name} ended by itself (status {status}) and is started again {when}"
        say(f"{text}; log: {running.log}")
        if running.failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th …: one that never comes up is not told for ever
            notify("service-restarted", text, service=running.service.name, last=running.last_lines())
    if now >= running.again_at:
        running.again_at = 0.0
        running.start()


def end(group: Sequence[Running], is_hurried: Callable[[], bool]) -> None:
    """SIGTERM to all, and wait for each; a second one when hurried; SIGKILL when their time is over."""
    for running in group:
        running.tell()
    began, hurried = time.monotonic(), False
    while living := [running for running in group if running.lives]:
        if is_hurried() and not hurried and time.monotonic() - began > ONE_SIGNAL_SECONDS:
            hurried = True
            for running in living:
                running.tell()
        for running in living:
            if time.monotonic() - began > running.service.seconds_to_stop:
                running.kill()
        time.sleep(LOOK_SECONDS / 3)


@contextmanager
def waiting(what: str) -> Iterator[Callable[[], None]]:
    """A line that counts seconds on a terminal, and goes when the block ends; elsewhere a line every ten seconds."""
    began, on_terminal, said = time.monotonic(), sys.stderr.isatty(), 0.0

    def tick() -> None:
        nonlocal said
        elapsed = time.monotonic() - began
        if on_terminal:
            print(f"\r{what}: {elapsed:.0f} s\x1b[K", end="", file=sys.stderr, flush=True)
        elif elapsed - said >= 10:
            said = elapsed
            print(f"{what}: {elapsed:.0f} s", file=sys.stderr, flush=True)

    try:
        yield tick
    finally:
        if on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def pool_line(name: str, limit: int | None) -> str:
    """`gpu (2 at a time)`."""
    return name if limit is None else f"{name} ({limit} at a time)"


def say(line: str) -> None:
    """A line for the person who started it, if the terminal is still there."""
    with suppress(OSError):
        print(line, flush=True)
