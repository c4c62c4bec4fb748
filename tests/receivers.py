"""Receivers for tests: real HTTP servers on loopback, each in its own process."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

SCRIPT = Path(__file__).with_name("receiver_process.py")


class Receiver:
    """A receiver process. `do` sets how it treats what comes (see receiver_process.OK), `wait` waits for deliveries."""

    def __init__(self, port: int = 0, *, host: str = "127.0.0.1") -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(port), host], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())
        self.host = host
        self.url = f"http://{host}:{self.port}/"

    def do(self, **behaviour: Any) -> None:
        self._ask("POST", "/_do", behaviour)

    def forget(self) -> None:
        self._ask("POST", "/_forget", None)

    def wait(self, count: int, *, timeout: float = 30.0) -> list[dict[str, Any]]:
        """Until `count` requests have come in all; returns them. Raises TimeoutError."""
        seen = self._ask("GET", f"/_wait/{count}/{timeout}", None, timeout=timeout + 5)
        if seen < count:
            raise TimeoutError(f"{seen} requests came within {timeout} s, not {count}")
        return self.seen()

    def seen(self, after: int = 0) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._ask("GET", f"/_seen/{after}", None)
        return answer

    def accepted(self) -> list[dict[str, Any]]:
        """The events that it answered with 2xx, in the order of their arrival, as sent."""
        return [
            event
            for record in self.seen()
            if record["answered"] and 200 <= record["answered"] < 300
            for event in events_of(record["body"])
        ]

    def most_in_flight(self) -> int:
        return int(self._ask("GET", "/_most", None))

    def connections(self) -> int:
        """Open ones: 0 once a sender that is gone has left nothing behind that is still to be read."""
        return int(self._ask("GET", "/_open", None))

    def stop(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _ask(self, method: str, path: str, body: Any, *, timeout: float = 30.0) -> Any:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request(method, path, json.dumps(body))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


def events_of(body: str) -> list[dict[str, Any]]:
    """The events of a request, whatever its format."""
    value = json.loads(body)
    return value if isinstance(value, list) else [value]


def header_of(record: dict[str, Any], name: str) -> str | None:
    return next((value for key, value in record["headers"] if key.lower() == name.lower()), None)
