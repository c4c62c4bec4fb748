"""What happens in `marzhook demo`: a dozen users live through everything, over the real API."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from marzhook.errors import MarzhookError

GIB = 1024**3
DAY = 86_400


class DemoError(MarzhookError):
    """Something that the demo cannot go on without went wrong."""

    code = "demo_failed"


class Api:
    """The service's API as a client sees it, logged in as its sudo admin. Raises DemoError for what is not 2xx."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=15)
        self._headers: dict[str, str] = {}

    def login(self, username: str, password: str) -> None:
        form = urlencode({"username": username, "password": password, "grant_type": "password"})
        answer = self._ask("POST", "/api/admin/token", form, {"Content-Type": "application/x-www-form-urlencoded"})
        self._headers = {"Authorization": f"Bearer {answer['access_token']}"}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {**self._headers, "Content-Type": "application/json"}
        return self._ask(method, path, None if body is None else json.dumps(body), headers)

    def events(self) -> list[dict[str, Any]]:
        """Every event that the service has published, oldest first."""
        found: list[dict[str, Any]] = []
        before = ""
        while True:
            page = self.call("GET", f"/api/v1/events?limit=100{before}")
            found += page["events"]
            if not page["next_before"]:
                return found[::-1]
            before = f"&before={page['next_before']}"

    def close(self) -> None:
        self._connection.close()

    def _ask(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Any:
        try:
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise DemoError(f"the service did not answer {method} {path}: {error or type(error).__name__}") from None
        if not 200 <= response.status < 300:
            raise DemoError(
                f"the service answered {response.status} to {method} {path}: {text[:300].decode(errors='replace')}"
            )
        return json.loads(text) if text else None


@dataclass(frozen=True, slots=True)
class Step:
    """At this share of the story (0 to 1), this call."""

    at: float
    words: str
    method: str
    path: str
    body: Any = None


NAMES = ("amir", "bita", "cyrus", "dana", "elham", "farid", "golnaz", "hamid", "iman", "jaleh", "kian", "leila")
EXPIRING = {"farid": 0.55, "golnaz": 0.6}
"""Whose time ends within the story, and at which share of it."""
LIMITED = ("cyrus", "dana")


def steps(started: float, seconds: float) -> list[Step]:
    """The story, in its order. `started` in Unix seconds."""
    return sorted(_steps(started, seconds), key=lambda step: step.at)


def _steps(started: float, seconds: float) -> Iterator[Step]:
    for index, name in enumerate(NAMES):
        yield _create(0.3 * index / len(NAMES), name, started, seconds)
    yield _usage(0.34, "everyone browses", dict.fromkeys(NAMES, GIB // 10))
    yield _usage(0.40, "cyrus and dana stream films", dict.fromkeys(LIMITED, GIB * 3 // 4))
    yield _usage(0.46, "their limit is reached", dict.fromkeys(LIMITED, GIB // 4))
    yield _user(0.50, "hamid is disabled", "PUT", "hamid", {"status": "disabled"})
    yield _user(0.54, "kian gets new keys", "POST", "kian", None, "/revoke_sub")
    yield _user(0.62, "cyrus starts a new month", "POST", "cyrus", None, "/reset")
    yield _user(0.66, "dana buys more traffic", "PUT", "dana", {"data_limit": 5 * GIB})
    yield _user(0.70, "hamid is enabled", "PUT", "hamid", {"status": "active"})
    # Renewed once he has surely expired, also where the story is short and seconds are coarse.
    yield _user(0.80, "farid renews", "PUT", "farid", {"expire": int(started) + 30 * DAY})
    yield _user(0.88, "jaleh leaves", "DELETE", "jaleh")
    yield _user(0.93, "golnaz leaves", "DELETE", "golnaz")
    yield _user(0.97, "leila changes her plan", "PUT", "leila", {"data_limit": 50 * GIB, "note": "yearly"})


def _create(at: float, name: str, started: float, seconds: float) -> Step:
    fields: dict[str, Any] = {"username": name, "proxies": {"vless": {}}, "expire": int(started) + 30 * DAY}
    if name in LIMITED:
        fields["data_limit"] = GIB
    if name in EXPIRING:
        fields["expire"] = int(started + EXPIRING[name] * seconds)
    return Step(at, f"{name} is created", "POST", "/api/user", fields)


def _usage(at: float, words: str, traffic: dict[str, int]) -> Step:
    rows = [{"username": name, "bytes": count} for name, count in traffic.items()]
    return Step(at, words, "POST", "/api/v1/usage", rows)


def _user(at: float, words: str, method: str, name: str, body: Any = None, tail: str = "") -> Step:
    return Step(at, words, method, f"/api/user/{name}{tail}", body)


def tell(api: Api, seconds: float, say: Callable[[str], None]) -> None:
    """Live through the story in about `seconds`. Raises DemoError."""
    started, began = time.time(), time.monotonic()
    for step in steps(started, seconds):
        wait = began + step.at * seconds - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        say(step.words)
        api.call(step.method, step.path, step.body)
