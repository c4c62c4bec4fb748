"""Requests as panels send them. Marzban's were captured from a real panel (0.8.4), byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from marzhook.sources.panels.base import Incoming, Panel, Rejection

SECRET = "something-very-very-secret"
"""The secret of the captured requests."""

_CAPTURED = Path(__file__).with_name("golden") / "marzban_requests.jsonl"


def captured() -> list[tuple[dict[str, str], bytes]]:
    """Headers (without Host and length) and body of each request, in the order of their sending."""
    requests = []
    for line in _CAPTURED.read_text().splitlines():
        request = json.loads(line)
        headers = {name: value for name, value in request["headers"] if name not in ("Host", "Content-Length")}
        requests.append((headers, request["body"].encode()))
    return requests


def captured_events() -> list[dict[str, Any]]:
    """The captured requests' events, as the panel wrote them."""
    return [event for _, body in captured() for event in json.loads(body)]


def again(event: dict[str, Any], tries: int) -> dict[str, Any]:
    """The event as the panel's sender sends it at a later try."""
    return {**event, "tries": tries, "send_at": event["send_at"] + 180.0 * tries}


def body_of(*events: dict[str, Any]) -> bytes:
    return json.dumps(events).encode()


def deleted(username: str = "alice", tries: int = 0) -> dict[str, Any]:
    """What the panel says of a deletion: nothing in it tells one from the next of the same name."""
    return {
        "enqueued_at": 1795423342.044399, "send_at": 1795423342.044407 + 180.0 * tries, "tries": tries, "username": username,
        "action": "user_deleted",
        "by": {"username": "shop1", "is_sudo": True, "telegram_id": None, "discord_webhook": None, "users_usage": 0},
    }  # fmt: skip


def parsed(panel: Panel, *items: Any, credentials: bool = False) -> list[Incoming | Rejection]:
    """What the adapter makes of a list."""
    return panel.parse(json.dumps(items).encode(), credentials=credentials)


def taken(panel: Panel, item: Any, *, credentials: bool = False) -> Incoming:
    """What it makes of a single event that it takes."""
    [one] = parsed(panel, item, credentials=credentials)
    assert isinstance(one, Incoming), one
    return one
