"""What 20 open pages cost: the dispatcher's rate with and without them, in turn, and the service's memory meanwhile."""

from __future__ import annotations

import http.client
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

from bench.figure import Figure, Measured, Options
from bench.pages import Reader
from bench.receiver import receiver
from bench.service import Backlog, Service
from marzhook.cli.sink import Sink
from marzhook.dashboard.live import EVERY

PAGES = 20
OPENING = 5.0
"""Seconds after which pages that are opened have been fetched for the first time."""
PAUSE = EVERY * PAGES
"""Seconds of a window: in each, so many pages are told once that something changed, PAUSE after they were opened."""
STEP = 0.25
"""Seconds of a bin of a window."""
BESIDE = 5
"""Bins on either side that a telling is compared with."""


class Follower:
    """An open overview: a stream that says that something changed, and the page fetched anew each time that it does, or when
    the page itself said that it is worth another look, whichever is sooner."""

    def __init__(self, port: int, cookie: str) -> None:
        self._port, self._headers = port, {"Cookie": cookie}
        self._stream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._closing = False
        self.fetched = 0
        self._failed: Exception | None = None
        self._told = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._fetch)]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        try:
            self._stream.request("GET", "/live", headers=self._headers)
            for line in self._stream.getresponse():
                if line.startswith(b"event: change"):
                    self._told.set()
        except Exception as error:
            self._fail(error)

    def _fetch(self) -> None:
        page = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        wait: float | None = None
        try:
            while True:
                self._told.wait(wait)
                self._told.clear()
                if self._closing:
                    return
                page.request("GET", "/", headers=self._headers)
                answer = page.getresponse()
                text = answer.read().decode()
                # Until the next time the service would have given the connection up.
                page.close()
                again = re.search('data-again="([^"]*)"', text)
                if answer.status != 200 or again is None:
                    raise RuntimeError(f"the page answered {answer.status}, and when to look again: {again}")
                self.fetched += 1
                # As live.js does.
                wait = float(again[1]) + 0.1 if float(again[1]) > 0 else None
        except Exception as error:
            self._fail(error)
        finally:
            page.close()

    def _fail(self, error: Exception) -> None:
        if not self._closing:
            self._failed = error

    def close(self) -> None:
        self._closing = True
        if self._stream.sock:
            self._stream.sock.shutdown(2)
        self._told.set()
        for thread in self._threads:
            thread.join(10)
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


@dataclass(frozen=True)
class Bin:
    """A part of a window."""

    seconds: float
    came: int
    """Events that were delivered."""
    fetched: int
    """Pages."""


@dataclass(frozen=True)
class Window:
    """A while in which the service delivered, with so many pages open all along."""

    pages: int
    bins: Sequence[Bin]
    others: float
    """Percent of one core that all threads took but the two busiest, which deliver."""

    @property
    def rate(self) -> float:
        """Events a second."""
        return sum(bin.came for bin in self.bins) / sum(bin.seconds for bin in self.bins)

    @property
    def fetched(self) -> float:
        """Pages a second."""
        return sum(bin.fetched for bin in self.bins) / sum(bin.seconds for bin in self.bins)

    @property
    def lost(self) -> float:
        """Seconds of delivering that it cost to make all pages anew: so much less was delivered from half a second before the
        first came to half a second after the last than at the rate of the bins beside. Where no page is open, the same of the
        same moment, at which nothing happens."""
        most = max(range(len(self.bins)), key=lambda index: self.bins[index].fetched)
        made = [i for i, bin in enumerate(self.bins) if bin.fetched and abs(i - most) <= BESIDE]
        first, last = (made[0], made[-1]) if made else (round((PAUSE - OPENING) / STEP),) * 2
        # The first ones that were opened look once more by themselves, some seconds before.
        if (told := sum(self.bins[i].fetched for i in made)) < self.pages or not (
            2 + BESIDE <= first <= last < len(self.bins) - 2 - BESIDE
        ):
            raise RuntimeError(
                f"{told} pages were fetched together, from {first * STEP:g} s to {last * STEP:g} s of the window: this cannot"
                " tell what that cost; is the machine too busy?"
            )
        hit = self.bins[first - 2 : last + 3]
        beside = [*self.bins[first - 2 - BESIDE : first - 2], *self.bins[last + 3 : last + 3 + BESIDE]]
        rate = sum(bin.came for bin in beside) / sum(bin.seconds for bin in beside)
        return sum(bin.seconds for bin in hit) - sum(bin.came for bin in hit) / rate


def windows(service: Service, sink: Sink) -> Iterator[Window]:
    """With no page open and with PAGES of them until the backlog ends, as two pairs one after the other and turned around, so
    that what changes steadily meanwhile (a backlog gets shorter) is no difference; what opening them costs is left out."""
    for count in cycle((0, PAGES, PAGES, 0)):
        with following(service.port, count) as pages:
            time.sleep(OPENING)
            before, fetched = service.threads(), sum(page.fetched for page in pages)
            sink.report()
            begun = at = time.monotonic()
            bins = []
            while at < begun + PAUSE:
                time.sleep(STEP)
                came, was, at = sink.report()["count"], at, time.monotonic()
                known, fetched = fetched, sum(page.fetched for page in pages)
                bins.append(Bin(at - was, came, fetched - known))
            used = service.threads()
            if service.idle:
                return
            busy = sorted(used[thread] - before.get(thread, 0.0) for thread in used)
            yield Window(count, bins, 100 * sum(busy[:-2]) / (at - begun))


def ratios(found: Sequence[Window]) -> list[float]:
    """With pages over without, of each pair of one drain."""
    pairs = [sorted(pair, key=lambda one: one.pages) for pair in zip(found[::2], found[1::2], strict=False)]
    return [beside.rate / alone.rate for alone, beside in pairs]


def _mean(what: str, values: Sequence[float], unit: str, **goal: float) -> Figure:
    """The mean of values that differ by noise alone, and how far it may be off."""
    error = stdev(values) / sqrt(len(values))
    note = f"mean of {len(values)}, standard error {error:.2g}"
    return Figure(what, mean(values), unit, each=tuple(values), note=note, **goal)


def measure(options: Options) -> Measured:
    seconds = options.scaled(60, 10)
    runs: list[list[Window]] = []
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made, receiver() as sink:
        backlog = Backlog(Path(made, "backlog"), options.scaled(800_000, 300_000), sink.url)
        # Each drain has some three windows of either kind.
        for _ in range(max(1, options.rounds // 3)):
            with backlog.service() as service:
                runs.append(list(windows(service, sink)))
        (folder := Path(made, "idle")).mkdir()
        grown = _growth(folder, sink.url, seconds)
    every = [window for run in runs for window in run]
    paired = [ratio for run in runs for ratio in ratios(run)]
    if len(paired) < 2:
        raise RuntimeError(
            f"too few windows of {PAUSE:g} s in a backlog of {backlog.events:,}: repeat it with more --rounds"
        )
    alone, beside = [w for w in every if not w.pages], [w for w in every if w.pages]
    share = 100 / PAUSE
    return Measured(
        [
            Figure.of("delivered, no page open", [window.rate for window in alone], "events/s"),
            Figure.of(f"delivered, {PAGES} pages open", [window.rate for window in beside], "events/s"),
            _mean("the one over the other, paired", paired, "x"),
            _mean(f"of the rate, what {PAGES} pages cost", [w.lost * share for w in beside], "%", at_most=2),
            _mean("the same of a moment without pages (right: 0)", [w.lost * share for w in alone], "%"),
            Figure.of("of one core, all but delivery takes without pages", [window.others for window in alone], "%"),
            Figure.of(f"of one core, all but delivery takes with {PAGES}", [window.others for window in beside], "%"),
            Figure.of(f"pages fetched anew by {PAGES} that are open", [window.fetched for window in beside], "pages/s"),
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
