"""Messages to people: a line of JSON to the webhook that LESIONFLOW_WEBHOOK names, when something needs a look.

`text` is the key that the incoming webhooks of Slack, Mattermost and Teams-like receivers show.
"""

import json
import os
import socket
import sys
import time
import urllib.request
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

VARIABLE = "LESIONFLOW_WEBHOOK"
PROJECT = "lesionflow"
TIMEOUT_SECONDS = 5
PAUSES = (1.0, 3.0)  # seconds before the second and third try

AnyFlow = TypeVar("AnyFlow", bound="Flow[..., Any]")


def notify(event: str, text: str, **details: Any) -> None:
    """POST what happened, three times at most; without the variable nothing is sent. Never raises.

    A message that could not be delivered is one line on standard error.
    """
    address = os.environ.get(VARIABLE)
    if not address:
        return
    try:
        body = json.dumps(message(event, text, **details), default=str).encode()
        for pause in (*PAUSES, None):
            if not (reason := refusal(address, body)):
                return
            if pause is not None:
                time.sleep(pause)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    print(f"lesionflow: {VARIABLE} did not take the message {event!r}: {reason}", file=sys.stderr)


def message(event: str, text: str, **details: Any) -> dict[str, Any]:
    """What is posted."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"text": text, "event": event, "project": PROJECT, "host": socket.gethostname(), "time": now, **details}


def refusal(address: str, body: bytes) -> str:
    """Why the receiver did not take `body`; empty where it did."""
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            return ""
    except OSError as error:  # refused, timed out, no such host, status 400 and above
        return str(error)


def failed(flow: "Flow[..., Any]", flow_run: "FlowRun", state: "State") -> None:
    """Prefect's hook: tell that a flow run failed, crashed or was cancelled; of flows within flows, the outermost."""
    if flow_run.parent_task_run_id is not None:
        return
    how, page = state.type.value.lower(), run_page(flow_run.id)
    reason = next(iter((state.message or "").splitlines()), "")
    text = f"{flow.name} ({flow_run.name}) {how}: {reason}" + (f"\n{page}" if page else "")
    notify(how, text, flow=flow.name, flow_run=flow_run.name, flow_run_id=str(flow_run.id), reason=reason, url=page)


def notified(flow: AnyFlow) -> AnyFlow:
    """The flow, which tells when a run of it does not end well."""
    flow.on_failure(failed)
    flow.on_crashed(failed)
    flow.on_cancellation(failed)
    return flow


def run_page(flow_run_id: UUID) -> str | None:
    """The page of a flow run in Prefect's interface; None where no server keeps one."""
    from prefect.settings import get_current_settings

    interface = get_current_settings().ui_url
    return f"{interface}/runs/flow-run/{flow_run_id}" if interface else None
