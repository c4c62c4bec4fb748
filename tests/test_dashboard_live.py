from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import psycopg
import pytest
from starlette.requests import Request

from conftest import SECRET_KEY
from marzhook.dashboard import live
from marzhook.dashboard.live import Pulse
from marzhook.dashboard.session import SESSION
from marzhook.event import NewEvent
from marzhook.store import sessions
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.testing import Counter, FakeClock, eventually
from postgresql import Server

if TYPE_CHECKING:
    from starlette.types import Message

    from dashboard_client import Browser

pytest_plugins = ["api_client", "dashboard_client"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EVERY", 0.02)


@pytest.fixture
def still(backend: str, request: pytest.FixtureRequest) -> Iterator[None]:
    """Nobody else commits on the test's server, for what is committed to any of its databases counts: all that would is
    autovacuum."""
    if backend == "sqlite":
        yield
        return
    server: Server = request.getfixturevalue("postgresql")
    server.sql("ALTER SYSTEM SET autovacuum = off")
    server.sql("SELECT pg_reload_conf()")
    with psycopg.connect(server.url(), autocommit=True) as watch:
        at_work = "SELECT 1 FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%'"
        eventually(lambda: not watch.execute(at_work).fetchone(), what="the end of autovacuum")
    yield
    server.sql("ALTER SYSTEM RESET autovacuum")
    server.sql("SELECT pg_reload_conf()")


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


def test_a_commit_is_told_to_all_who_follow(database: Database, outbox: Outbox, clock: FakeClock) -> None:
    """At once when a page opens, and then for what changes, also by other processes; the number beside it counts, too."""
    number = [0]
    pulse = Pulse(database, also=lambda: number[0])

    def publish() -> None:
        with database.write() as tx:
            outbox.publish(tx, [NewEvent("user_updated", "alice")], now=clock.now())

    async def follow() -> None:
        pages = [pulse.beats(yes) for _ in range(3)]
        assert [await anext(page) for page in pages] == [{"event": "change", "data": ""}] * 3
        for change in (publish, lambda: number.__setitem__(0, 7)):
            waiting = [asyncio.ensure_future(anext(page)) for page in pages]
            await asyncio.sleep(0)
            assert not any(one.done() for one in waiting)
            await asyncio.to_thread(change)
            await asyncio.wait_for(asyncio.gather(*waiting), 10)
        await closed(pages)

    asyncio.run(follow())


@pytest.mark.usefixtures("still")
def test_a_page_is_told_at_once_only_of_what_changed_since_it_was_made(
    database: Database, outbox: Outbox, clock: FakeClock
) -> None:
    """It carries the state that it was made at; what carries another process's, or none, is told in any case."""
    looks = Counter()

    def looked() -> str:
        looks()
        return "the same"

    pulse = Pulse(database, also=looked)

    def publish() -> None:
        with database.write() as tx:
            outbox.publish(tx, [NewEvent("user_updated", "alice")], now=clock.now())

    async def follow() -> None:
        state = pulse.state
        assert pulse.state == state
        page = pulse.beats(yes, state)
        waiting = asyncio.ensure_future(anext(page))
        await asyncio.to_thread(looks.wait, looks.count + 5)
        assert not waiting.done()
        await asyncio.to_thread(publish)
        # Another page sees it before the stream's next look does.
        assert pulse.state != state
        await asyncio.wait_for(waiting, 10)
        name = state.partition(".")[0]
        others = [pulse.beats(yes, known) for known in (state, "", "other.99", f"{name}.", f"{name}.²")]
        for other in others:
            await asyncio.wait_for(anext(other), 10)
        await closed([page, *others])

    asyncio.run(follow())
    pulse.close()


@pytest.mark.postgresql
@pytest.mark.usefixtures("still")
def test_no_beat_while_nothing_happens(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """On PostgreSQL a page that is open fetches nothing until something was committed, then also what nobody was told of."""
    # All of a sweep's time is over at each look.
    monkeypatch.setattr(sessions, "SWEEP", 0.0)
    looks = Counter()

    def looked() -> int:
        looks()
        return 0

    async def follow() -> None:
        page = Pulse(database, also=looked).beats(yes)
        await anext(page)
        waiting = asyncio.ensure_future(anext(page))
        await asyncio.to_thread(looks.wait, looks.count + 5)
        assert not waiting.done()
        with database.write() as tx:
            # Announced to nobody, as what was delivered is.
            database.set_meta(tx, "x", "y")
        await asyncio.wait_for(waiting, 10)
        await closed([page])

    asyncio.run(follow())


def test_a_database_that_is_away_stops_nobody_else() -> None:
    """A server that takes connections and never says a word keeps the page waiting, and not the API around it."""

    async def follow(silent: socket.socket, database: Database) -> None:
        loop = asyncio.get_running_loop()
        page = Pulse(database, also=lambda: 0).beats(yes)
        first = asyncio.ensure_future(anext(page))
        for look in range(2):
            connection, _address = await asyncio.wait_for(loop.sock_accept(silent), 10)
            # The loop goes on while the database is being asked: here, and, with the second one, after the first beat.
            assert first.done() == (look > 0)
            connection.close()
            await asyncio.wait_for(asyncio.shield(first), 10)
        await closed([page])

    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        port = silent.getsockname()[1]
        url = f"postgresql://u@127.0.0.1:{port}/x?connect_timeout=2&sslmode=disable&gssencmode=disable"
        with closing(Database.open(url, secret_keys=[SECRET_KEY])) as database:
            asyncio.run(follow(silent, database))


def test_many_open_pages_cost_no_more_than_few(database: Database) -> None:
    """The more follow along, the less often each of them is told: delivering comes first."""
    looked: list[float] = []
    pulse = Pulse(database, also=lambda: looked.append(time.monotonic()))

    async def follow() -> None:
        pages = [pulse.beats(yes) for _ in range(20)]
        await anext(pages[0])
        assert pulse.pause == live.EVERY
        for page in pages[1:]:
            await anext(page)
        assert pulse.pause == 20 * live.EVERY
        # Nor do they ask by themselves before that, whatever reason they have to, and without one not at all.
        assert pulse.worth(0.5) > pulse.pause
        assert pulse.worth(60.0) == 60.0
        assert pulse.worth(0.0) == 0.0
        looked.clear()
        await asyncio.to_thread(eventually, lambda: len(looked) >= 4, what="four looks")
        assert min(after - before for before, after in pairwise(looked[1:])) > 18 * live.EVERY
        await closed(pages)

    asyncio.run(follow())


def test_who_follows_along_is_asked_for_his_session_now_and_then(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with each change, and, once it was asked, not again before its time."""
    asked: list[float] = []
    number = [0]
    pulse = Pulse(database, also=lambda: number[0])

    async def still_allowed() -> bool:
        asked.append(time.monotonic())
        return len(asked) < 3

    async def follow() -> None:
        page = pulse.beats(still_allowed)
        for _ in range(3):
            await asyncio.wait_for(anext(page), 10)
            number[0] += 1
        assert not asked
        await closed([page])
        monkeypatch.setattr(live, "RECHECKED", 0.1)
        async for _ in pulse.beats(still_allowed):
            number[0] += 1
        assert min(after - before for before, after in pairwise(asked)) > 0.08

    asyncio.run(follow())


def test_a_stop_waits_for_no_look_that_hangs(database: Database) -> None:
    """A database that does not answer keeps no stream open: neither one that waits for a change nor one that has just come."""
    hanging, let_go = threading.Event(), threading.Event()
    hang = [False]

    def looked() -> int:
        if hang[0]:
            hanging.set()
            assert let_go.wait(20)
        return 0

    pulse = Pulse(database, also=looked)

    async def follow() -> None:
        pages = [pulse.beats(yes)]
        await anext(pages[0])
        hang[0] = True
        ending = [asyncio.ensure_future(anext(page, None)) for page in pages]
        assert await asyncio.to_thread(hanging.wait, 10)
        other = Pulse(database, also=looked)
        ending.append(asyncio.ensure_future(anext(other.beats(yes), None)))
        await asyncio.sleep(0)
        for one in (pulse, other):
            await asyncio.to_thread(one.close)
        assert await asyncio.wait_for(asyncio.gather(*ending), 10) == [None, None]
        let_go.set()

    asyncio.run(follow())


@pytest.mark.parametrize("broken", ["commits", "changed"])
def test_a_look_that_fails_is_begun_anew(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    """A page that is open then follows along again; what it may have missed is told as a change. The log has it once."""
    pulse, breaks, number = Pulse(database, also=lambda: number[0]), [], [0]
    of = database if broken == "commits" else type(database.commits())
    real = getattr(of, broken)

    def breaking(*watch: object) -> object:
        if len(breaks) == 2:
            return real(*watch)
        breaks.append(True)
        raise OSError("the file is gone")

    monkeypatch.setattr(of, broken, breaking)

    async def follow() -> None:
        page = pulse.beats(yes)
        for _ in range(2):
            await asyncio.wait_for(anext(page), 10)
        number[0] = 7
        await asyncio.wait_for(anext(page), 10)
        await closed([page])

    caplog.set_level("INFO", "marzhook")
    asyncio.run(follow())
    # It was there in between where only the second look fails.
    times = 1 if broken == "commits" else 2
    assert caplog.messages.count("open pages cannot follow along just now: the file is gone") == times
    assert caplog.messages.count("open pages follow along again") == times


def test_nothing_is_looked_at_while_nobody_follows(database: Database) -> None:
    """The one look for all pages ends with the last of them, and begins again with the next."""
    pulse = Pulse(database, also=lambda: 0)

    async def follow() -> None:
        for _ in range(2):
            page = pulse.beats(yes)
            await anext(page)
            looker = pulse._looker
            assert looker is not None
            assert not looker.done()
            await closed([page])
            await asyncio.wait_for(looker, 10)

    asyncio.run(follow())


def test_a_stop_and_a_sign_out_end_the_streams(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service does not wait for open pages, and who may no longer read gets no more."""

    async def rest(pulse: Pulse, allowed: object) -> int:
        return len([beat async for beat in pulse.beats(allowed)])  # type: ignore[arg-type]

    async def follow() -> None:
        with monkeypatch.context() as soon:
            soon.setattr(live, "RECHECKED", 0.02)
            assert await asyncio.wait_for(rest(Pulse(database, also=lambda: 0), no), 10) == 1
        pulse = Pulse(database, also=lambda: 0)
        page = pulse.beats(yes)
        await anext(page)
        ending = asyncio.ensure_future(anext(page, None))
        await asyncio.sleep(0)
        pulse.close()
        assert await asyncio.wait_for(ending, 10) is None

    asyncio.run(follow())


async def closed(pages: list[AsyncIterator[dict[str, str]]]) -> None:
    for page in pages:
        await page.aclose()  # type: ignore[attr-defined]


def test_a_stream_on_which_nothing_happens_says_that_it_lives(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an event that the page hears."""
    monkeypatch.setattr(live, "PING", 0.02)
    heard: list[bytes] = []

    async def follow() -> None:
        pinged = asyncio.Event()

        async def send(message: Message) -> None:
            heard.append(message.get("body", b""))
            if heard[-1].startswith(b"event: ping\r\ndata:"):
                pinged.set()

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        cookie = f"{SESSION}={browser.client.cookies[SESSION]}".encode()
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/live",
            "query_string": b"",
            "headers": [(b"cookie", cookie)],
        }
        response = await live.stream(browser.site)(Request(scope))
        serving = asyncio.ensure_future(response(scope, receive, send))
        await asyncio.wait_for(pinged.wait(), 10)
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving

    asyncio.run(follow())
