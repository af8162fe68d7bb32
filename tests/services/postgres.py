"""A PostgreSQL of one's own on loopback, with the project's databases and settings."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.services.processes import ROOT, free_port

USER = "lesionflow"
DECLARED = ROOT / "deployments" / "postgres"


@contextmanager
def private_postgres() -> Iterator[str]:
    """`user@host:port` of a fresh cluster; skips the test where PostgreSQL is not installed."""
    tools = postgres_tools()
    folder, port = Path(tempfile.mkdtemp(prefix="lesionflow-postgres-")), free_port()
    prefix = as_other_user(folder)
    shutil.copytree(DECLARED, folder / "declared")
    data = ["-D", str(folder / "data")]
    subprocess.run(
        [*prefix, tools / "initdb", *data, "-A", "trust", "-U", USER, "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync"],
        check=True,
        capture_output=True,
        cwd=folder,
    )
    settings = ["-c", f"config_file={folder / 'declared' / 'postgresql.conf'}", "-c", "fsync=off", "-k", str(folder)]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*prefix, tools / "postgres", *data, *settings, "-p", str(port)], stdout=log, stderr=log, cwd=folder
        )
    try:
        connect = [tools / "psql", "-h", "127.0.0.1", "-p", str(port), "-U", USER, "-v", "ON_ERROR_STOP=1"]
        wait_until_it_answers(connect, server)
        subprocess.run([*connect, "-d", "postgres", "-f", DECLARED / "databases.sql"], check=True, capture_output=True)
        yield f"{USER}@127.0.0.1:{port}"
    finally:
        if server.poll() is None:
            postmaster = int((folder / "data" / "postmaster.pid").read_text().split()[0])
            os.kill(postmaster, signal.SIGINT)
            server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def postgres_tools() -> Path:
    """Where initdb and postgres are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: neither initdb nor /usr/lib/postgresql/*/bin/initdb")
    return Path(initdb).resolve().parent


def as_other_user(folder: Path) -> list[str]:
    """What to put before a command where we are root, which PostgreSQL refuses; `folder` is given to that user."""
    if os.getuid() != 0:
        return []
    try:
        owner = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    return ["runuser", "-u", "postgres", "--"]


def wait_until_it_answers(connect: list, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while subprocess.run([*connect, "-d", "postgres", "-c", "SELECT 1"], capture_output=True).returncode:
        assert server.poll() is None, "PostgreSQL ended"
        assert time.monotonic() < deadline, "PostgreSQL did not come up in a minute"
        time.sleep(0.2)
