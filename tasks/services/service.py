"""One service of `lesionflow ui`: a process with a log, an address, and a way to end."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tasks.services.lifeline import signal_process

KEEPER = Path(__file__).with_name("keeper.py")
LOG_BYTES = 10 << 20
HEALTH_SECONDS = 2.0
FORMER = ".1"


@dataclass(frozen=True)
class Service:
    """What is to run; `health` is the address that answers when it is well.

    A server is kept by a keeper, until those have ended that hold locks in the folder `needed_by`; a worker, which is
    not, knows by itself how to end.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    address: str = ""
    health: str = ""
    needed_by: Path | None = None
    seconds_to_stop: float = 20.0


@dataclass
class Running:
    """A service with its process, which is started again when it dies."""

    service: Service
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    began: float = 0.0
    failures: int = 0
    again_at: float = field(default=0.0)

    def start(self) -> None:
        """Start the process in a session of its own: what a terminal sends goes to `lesionflow ui` alone."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        bound(self.log)
        me = str(os.getpid())
        needed_by, command = self.service.needed_by, self.service.command
        if needed_by:
            command = (sys.executable, "-P", str(KEEPER), me, str(needed_by), *command)
        else:
            command = (*command, "--parent", me)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.service.environment),
                start_new_session=True,
            )
        self.began = time.monotonic()

    @property
    def lives(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    @property
    def answers(self) -> bool:
        """Whether the service is well: by its health address where it has one."""
        return self.lives and (not self.service.health or answers(self.service.health))

    def tell(self) -> None:
        """SIGTERM; a second time: hurry."""
        if self.process is not None and self.lives:
            signal_process(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def last_lines(self, count: int = 5) -> list[str]:
        """What it said last."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return [line for line in lines if line.strip()][-count:]


def answers(address: str) -> bool:
    """Whether a GET is answered by status 200."""
    try:
        with urllib.request.urlopen(address, timeout=HEALTH_SECONDS) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def is_free(port: int) -> bool:
    """Whether the port of this host's loopback can be taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def bound(log: Path) -> None:
    """Keep a log that has grown long as the former one, and go on with an empty one; its writer may hold it open."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.with_name(log.name + FORMER).write_bytes(log.read_bytes()[-LOG_BYTES:])
        os.truncate(log, 0)
