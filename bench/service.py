"""`marzhook run` as a process of its own, on a database made before, and its API over one kept-alive connection."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from marzhook.cli.bench import BenchError, environment_for, fill, settings_for, wait_until_drained
from marzhook.cli.sink import Sink


class Service:
    """A running service on `folder`/marzhook.db that sends to `urls`."""

    def __init__(self, folder: Path, *urls: str, arguments: Sequence[str] = (), **settings: str) -> None:
        """`arguments`: what follows `marzhook run`."""
        self.database = folder / "marzhook.db"
        environment = {"PATH": os.environ["PATH"], **environment_for(folder, *urls, **settings)}
        if "PYTHONPATH" in os.environ:
            environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
        with (folder / "service.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "marzhook", "run", *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE,
                stderr=log, stdin=subprocess.DEVNULL, text=True,
            )  # fmt: skip
        assert self.process.stdout
        found = re.search(r":(\d+) ", self.process.stdout.readline())
        if found is None:
            raise RuntimeError(f"the service did not start: {(folder / 'service.log').read_text()[-500:]}")
        self.port = int(found[1])

    def client(self) -> Client:
        return Client(self.port)

    def rss(self) -> float:
        """MB of memory that the process has in use."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0]) / 1000

    def processor(self) -> float:
        """Seconds of processor time that the process has used."""
        return _processor(Path(f"/proc/{self.process.pid}/stat"))

    def threads(self) -> dict[str, float]:
        """Seconds of processor time by thread."""
        used = {}
        for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(FileNotFoundError):  # it has just ended
                used[thread.name] = _processor(thread / "stat")
        return used

    @property
    def idle(self) -> bool:
        """Whether nothing is owed."""
        try:
            self.drained(patience=0)
        except BenchError:
            return False
        return True

    def drained(self, *, patience: float = 120.0) -> float:
        """Wait until nothing is owed; return the moment."""
        return wait_until_drained(self.database, patience=patience)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def _processor(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Client:
    """An admin's calls, on one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        form = "username=root&password=only-for-measuring"
        self._headers = {"Content-Type": "application/x-www-form-urlencoded"}
        token = json.loads(self.call("POST", "/api/admin/token", form.encode()))["access_token"]
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
        """The answer's body. Raises RuntimeError where it is no 2xx."""
        self._connection.request(method, path, body, {**self._headers, **headers})
        answer = self._connection.getresponse()
        text = answer.read()
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]!r}")
        return text

    def close(self) -> None:
        self._connection.close()


class Backlog:
    """A database with events owed to `urls`, made once; each measurement gets a copy of it."""

    def __init__(self, folder: Path, events: int, *urls: str, **settings: str) -> None:
        folder.mkdir()
        self._folder, self._urls, self._settings = folder, urls, settings
        self.events = events
        fill(settings_for(folder, *urls, **settings), events)

    @contextmanager
    def service(self, **settings: str) -> Iterator[Service]:
        """A service that has just begun to send it."""
        with TemporaryDirectory(prefix="marzhook-bench-") as copy:
            for file in self._folder.glob("marzhook.db*"):
                shutil.copy(file, copy)
            with Service(Path(copy), *self._urls, **{**self._settings, **settings}) as service:
                yield service

    def drain(self, sink: Sink, **settings: str) -> tuple[float, dict[str, Any]]:
        """Events a second from the first arrival until the last one is settled on disk, and the sink's report."""
        sink.report()
        with self.service(**settings) as service:
            end = service.drained()
            report = sink.report()
        return report["count"] / (end - report["first"]), report
