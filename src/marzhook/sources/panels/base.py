"""What all adapters share: who may send, the body item by item, credentials, and what tells an event's retries."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, Final

from marzhook import signing
from marzhook.errors import InvalidError
from marzhook.event import JSON, MAX_DETAIL, WIRE_KEYS, NewEvent, check_action, check_username, detail_json
from marzhook.sources.panels.body import TOO_DEEP, Unreadable, is_deeper, items_of, texts_of
from marzhook.sources.panels.credentials import cut_before_credentials, without_credentials

MAX_TRIES: Final = 1_000_000
MAX_DEPTH: Final = 100
"""Levels of nesting; a panel's events have five. More could be too much for somebody on the way of an event."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """An event that a panel sent."""

    event: NewEvent
    fingerprint: bytes | None
    """Of all that is the same whenever the panel sends this event again; None: this panel never sends one again."""
    tries: int = 0
    """How often the panel has tried before, as it says."""
    dated: bool = False
    """The content bears the event's own time: another event with this fingerprint is as good as impossible."""
    user: dict[str, JSON] | None = field(default=None, repr=False, compare=False)
    """The user as the panel sent him, with credentials, where it sent him: to be compared, not to be kept."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An item that cannot be an event, and why."""

    code: str
    reason: str
    body: str = field(repr=False)
    """JSON text without credentials; of what is no JSON, its head."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What an adapter makes of one item, in the panel's (Marzban's) terms and not yet checked."""

    action: JSON
    username: JSON
    detail: dict[str, JSON] = field(repr=False)
    identity: JSON = field(default=None, repr=False)
    """What `Incoming.fingerprint` is made of; None: no retries."""
    tries: int = 0
    dated: bool = False


class Panel(ABC):
    """One kind of panel. No state: an instance serves all requests."""

    name: ClassVar[str]
    credentials: ClassVar[frozenset[str]] = frozenset()
    """Keys of this panel that hold credentials, beside those of `credentials.DROPPED`."""
    signs: ClassVar[bool] = False
    """Whether it takes the body to tell that a request is authentic."""

    def authentic(self, secret: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Whether the request shows the secret; compared in constant time. Header names are in lower case."""
        return signing.same(headers.get("x-webhook-secret", ""), secret)

    @abstractmethod
    def read(self, item: dict[str, JSON]) -> Reading:
        """Raises InvalidError."""

    def parse(self, body: bytes, *, credentials: bool) -> list[Incoming | Rejection]:
        """Every item of the body, in order. `credentials`: keep them.

        Raises InvalidError with code `malformed_json` where the body is no JSON at all.
        """
        found: list[Incoming | Rejection] = []
        texts: list[str] = []
        for index, item in enumerate(items_of(body)):
            if isinstance(item, Unreadable):
                found.append(self._unreadable(item, credentials))
                continue
            try:
                found.append(self._parsed(item, credentials))
            except RecursionError:
                texts = texts or texts_of(body)
                found.append(self._unreadable(Unreadable(TOO_DEEP, texts[index]), credentials))
        return found

    def _parsed(self, item: JSON, credentials: bool) -> Incoming | Rejection:
        try:
            return self._incoming(item, credentials)
        except InvalidError as error:
            kept = item if credentials else without_credentials(item, self.credentials)
            return Rejection(error.code, str(error), json.dumps(kept))

    def _unreadable(self, item: Unreadable, credentials: bool) -> Rejection:
        text = item.text.strip()
        if not credentials:
            text = cut_before_credentials(text, self.credentials)
        # NUL is legal in a text but not in PostgreSQL's.
        kept = text.encode("ascii", "backslashreplace").decode().replace("\0", "\\0")
        return Rejection("unreadable_event", item.reason, kept)

    def _incoming(self, item: JSON, credentials: bool) -> Incoming:
        if not isinstance(item, dict):
            raise InvalidError(f"an event is an object, not {_kind(item)}", code="invalid_event")
        reading = self.read(item)
        retried = reading.identity is not None
        text = json.dumps((self.name, reading.identity if retried else reading.detail))
        if is_deeper(text, MAX_DEPTH):
            raise RecursionError
        action, username = check_action(reading.action), check_username(reading.username)
        detail = reading.detail if credentials else without_credentials(reading.detail, self.credentials)
        if len(text) > MAX_DETAIL // 2:
            detail_json(detail)  # too large, perhaps
        fingerprint = hashlib.sha256(text.encode()).digest()[:16] if retried else None
        user = reading.detail.get("user")
        return Incoming(
            NewEvent(action, username, detail), fingerprint, reading.tries, reading.dated,
            user if isinstance(user, dict) else None,
        )  # fmt: skip


def field_of(item: Mapping[str, JSON], name: str) -> JSON:
    """Raises InvalidError where it is missing."""
    if name not in item:
        raise InvalidError(f"{name} is missing", code=f"invalid_{name}")
    return item[name]


def tries_of(item: Mapping[str, JSON]) -> int:
    tries = item.get("tries")
    return tries if type(tries) is int and 0 <= tries <= MAX_TRIES else 0


def detail_of(item: Mapping[str, JSON], *, without: frozenset[str] = frozenset()) -> dict[str, JSON]:
    """All fields but those that Marzhook itself writes, in their order. The panel's own time and id are kept beside ours."""
    detail = {name: value for name, value in item.items() if name not in WIRE_KEYS and name not in without}
    if "id" in item:
        detail.setdefault("source_id", item["id"])
    if "enqueued_at" in item:
        detail.setdefault("source_enqueued_at", item["enqueued_at"])
    return detail


def unix_of(value: JSON) -> JSON:
    """An ISO 8601 time (UTC where it names no zone) as whole Unix seconds; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return value
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())


def _kind(value: JSON) -> str:
    return {type(None): "null", bool: "a boolean", str: "a text", list: "an array"}.get(type(value), "a number")
