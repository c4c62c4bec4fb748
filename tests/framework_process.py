"""Runs receiver_frameworks.py, talks to it, and looks at what its handlers did."""

from __future__ import annotations

import http.client
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

SCRIPT = Path(__file__).with_name("receiver_frameworks.py")


class FrameworkReceiver:
    """A receiver on `framework` with its database in `folder`; `kill` says where it dies (see the script)."""

    def __init__(self, framework: str, folder: Path, *secrets: str, port: int = 0, kill: str | None = None) -> None:
        self.framework = framework
        self.folder = folder
        self._arguments = (framework, str(folder), *secrets)
        self.port = port
        self.start(kill=kill)

    def start(self, *, kill: str | None = None) -> None:
        """Also after its end: on the same port, with the same database."""
        framework, folder, *secrets = self._arguments
        environment = {**os.environ, **({"KILL": kill} if kill else {})}
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), framework, folder, str(self.port), *secrets],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout
        self.port = int(self.process.stdout.readline())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def post(self, headers: dict[str, str], body: Any, *, method: str = "POST") -> tuple[int, Any]:
        """Status and decoded answer. A body that is an iterator goes out in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, "/", body, headers, encode_chunked=not isinstance(body, bytes))
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if response.getheader(
                "content-type"
            ) == "application/json" else text
        finally:
            connection.close()

    def effects(self) -> list[tuple[str, str, str, int | None]]:
        """(id, username, action, number) of what the handlers have done, in their order."""
        with closing(sqlite3.connect(self.folder / "app.db", timeout=30)) as connection:
            return list(connection.execute("SELECT id, username, action, number FROM effects ORDER BY rowid"))

    def end(self) -> int:
        """Wait until it has died by itself; its exit code."""
        code = self.process.wait(60)
        assert self.process.stdout
        self.process.stdout.close()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def __enter__(self) -> FrameworkReceiver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()
