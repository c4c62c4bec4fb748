"""What `marzhook listen` prints of what comes in: for people, or as JSON."""

from __future__ import annotations

import json
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from marzhook.cli import output

if TYPE_CHECKING:
    from marzhook.cli.inbox import Received
    from marzhook.receiver import ReceivedEvent

MAX_SHOWN = 16 * 1024
"""Characters of a body of unknown shape that are printed."""


class Journal(ABC):
    """Tells of what has come in, from any thread, and counts it until it has `ended`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = self._events = self._refused = 0
        self._over = False

    @abstractmethod
    def started(self, url: str, *, attached: bool) -> None: ...

    def __call__(self, received: Received) -> None:
        with self._lock:
            if self._over:
                return  # who was not waited for any more has no place behind the count
            self._requests += 1
            self._events += len(received.events)
            self._refused += received.status >= 300
            self._tell(received)

    def ended(self) -> None:
        """Tell how many came. What comes later is not told."""
        with self._lock:
            self._over = True
            self._sum_up()

    @abstractmethod
    def _tell(self, received: Received) -> None: ...

    @abstractmethod
    def _sum_up(self) -> None: ...


class TextJournal(Journal):
    """For people to read."""

    def __init__(self) -> None:
        super().__init__()
        self._console = output.console()

    def started(self, url: str, *, attached: bool) -> None:
        command = output.command_line_of(sys.argv[0])
        output.line(f"Listening on {url}  (Ctrl-C ends)")
        if attached:
            output.line(f"This is an endpoint of the service now. Next: `{command} send user_created alice`.")
            return
        output.line(
            f'Next, in .env: WEBHOOK_ADDRESS = "{url}"; then `make run`, and `{command} send user_updated test_user`.'
        )

    def _tell(self, received: Received) -> None:
        for text, style in _lines(received):
            self._console.print(output.clean(text), style=style, overflow="fold")

    def _sum_up(self) -> None:
        output.line(
            f"\nReceived {output.counted(self._events, 'event')} in {output.counted(self._requests, 'request')}"
            + (f", {self._refused} of them not accepted." if self._refused else ".")
        )


class JsonJournal(Journal):
    """One JSON object a line: the address first, then each request, a count at the end."""

    def started(self, url: str, *, attached: bool) -> None:
        self._print({"listening": url, "attached": attached})

    def _tell(self, received: Received) -> None:
        self._print(as_json(received))

    def _sum_up(self) -> None:
        self._print({"requests": self._requests, "events": self._events})

    def _print(self, value: dict[str, Any]) -> None:
        print(json.dumps(value), flush=True)


def as_json(received: Received) -> dict[str, Any]:
    """A request as `listen --json` prints it; `body` is text where it is not JSON."""
    body: Any
    try:
        body = json.loads(received.body)
    except (ValueError, RecursionError):
        body = received.body.decode("utf-8", "replace")
    return {
        "at": received.at, "path": received.path, "status": received.status, "kind": received.kind,
        "webhook_id": received.message_id, "again": received.again,
        "secret": received.secret, "signature": received.signature, "body": body, "notes": list(received.notes),
    }  # fmt: skip


GOOD, BAD, QUIET = "green", "red", "dim"


def _lines(received: Received) -> list[tuple[str, str]]:
    at = output.local_time(_datetime(received.at), milliseconds=True)[11:]
    answered = f"answered {received.status}"
    style = GOOD if received.status < 300 else BAD
    found: list[tuple[str, str]] = []
    for event in received.events:
        parts = [at, event.action, event.username]
        parts.append(f"tries {event.tries}")
        if event.enqueued_at is not None:
            parts.append(output.duration(received.at - event.enqueued_at))
        parts.append(answered + (" (again)" if received.again else ""))
        found.append(("  ".join(parts), style))
        found += [("    " + line, QUIET) for line in details(event)]
    if not received.events:
        what = {"discord": "Discord message", "json": "JSON of another shape", "text": "not JSON"}.get(
            received.kind, received.kind
        )
        found.append((f"{at}  {what} on {received.path}  {answered}", style))
        found += [("    " + line, "") for line in _unknown(received)]
    found += [("    " + words, BAD) for words in _complaints(received)]
    found += [("    " + line, style) for words in received.notes for line in words.splitlines()]
    verified = [
        text
        for text in (
            f"x-webhook-secret right ({received.secret})" if received.secret in ("plain", "hmac") else "",
            "signature right" if received.signature == "valid" else "",
        )
        if text
    ]
    if verified:
        found.append(("    " + ", ".join(verified), QUIET))
    return found


def _complaints(received: Received) -> list[str]:
    found = []
    if received.secret == "missing":
        found.append("no x-webhook-secret came: set WEBHOOK_SECRET on the sender, the same as --secret here")
    if received.secret == "wrong":
        found.append(
            "x-webhook-secret is neither the secret nor its HMAC of this body: WEBHOOK_SECRET and --secret differ"
        )
    if received.signature == "missing":
        found.append("no Standard Webhooks signature came (webhook-id, webhook-timestamp, webhook-signature)")
    if received.signature == "wrong":
        found.append("the signature is wrong: --signing-secret is not this endpoint's")
    if received.signature == "stale":
        found.append("the signature's time is more than 5 minutes off: one of the two clocks is wrong")
    return found


def details(event: ReceivedEvent) -> list[str]:
    """What followed the four keys, a line each; the user in brief."""
    found = [f"by {event.by.get('username')}"] if event.by else []
    found += [f"user: {_user(event.user)}"] if event.user else []
    for name, value in event.extra.items():
        if value is not None:
            found.append(f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    return found


def _user(user: Mapping[str, Any]) -> str:
    parts = [str(user.get("status", "?"))]
    used, limit, expire = user.get("used_traffic"), user.get("data_limit"), user.get("expire")
    if isinstance(used, int):
        parts.append(f"{output.size(used)} of {output.size(limit if isinstance(limit, int) and limit else None)} used")
    if isinstance(expire, int) and 0 < expire < 253402300800:  # the year 10000
        parts.append(f"expires {output.local_time(_datetime(expire))}")
    return ", ".join(parts)


def _unknown(received: Received) -> list[str]:
    if received.kind == "discord":
        return [
            line for embed in json.loads(received.body)["embeds"] if isinstance(embed, dict) for line in _embed(embed)
        ]
    if received.kind == "json":
        text = json.dumps(json.loads(received.body), indent=2, ensure_ascii=False)
    else:
        text = received.body.decode("utf-8", "replace")
    if len(text) > MAX_SHOWN:
        text = text[:MAX_SHOWN] + f"\n… {len(text) - MAX_SHOWN} further characters (--json shows all)"
    return text.splitlines()


def _embed(embed: dict[str, Any]) -> list[str]:
    found = [str(embed[name]) for name in ("title", "description") if embed.get(name)]
    fields = embed.get("fields")
    for one in fields if isinstance(fields, list) else []:
        if isinstance(one, dict):
            found.append(f"{one.get('name')}: {one.get('value')}")
    return [line for text in found for line in text.splitlines()]


def _datetime(seconds: float) -> Any:
    from marzhook.clock import from_unix

    return from_unix(seconds)
