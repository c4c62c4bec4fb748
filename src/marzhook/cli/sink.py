"""A receiver to measure with: takes requests faster than anybody sends them, and remembers when they came.

In a process of its own (`python -m marzhook.cli.sink`), on uvloop; of a request it looks for nothing but its end.
`GET /report` answers what has come since the last report.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import subprocess
import sys
import time
from types import TracebackType
from typing import Any, Final

ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BIN: Final = 0.1
"""Seconds of the bins in which arrivals are counted."""


class Tally:
    """What has come. Moments are seconds of the machine's monotonic clock, which all its processes share."""

    def __init__(self, *, latencies: bool = False) -> None:
        self.count = 0
        self.first: float | None = None
        self.last: float | None = None
        self.bins: dict[int, int] = {}
        self.latencies: list[float] | None = [] if latencies else None
        """Seconds from an event's `enqueued_at` to here, where that is wanted: reading it takes time."""

    def add(self, body: bytes) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = now
        self.last = now
        self.count += 1
        slot = int(now / BIN)
        self.bins[slot] = self.bins.get(slot, 0) + 1
        if self.latencies is not None:
            enqueued = body.split(b'"enqueued_at": ', 1)[1].split(b",", 1)[0]
            self.latencies.append(time.time() - float(enqueued))

    def report(self) -> dict[str, Any]:
        return {
            "count": self.count, "first": self.first, "last": self.last, "latencies": self.latencies,
            "bins": [[slot * BIN, count] for slot, count in sorted(self.bins.items())], "cpu": time.process_time(),
        }  # fmt: skip


class Reception(asyncio.Protocol):
    """One connection of HTTP/1.1 with bodies of a known length, also where requests come in one packet."""

    tally = Tally()
    """Of the whole process."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        start = 0
        while (end := data.find(b"\r\n\r\n", start)) >= 0:
            at = data.find(b"Content-Length: ", start, end)
            after = end + 4 + (int(data[at + 16 : data.index(b"\r\n", at)]) if at >= 0 else 0)
            if len(data) < after:
                break
            if data.startswith(b"POST", start):
                self.received(data[end + 4 : after])
            else:
                self.asked(data[start:end].split(b" ", 2)[1].decode())
            start = after
        self._rest = data[start:]

    def received(self, body: bytes) -> None:
        """A request that is to be measured."""
        self.tally.add(body)
        self.transport.write(ANSWER)

    def asked(self, _path: str) -> None:
        """A request of whoever measures."""
        text = json.dumps(self.tally.report()).encode()
        # The next measurement begins.
        Reception.tally = Tally(latencies=self.tally.latencies is not None)
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))


class Sink:
    """The receiver's process, as measurements use it."""

    def __init__(self, *arguments: str, module: str = "marzhook.cli.sink", scheme: str = "http") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, stdin=subprocess.PIPE
        )
        assert self.process.stdout
        self.ports: list[int] = json.loads(self.process.stdout.readline())
        self.urls = [f"{scheme}://127.0.0.1:{port}/" for port in self.ports]
        self.url = self.urls[0]

    def report(self) -> dict[str, Any]:
        """What has come since the last report; the next one begins now."""
        return self.ask("/report")

    def ask(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[-1], timeout=30)
        try:
            connection.request("GET", path)
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        finally:
            connection.close()

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


async def until_left() -> None:
    """Wait until the process at the other end of standard input is gone: killed, too, it leaves no receiver behind."""
    left = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, left.set)
    await left.wait()


async def _serve() -> None:
    Reception.tally = Tally(latencies="--latencies" in sys.argv)
    server = await asyncio.get_running_loop().create_server(Reception, "127.0.0.1", 0, backlog=4096)
    print(json.dumps([server.sockets[0].getsockname()[1]]), flush=True)
    await until_left()


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve())
