"""Messages to the webhook, by a real receiver on loopback."""

import socket
from datetime import datetime

import pytest

from tasks import notifications
from tasks.notifications import notify
from tests.services.processes import Receiver, free_port, webhook_receiver


@pytest.fixture
def own_receiver(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notifications, "PAUSES", (0.01, 0.01))
    with webhook_receiver() as standing:
        monkeypatch.setenv("LESIONFLOW_WEBHOOK", standing.address)
        yield standing


def test_message_says_what_where_and_when(own_receiver: Receiver):
    notify("promoted", "version 3 leads", version=3)
    [message] = own_receiver.messages
    assert datetime.fromisoformat(message.pop("time")).tzinfo
    expected = {"text": "version 3 leads", "event": "promoted", "version": 3}
    assert message == {**expected, "project": "lesionflow", "host": socket.gethostname()}


def test_third_try_is_delivered(own_receiver: Receiver, capsys):
    own_receiver.refusals = 2
    notify("promoted", "text")
    assert len(own_receiver.messages) == 1
    assert capsys.readouterr().err == ""


def test_what_three_tries_did_not_deliver_is_one_line(own_receiver: Receiver, capsys):
    own_receiver.refusals = 3
    notify("promoted", "text")
    assert own_receiver.messages == []
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lesionflow: LESIONFLOW_WEBHOOK did not take the message 'promoted': HTTP Error 503")


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}/", "nonsense", "http://[::1", "file:///etc/passwd"])
def test_bad_address_never_raises(monkeypatch: pytest.MonkeyPatch, capsys, address: str):
    monkeypatch.setattr(notifications, "PAUSES", ())
    monkeypatch.setenv("LESIONFLOW_WEBHOOK", address.format(port=free_port()))
    notify("promoted", "text", odd=object())
    assert len(capsys.readouterr().err.splitlines()) <= 1


def test_without_the_variable_nothing_happens(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.delenv("LESIONFLOW_WEBHOOK", raising=False)
    notify("promoted", "text")
    assert capsys.readouterr().err == ""
