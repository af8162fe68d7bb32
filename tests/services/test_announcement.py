"""How a command finds the servers of `lesionflow ui`, and how dead ones are known."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.services.announcement import Announcement, announce, announced, withdraw
from tasks.services.lifeline import lives, started
from tasks.services.service import LOG_BYTES, bound, is_free
from tasks.services.users import COMMANDS, join, users
from tasks.workspace import enter_workspace
from tests.services.processes import eventually

ADDRESSES = ("http://127.0.0.1:4200", "http://127.0.0.1:5000", "http://127.0.0.1:8080")


def sleeper(code: str = "") -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", f"{code}\nimport time; time.sleep(60)"])


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch):
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "LESIONFLOW_WORKSPACE"):
        monkeypatch.setenv(name, "")  # so that it is put back, and then is absent
        monkeypatch.delenv(name)


def test_command_reports_to_the_servers_that_run(tmp_path: Path, bare_environment: None):
    announce(tmp_path, Announcement.of_this_process(*ADDRESSES, tracking_uri=ADDRESSES[1]))
    enter_workspace(tmp_path)
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert users(tmp_path / COMMANDS) == [os.getpid()]


def test_what_the_user_has_set_stays(tmp_path: Path, bare_environment: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    announce(tmp_path, Announcement.of_this_process(*ADDRESSES, tracking_uri="sqlite:///x"))
    enter_workspace(tmp_path)
    assert os.environ["PREFECT_API_URL"] == "http://elsewhere/api"
    assert users(tmp_path / COMMANDS) == []


def test_withdrawn_announcement_points_nowhere(tmp_path: Path, bare_environment: None):
    announce(tmp_path, Announcement.of_this_process(*ADDRESSES, tracking_uri="sqlite:///x"))
    withdraw(tmp_path)
    enter_workspace(tmp_path)
    assert "PREFECT_API_URL" not in os.environ
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_announcement_of_a_killed_process_counts_for_nothing(tmp_path: Path):
    process = sleeper()
    announce(tmp_path, Announcement(process.pid, started(process.pid), *ADDRESSES, tracking_uri=""))
    assert announced(tmp_path).pid == process.pid
    process.kill()
    process.wait()
    assert announced(tmp_path) is None


def test_announcement_of_another_process_with_the_same_id_counts_for_nothing(tmp_path: Path):
    announce(tmp_path, Announcement(os.getpid(), started(os.getpid()) - 3600, *ADDRESSES, tracking_uri=""))
    assert announced(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "started": 0}'])
def test_torn_announcement_counts_for_nothing(tmp_path: Path, content: str):
    (tmp_path / "services.json").write_text(content)
    assert announced(tmp_path) is None


def test_ended_process_does_not_live_even_before_it_is_waited_for():
    process = sleeper()
    since = started(process.pid)
    assert lives(process.pid, since)
    process.send_signal(signal.SIGKILL)
    assert eventually(lambda: not lives(process.pid, since), 10)
    process.wait()


def test_killed_command_is_no_longer_a_user(tmp_path: Path):
    join(tmp_path)
    code = f"from pathlib import Path; from tasks.services.users import join; join(Path({str(tmp_path)!r}))"
    process = sleeper(code)
    assert eventually(lambda: users(tmp_path) == sorted([os.getpid(), process.pid], key=str), 30)
    process.kill()
    process.wait()
    assert users(tmp_path) == [os.getpid()]
    assert [file.name for file in tmp_path.iterdir()] == [str(os.getpid())]


def test_log_that_has_grown_long_is_cut_under_its_writer(tmp_path: Path):
    log = tmp_path / "service.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * (LOG_BYTES + 1))
        bound(log)
        writer.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "service.log.1").stat().st_size == LOG_BYTES


def test_taken_port_is_not_free():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not is_free(taken.getsockname()[1])
