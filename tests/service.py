"""`marzhook run` as a process of its own, as an operator runs it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import preloaded

READY = re.compile(r"ready at http://127\.0\.0\.1:(\d+)")


class Service:
    """A running service on `folder`/marzhook.db. Settings are environment variables; `point`: where to die by SIGKILL."""

    def __init__(
        self, folder: Path, *arguments: str, point: str | None = None, wait: bool = True, **settings: str
    ) -> None:
        """`arguments`: what follows `marzhook run`."""
        self.folder = folder
        environment = {
            "PATH": os.environ["PATH"],
            "UVICORN_PORT": "0",
            "SUDO_USERNAME": "root",
            "SUDO_PASSWORD": "toor-toor",
            "MARZHOOK_LOG_FORMAT": "json",
            **settings,
        }
        if point:
            environment["MARZHOOK_KILL_AT"] = point
        self.process = self._start(arguments, environment)
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self.port = 0
        self._may_die = point is not None
        self._token: str | None = None
        if wait:
            self.wait_ready()

    def _start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Any:
        return preloaded.start("marzhook.testing", "run", *arguments, folder=self.folder, environment=environment)

    def wait_ready(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            found = READY.search(line)
            if found:
                self.port = int(found[1])
                return
        if self.process.wait(10) == -signal.SIGKILL and self._may_die:
            return
        raise RuntimeError(f"the service ended with {self.process.returncode}: {''.join(self.log)}")

    def _read_log(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.log.append(line)

    # -- talking to it

    def call(
        self, method: str, path: str, body: Any = None, *, token: bool = True, key: str | None = None
    ) -> tuple[int, Any]:
        """Status and decoded answer. `key`: the Idempotency-Key."""
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        if token:
            headers["Authorization"] = f"Bearer {self.token()}"
        return self._http(method, path, None if body is None else json.dumps(body), headers)

    def token(self) -> str:
        if self._token is None:
            self.log_in()
        assert self._token is not None
        return self._token

    def log_in(self, password: str = "toor-toor") -> None:
        form = f"username=root&password={password}&scope="
        _, answer = self._http("POST", "/api/admin/token", form, {"Content-Type": "application/x-www-form-urlencoded"})
        self._token = answer["access_token"]

    def _http(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            text = response.read().decode()
            return response.status, json.loads(text) if "json" in (response.getheader("content-type") or "") else text
        finally:
            connection.close()

    # -- ending it

    def kill(self) -> None:
        """As a power cut does."""
        self.process.send_signal(signal.SIGKILL)
        self.end()

    def stop(self, *, timeout: float = 30.0) -> int:
        """As systemd does; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.end(timeout=timeout)

    def end(self, *, timeout: float = 30.0) -> int:
        """Wait until it has ended; returns the exit code."""
        code = self.process.wait(timeout)
        self._reader.join(5)
        assert self.process.stdout
        assert self.process.stderr
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()


def marzhook(folder: Path, *args: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run one command beside the service."""
    environment = {"PATH": os.environ["PATH"], "COLUMNS": "80", **settings}
    return preloaded.run("marzhook", *args, folder=folder, environment=environment)
