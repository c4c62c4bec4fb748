from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from marzhook.dashboard import live
from marzhook.dashboard.live import Pulse
from marzhook.event import NewEvent
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.testing import FakeClock


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EVERY", 0.02)
    monkeypatch.setattr(live, "EACH", 0.01)


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


def test_many_open_pages_cost_no_more_than_few(database: Database) -> None:
    """The more follow along, the less often each of them is told: delivering comes first."""
    pulse = Pulse(database, also=lambda: 0)

    async def follow() -> None:
        pages = [pulse.beats(yes) for _ in range(20)]
        for page in pages[:2]:
            await anext(page)
        assert pulse.pause == live.EVERY
        for page in pages[2:]:
            await anext(page)
        assert pulse.pause == 20 * live.EACH
        await closed(pages)

    asyncio.run(follow())


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
    monkeypatch.setattr(live, "RECHECKED", 1)

    async def rest(pulse: Pulse, allowed: object) -> int:
        return len([beat async for beat in pulse.beats(allowed)])  # type: ignore[arg-type]

    async def follow() -> None:
        assert await asyncio.wait_for(rest(Pulse(database, also=lambda: 0), no), 10) == 1
        pulse = Pulse(database, also=lambda: 0)
        streaming = asyncio.ensure_future(rest(pulse, yes))
        await asyncio.sleep(0)
        pulse.close()
        assert await asyncio.wait_for(streaming, 10) == 1

    asyncio.run(follow())


async def closed(pages: list[AsyncIterator[dict[str, str]]]) -> None:
    for page in pages:
        await page.aclose()  # type: ignore[attr-defined]
