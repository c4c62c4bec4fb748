"""What 20 open pages cost: the dispatcher's rate with and without them, in turn, and the service's memory meanwhile."""

from __future__ import annotations

import http.client
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.figure import Figure, Measured, Options, ratio
from bench.pages import Reader
from bench.receiver import receiver
from bench.service import Backlog, Service

PAGES = 20


class Follower:
    """An open overview: a stream that says that something changed, and the page fetched anew each time that it does."""

    def __init__(self, port: int, cookie: str) -> None:
        self._port, self._headers = port, {"Cookie": cookie}
        self._stream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._closing = False
        self.fetched = 0
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        page = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            self._stream.request("GET", "/live", headers=self._headers)
            for line in self._stream.getresponse():
                if line.startswith(b"event: change"):
                    page.request("GET", "/", headers=self._headers)
                    answer = page.getresponse()
                    answer.read()
                    # Until the next change the service would have given the connection up.
                    page.close()
                    if answer.status != 200:
                        raise RuntimeError(f"the page answered {answer.status}")
                    self.fetched += 1
        except Exception as error:
            if not self._closing:
                self._failed = error
        finally:
            page.close()

    def close(self) -> None:
        self._closing = True
        if self._stream.sock:
            self._stream.sock.shutdown(2)
        self._thread.join(10)
        self._stream.close()
        if self._failed is not None:
            raise RuntimeError("a page did not follow to the end") from self._failed


@contextmanager
def following(port: int, count: int) -> Iterator[list[Follower]]:
    """So many open pages of one admin."""
    reader = Reader(port)
    followers = [Follower(port, reader.cookie) for _ in range(count)]
    reader.close()
    try:
        yield followers
    finally:
        for follower in followers:
            follower.close()


def measure(options: Options) -> Measured:
    events = options.scaled(400_000, 20_000)
    seconds = options.scaled(60, 10)
    rates: dict[int, list[float]] = {0: [], PAGES: []}
    fetched: list[float] = []
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made, receiver() as sink:
        backlog = Backlog(Path(made, "backlog"), events, sink.url)
        for _ in range(options.rounds):
            for count, found in rates.items():
                sink.report()
                with backlog.service() as service:
                    begun = time.monotonic()
                    with following(service.port, count) as pages:
                        end = service.drained()
                        fetched += [sum(page.fetched for page in pages) / (end - begun)] if count else []
                    report = sink.report()
                found.append(report["count"] / (end - report["first"]))
        (folder := Path(made, "idle")).mkdir()
        grown = _growth(folder, sink.url, seconds)
    return Measured(
        [
            Figure.of("delivered, no page open", rates[0], "events/s"),
            Figure.of(f"delivered, {PAGES} pages open", rates[PAGES], "events/s"),
            Figure("the one over the other", ratio(rates[PAGES], rates[0]), "x", at_least=0.98),
            Figure.of(f"pages fetched anew by {PAGES} that are open", fetched, "pages/s"),
            Figure(f"memory that the service gains in {seconds} s with {PAGES} pages open", grown, "MB", at_most=5),
        ]
    )


def _growth(folder: Path, url: str, seconds: float) -> float:
    """MB between a third of the time, when all that is needed once has been made, and the end; events come all the while."""
    with Service(folder, url) as service, following(service.port, PAGES):
        client = service.client()
        begun = time.monotonic()
        early = None
        while (passed := time.monotonic() - begun) < seconds:
            client.call("POST", "/api/v1/events", b'{"username": "alice", "action": "user_updated"}')
            time.sleep(0.05)
            if early is None and passed > seconds / 3:
                early = service.rss()
        client.close()
        return service.rss() - (early or 0.0)
