"""Webhooks: the panel's documented request, its list form, and Standard Webhooks.

Whatever the format, a request carries the Standard Webhooks headers, signed with the endpoint's own secret, and, where a
WEBHOOK_SECRET is set, `x-webhook-secret` as the panel's page documents it: the secret itself, or the hex HMAC of the body.

An endpoint with a template gets what that makes of each event instead: any JSON. All else stays, and what is signed is the
body that was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from marzhook import signing
from marzhook.delivery import ACCEPTED, Delivery, Outcome, Verdict
from marzhook.destinations.base import Destination, failed
from marzhook.endpoint import DETAILS, FORMATS, SECRET_MODES, SIGNATURES, Endpoint, check_choice
from marzhook.errors import RenderError
from marzhook.event import JSON, Event
from marzhook.request import Request, Response, header

# json.dumps on its way to the same function asks for each of its options first.
_quoted = json.JSONEncoder().encode
_NOTHING: Mapping[str, Any] = {}
_CHOICES: Final = {"format": FORMATS, "secret_mode": SECRET_MODES, "detail": DETAILS, "signatures": SIGNATURES}


class Webhook(Destination):
    """An HTTP endpoint that speaks the panel's webhook or Standard Webhooks."""

    def __init__(self, endpoint: Endpoint, **values: Any) -> None:
        super().__init__(endpoint, **values)
        # What a newer version stored, say: it waits, rather than be signed in a way that nobody chose.
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(endpoint, name), choices)
        self._key = signing.key_of(endpoint.signing_secret)
        previous = endpoint.previous_signing_secret
        self._previous_key = signing.key_of(previous) if previous else None
        self._ed25519, self._previous_ed25519 = (
            signing.private_key_of(key) if key and endpoint.signatures != "v1" else None
            for key in (endpoint.signing_key, endpoint.previous_signing_key)
        )
        # Checked once, here, and not for every request.
        self._plain = header("x-webhook-secret", endpoint.secret) if endpoint.secret else ""
        self._template = None if endpoint.template is None else _renderer(endpoint.template)
        if endpoint.format == "list":
            self.max_items, self.max_bytes = 100, 256 * 1024  # type: ignore[misc] # of this instance

    # -- render

    def item(self, delivery: Delivery, now: datetime) -> str:
        event, tries = delivery.event, delivery.tries
        detail = event.detail_at(self.endpoint.detail)
        if self._template is not None:
            return self._made(self._template, delivery, detail)
        match self.endpoint.format:
            case "list":
                # The panel's own order since 0.4.0. Its `send_at` is when the request was due; here, when it was made.
                head = f'"enqueued_at": {event.enqueued_at!r}, "send_at": {now.timestamp()!r}, "tries": {tries}'
                return f'{{{head}, "username": {_quoted(event.username)}, "action": "{event.action}"{_tail(detail)}}}'
            case "standard":
                moment = event.time.isoformat().replace("+00:00", "Z")
                data = documented(event, tries, detail)
                return f'{{"type": "{event.action}", "timestamp": "{moment}", "data": {data}}}'
            case _:
                return documented(event, tries, detail)

    def _made(self, render: _Render, delivery: Delivery, detail: str) -> str:
        event = documented(delivery.event, delivery.tries, detail)
        wire = json.loads(event)
        values = {**wire, "event": wire, "id": self.message_id([delivery.event.id])}
        text = render(values, len(event) // CHARACTERS_A_STEP).strip()
        try:
            json.loads(text, parse_constant=_no_json)
        except (ValueError, RecursionError) as error:
            values = {"row": error.lineno, "column": error.colno} if isinstance(error, json.JSONDecodeError) else {}
            raise RenderError(
                f"template: what it makes is no JSON: {error}"[:300], reason=NO_JSON if values else "", values=values
            ) from None
        return text

    def request(self, items: Sequence[str], ids: Sequence[int], now: datetime, *, mode: str) -> Request:
        endpoint = self.endpoint
        text = f"[{', '.join(items)}]" if endpoint.format == "list" else items[0]
        body = text.encode()
        message_id, timestamp = self.message_id(ids), int(now.timestamp())
        rotated = endpoint.previous_expires_at is not None and now < endpoint.previous_expires_at
        signature = "" if endpoint.signatures == "v1a" else signing.sign_v1(self._key, message_id, timestamp, body)
        if signature and self._previous_key and rotated:
            signature += " " + signing.sign_v1(self._previous_key, message_id, timestamp, body)
        for key in (self._ed25519, self._previous_ed25519 if rotated else None):
            if key is not None:
                signature += (signature and " ") + signing.sign_v1a(key, message_id, timestamp, body)
        lines = [f"webhook-id: {message_id}", f"webhook-timestamp: {timestamp}", f"webhook-signature: {signature}"]
        if endpoint.secret:
            hashed = mode != "plain"
            lines.insert(0, f"x-webhook-secret: {signing.hex_hmac(endpoint.secret, body)}" if hashed else self._plain)
        return self._request(lines, body)

    def message_id(self, ids: Sequence[int]) -> str:
        """`webhook-id`: the same at every attempt of the same events, and never that of others."""
        if len(ids) == 1:
            return f"msg_{self._instance}_{ids[0]}"
        digest = hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:24]
        return f"msg_{self._instance}_b{digest}"

    # -- judge

    def mode(self, items: Sequence[str]) -> str:
        """How the secret is sent: plain or hmac."""
        mode = self.endpoint.secret_mode
        return (self.endpoint.learned_mode or "plain") if mode == "auto" else mode

    def other_mode(self, mode: str, response: Response) -> str | None:
        """`auto`: what is refused (401, 403) one way goes out the other way. A receiver that changed its mind is found
        out by the same rule, so it works from `hmac` back to `plain` too."""
        if self.endpoint.secret_mode != "auto" or not self.endpoint.secret or response.status not in (401, 403):
            return None
        return "hmac" if mode == "plain" else "plain"

    def learned(self, items: Sequence[str], mode: str) -> Mapping[str, Any]:
        endpoint = self.endpoint
        if endpoint.secret_mode != "auto" or not endpoint.secret or mode == endpoint.learned_mode:
            return _NOTHING
        return {"learned_mode": mode}

    def judge(self, response: Response, now: datetime) -> Outcome:
        status = response.status or 0
        if 200 <= status < 300:
            return ACCEPTED
        if status == 410:
            return Outcome(Verdict.GONE)
        return failed(response, now)


NO_JSON: Final = "line %(row)s, column %(column)s of what it makes"
"""What follows where a face says that a template makes no JSON."""
CHARACTERS_A_STEP: Final = 2
"""A large event may take longer: for so many characters of it, its template has a step more."""

_Render = Callable[[Mapping[str, JSON], int], str]


def _renderer(source: str) -> _Render:
    # Jinja is the server's: who tests a receiver with `marzhook.testing` need not have it.
    from marzhook.destinations.template import STEPS, Template

    template = Template(source)
    return lambda values, more: template.render(values, steps=STEPS + more)


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON's")


def documented(event: Event, tries: int, detail: str) -> str:
    """The event as the panel's page documents it, byte for byte; what more is known follows."""
    return (
        f'{{"username": {_quoted(event.username)}, "action": "{event.action}",'
        f' "enqueued_at": {event.enqueued_at!r}, "tries": {tries}{_tail(detail)}}}'
    )


def _tail(detail: str) -> str:
    """`{…}` as the rest of an object that has keys already."""
    return f", {detail[1:-1]}" if len(detail) > 2 else ""
