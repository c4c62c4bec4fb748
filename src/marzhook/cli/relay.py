"""What `marzhook listen` does with a request beside printing it: passes it on, runs a command, saves it; and saved ones again.

What a program or a command makes of a request is what the sender is answered, so it tries again what failed there.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shlex
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from marzhook.endpoint import check_url
from marzhook.errors import InvalidError, SettingError
from marzhook.transport.commands import execute
from marzhook.transport.stop import Stop

FORWARD_TIMEOUT: Final = 15.0
EXEC_TIMEOUT: Final = 60.0
"""Seconds; afterwards the command is killed with all that it started, and the sender told 504."""
TOLD: Final = 300
"""Characters that are shown of what a command complains about."""
_OURS: Final = frozenset({"host", "content-length", "connection", "keep-alive", "transfer-encoding", "te", "upgrade"})


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request. Header names are in lower case."""

    at: float
    """Unix seconds."""
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    events: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """What is in it, as it was written; empty: nothing that is known."""


class EndedError(Exception):
    """Nothing is started any more."""


class Commands:
    """Those that run. Ctrl-C does not reach them by itself: each leads a group of its own, with all that it starts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Stop] = set()
        self._ended = False

    @contextmanager
    def starting(self, stop: Stop) -> Iterator[None]:
        """While a command is started that `stop` ends from then on. Raises EndedError where it is too late for one."""
        # `end` waits meanwhile: a process that is there already, and that nobody could end yet, would outlive us.
        with self._lock:
            if self._ended:
                raise EndedError
            self._running.add(stop)
            yield

    def over(self, stop: Stop) -> None:
        with self._lock:
            self._running.discard(stop)

    def end(self) -> None:
        """Kill those that run, and let no other one begin."""
        with self._lock:
            self._ended, running = True, tuple(self._running)
        for stop in running:
            stop.set()


Step = Callable[[Incoming], tuple[int, str]]
"""Returns the status to answer, and words for people."""


def forwarder(url: str) -> Step:
    """Posts each request to `url` as it came, and answers what that answers. Raises SettingError."""
    try:
        parts = urlsplit(check_url(url))
    except InvalidError as error:
        raise SettingError(f"--forward: {error}", code="usage") from None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def forward(incoming: Incoming) -> tuple[int, str]:
        headers = {name: value for name, value in incoming.headers.items() if name not in _OURS}
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=FORWARD_TIMEOUT, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=FORWARD_TIMEOUT)
        try:
            connection.request("POST", target, incoming.body, headers)
            response = connection.getresponse()
            response.read(64 * 1024)
        except TimeoutError:
            return 504, f"forwarded: no answer within {FORWARD_TIMEOUT:g} s"
        except (OSError, http.client.HTTPException, ValueError) as error:
            # ValueError: a saved header may be none that can be sent.
            return 502, f"forwarded: {error or type(error).__name__}"
        finally:
            connection.close()
        # A redirect or 1xx is nothing that a webhook's sender could do something with.
        status = response.status if 200 <= response.status <= 599 else 502
        return status, f"forwarded: {response.status}"

    return forward


def runner(command: str, commands: Commands) -> Step:
    """Runs the command for each event, with its JSON on standard input, as one of `commands`. Exit code 0: accepted. Raises
    SettingError.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SettingError(f"--exec: {error}", code="usage") from None
    if not words:
        raise SettingError("--exec needs a command", code="usage")

    def run(incoming: Incoming) -> tuple[int, str]:
        # Half of a pair (\ud800) is no character that UTF-8 has; so escaped, it is the same JSON.
        inputs = [
            json.dumps(event, ensure_ascii=False).encode(errors="backslashreplace") for event in incoming.events
        ] or [incoming.body]
        for number, text in enumerate(inputs):
            event = incoming.events[number] if incoming.events else {}
            environment = {
                **os.environ,
                "MARZHOOK_ACTION": _word(event.get("action")),
                "MARZHOOK_USERNAME": _word(event.get("username")),
                "MARZHOOK_WEBHOOK_ID": _word(incoming.headers.get("webhook-id")),
            }
            stop = Stop()
            try:
                status, error, message, tail = execute(
                    words, text, environment, EXEC_TIMEOUT, stop, starting=commands.starting(stop)
                )
            except EndedError:
                return 503, f"{words[0]}: not started, because the listener ends"
            finally:
                commands.over(stop)
            if status != 0:
                told = tail.decode("utf-8", "replace").strip()[-TOLD:]
                why = f"{words[0]}: {message or f'it ended with {status}'}" + (f": {told}" if told else "")
                return 504 if error == "timeout" else 500, why
        return 200, f"{words[0]} ended well" + (f" {len(inputs)} times" if len(inputs) > 1 else "")

    return run


def _word(value: object) -> str:
    return value.replace("\0", "").encode(errors="replace").decode() if isinstance(value, str) else ""


def saver(file: Path) -> Step:
    """Appends each request as a line of JSON, for its owner only: secrets are among the headers. Raises SettingError."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingError(f"--save: {file} cannot be written: {error.strerror}", code="usage") from None
    lock = threading.Lock()

    def save(incoming: Incoming) -> tuple[int, str]:
        line = json.dumps(
            {"at": incoming.at, "path": incoming.path, "headers": dict(incoming.headers), **_written(incoming.body)}
        )
        try:
            with lock:
                rest = line.encode() + b"\n"
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
        except OSError as error:
            return 507, f"not saved: {error.strerror}"
        return 200, ""

    return save


def saved(file: Path) -> Iterator[Incoming]:
    """The requests of a file that `saver` wrote. Raises SettingError, naming the line that is none."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _read(line, f"--replay: line {number} of {file}")
    except OSError as error:
        raise SettingError(f"--replay: {file} cannot be read: {error.strerror}", code="usage") from None


def _written(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def _read(line: bytes, where: str) -> Incoming:
    try:
        value = json.loads(line)
        headers = {str(name).lower(): str(text) for name, text in value["headers"].items()}
        body = base64.b64decode(value["body_base64"]) if "body_base64" in value else value["body"].encode()
        return Incoming(float(value["at"]), str(value.get("path", "/")), headers, body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SettingError(f"{where} is no request that `marzhook listen --save` wrote", code="usage") from None
