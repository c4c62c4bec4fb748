"""Several processes that share what is owed, on PostgreSQL: real workers, real kills."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from conftest import SECRET_KEY
from dispatching import CLOCK, House
from marzhook.dispatch import ownership, settler
from marzhook.errors import OwnershipLostError, StoreBusyError
from marzhook.event import SHARDS, shard_of
from marzhook.store import postgresql
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.store.postgresql import CARETAKER
from marzhook.store.shards import ShardSession
from marzhook.testing import eventually
from marzhook.transport.http import HttpTransport
from postgresql import Server
from receivers import Receiver, events_of
from severing import Severed
from workers import Start, WorkerProcess, shards_of, shares

pytestmark = pytest.mark.postgresql


def in_order(receiver: Receiver) -> None:
    """Each user's events came for the first time in their order, and nothing came twice under another id."""
    last: dict[str, int] = defaultdict(lambda: -1)
    seen: set[tuple[str, int]] = set()
    for event in receiver.accepted():
        key = (event["username"], event["number"])
        if key not in seen:
            assert event["number"] == last[event["username"]] + 1, event
            last[event["username"]] = event["number"]
        seen.add(key)


def publish(house: House, users: int, numbers: Sequence[int]) -> None:
    for number in numbers:
        with house.database.write() as tx:
            new = [house.event(f"user{user}", number=number) for user in range(users)]
            house.outbox.publish(tx, new, now=CLOCK.now())


def test_workers_share_and_pass_on(house: House, start: Start, receiver: Receiver) -> None:
    """One has all shards, two have half each, and when one is killed the other has all again; all arrives, in order."""
    house.endpoint(receiver.url)
    first = start()
    eventually(lambda: shares(house.database) == [SHARDS], timeout=30)
    publish(house, 40, range(5))
    receiver.wait(200)
    second = start()
    eventually(lambda: shares(house.database) == [SHARDS // 2] * 2, timeout=30)
    publish(house, 40, range(5, 10))
    second.kill()
    publish(house, 40, range(10, 15))
    eventually(lambda: shares(house.database) == [SHARDS], timeout=30)
    eventually(lambda: house.count("pending") == 0, timeout=60)
    assert {event["username"] for event in receiver.accepted()} == {f"user{n}" for n in range(40)}
    assert house.states() == {"delivered": 600}
    in_order(receiver)
    assert first.end() == 0
    eventually(lambda: house.database.workers() == [])


def test_a_worker_sends_no_more_at_once_than_it_was_told(house: House, start: Start, receiver: Receiver) -> None:
    """`marzhook worker --concurrency 2`."""
    house.endpoint(receiver.url)
    receiver.do(hold=True)
    publish(house, 20, range(1))
    start("worker", "--concurrency", "2")
    receiver.wait(2)
    receiver.do(delay=0.01)
    eventually(lambda: house.count("pending") == 0, timeout=60)
    assert receiver.most_in_flight() == 2


def test_who_is_cut_off_for_long_gives_up_what_is_on_its_way(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However patient its requests are: soon others have its shards. It begins anew when the database answers."""
    house.endpoint(receiver.url)
    receiver.do(mode="hang")
    transport = HttpTransport(house.clock)
    with house.dispatching(shared="one", timeout=600.0, transport=transport):
        house.publish(["anna"])
        receiver.wait(1)
        with monkeypatch.context() as cut_off:
            cut_off.setattr(ShardSession, "silent_for", lambda _: ownership.GIVEN_UP + 1)
            eventually(lambda: transport.in_flight == 0)
        receiver.do(status=200)
        receiver.wait(2)
        eventually(lambda: house.count("pending") == 0)


def test_a_server_that_refuses_has_answered(
    house: House, reopen: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While others keep a table locked, nothing can be written; that is no silence, after which all would be given up."""
    session = reopen(busy_timeout=0.01).shards("one")
    monkeypatch.setattr(session, "_reached_at", time.monotonic() - 1000)
    with house.database.write() as locking:
        locking.conn.exec_driver_sql("LOCK TABLE settled IN SHARE MODE")
        with pytest.raises(StoreBusyError), session.write() as tx:
            tx.conn.exec_driver_sql("DELETE FROM settled")
    assert session.silent_for() < ownership.SILENT
    session.close()


def test_a_host_that_does_not_answer_is_passed_over(
    house: House, receiver: Receiver, postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two hosts the first is gone, and who connects there waits until he gives up. Each session pays for that; none is
    taken for one that has long been silent when it begins."""
    monkeypatch.setattr(ownership, "GIVEN_UP", 3.0)
    house.endpoint(receiver.url)
    house.publish(["anna"])
    with Severed(postgresql.port) as gone:
        gone.fall_silent()
        name = house.database.name.partition("///")[2].partition("?")[0]
        hosts = f"127.0.0.1:{gone.port},127.0.0.1:{postgresql.port}"
        url = f"postgresql://marzhook:{postgresql.password}@{hosts}/{name}?connect_timeout=2"
        with closing(Database.open(url, secret_keys=[SECRET_KEY])) as database:
            database.upgrade()
            with House(database, Outbox(database)).dispatching(shared="one"):
                receiver.wait(1, timeout=30)
                eventually(lambda: house.count("pending") == 0)


def test_who_hangs_has_lost_its_shards(house: House, start: Start, receiver: Receiver) -> None:
    """It does nothing more, while its machine still answers for it: within 30 seconds another one has its shards, and looks
    after users. When it goes on it settles nothing of what it had on its way, and joins as a new one."""
    endpoint = house.endpoint(receiver.url)
    receiver.do(hold=True)
    hung = start()
    eventually(lambda: shares(house.database) == [SHARDS], timeout=30)
    eventually(lambda: caretaker(house) is not None, timeout=30)
    before = caretaker(house)
    house.publish(["anna"])
    receiver.wait(1)
    hung.freeze()
    try:
        other = start()
        receiver.do(status=200)
        eventually(lambda: len(shards_of(house.database, other.told)) == SHARDS, timeout=30)
        eventually(lambda: house.count("pending") == 0)
        eventually(lambda: caretaker(house) not in (before, None), timeout=30)
        went_on = CLOCK.now()
    finally:
        hung.thaw()
    eventually(lambda: shares(house.database) == [SHARDS // 2] * 2, timeout=30)
    [since] = [worker.since for worker in house.database.workers() if hung.told in worker.name]
    assert since is not None
    assert since > went_on
    assert [number for number, *_ in house.attempts(endpoint, 1)] == [1]
    assert len(receiver.seen()) == 2


def test_who_hangs_in_a_transaction_has_lost_its_shards(
    house: House, reopen: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as one that hangs between two: the guide promises 30 seconds."""
    assert postgresql.IDLE < 30
    monkeypatch.setattr(postgresql, "IDLE", 1)
    with closing(reopen().shards("hung")) as session:
        session.sweep()
        assert len(shards_of(house.database, "hung")) == SHARDS

        def hang() -> None:
            with session.write() as tx:
                eventually(lambda: shards_of(house.database, "hung") == set())
                tx.conn.exec_driver_sql("SELECT 1")

        with pytest.raises(OwnershipLostError):
            hang()


def test_who_only_says_that_it_lives_takes_nothing(house: House, reopen: Callable[..., Database]) -> None:
    """A shard that is free stays so: who works with the session would not know of it. A session that is gone says so."""
    with closing(reopen().shards("waits")) as session:
        session.sweep()
        session.release([7])
        before = session.held
        session._reached_at -= 5
        assert session.silent_for() >= 5
        session.keep()
        assert session.silent_for() < 5
        assert 7 not in session.held == before == shards_of(house.database, "waits")
        session.sweep()
        assert 7 in session.held
        with house.database.read() as conn:
            conn.exec_driver_sql("SELECT pg_terminate_backend(%s, 10000)", (session.session,))
        with pytest.raises(OwnershipLostError):
            session.keep()


def caretaker(house: House) -> int | None:
    """The number of the session that looks after users for all."""
    with house.database.read() as conn:
        found = conn.exec_driver_sql(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            (CARETAKER,),
        )
        number: int | None = found.scalar_one_or_none()
        return number


def test_one_of_all_is_the_caretaker(house: House, reopen: Callable[..., Database]) -> None:
    """Until its session ends, by itself or by the server's hand: then another one is, and it is told so."""
    with closing(reopen().caretaker()) as first, closing(reopen().caretaker()) as second:
        assert [first.mine(), second.mine(), first.mine()] == [True, False, True]
        with house.database.read() as conn:
            conn.exec_driver_sql("SELECT pg_terminate_backend(%s, 10000)", (caretaker(house),))
        assert [first.mine(), second.mine(), first.mine()] == [False, True, False]
        second.close()
        eventually(first.mine)


def test_who_cannot_write_a_note_keeps_its_session(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a lock on `endpoints`, say. The server ends a session that says nothing for 25 seconds, and what others accepted
    meanwhile would be dropped and sent again: it speaks between two tries, and takes no shard behind the dispatcher's back."""
    monkeypatch.setattr(settler, "RETRY_EVERY", 0.1)
    fast = house.endpoint(receiver.url)
    spoke, held = list[float](), set[frozenset[int]]()

    def note() -> None:
        if not spoke:
            holder.release([min(holder.held)])
        held.add(holder.held)
        spoke.append(holder._reached_at)
        if len(spoke) < 4:
            raise StoreBusyError("locked")

    with house.dispatching(shared="one") as dispatcher:
        eventually(lambda: len(shards_of(house.database, "one")) == SHARDS)
        assert dispatcher._ownership is not None
        holder = dispatcher._ownership._holder
        assert isinstance(holder, ShardSession)
        dispatcher._settler.call(note)
        house.publish(["anna"])
        eventually(lambda: house.count("pending") == 0)
    assert len(set(spoke)) == 4
    assert [len(shards) for shards in held] == [SHARDS - 1]
    assert [number for number, *_ in house.attempts(fast, 1)] == [1]


def test_who_waits_for_a_lock_goes_on_sending(
    receiver: Receiver,
    reopen: Callable[..., Database],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A note, or what is settled, gives up and is tried again before the session that holds the shards seems to hang."""
    assert postgresql.BRIEF + 2 * ownership.SWEEP_EVERY < ownership.SILENT
    monkeypatch.setattr(postgresql, "BRIEF", 1.0)
    monkeypatch.setattr(ownership, "SILENT", 4.0)
    database = reopen()
    house = House(database, Outbox(database))
    endpoint = house.endpoint(receiver.url)
    with house.dispatching(shared="one") as dispatcher:
        eventually(lambda: len(shards_of(database, "one")) == SHARDS)

        def waits(table: str, begin: Callable[[], object], told: str) -> None:
            with database.write() as tx:
                tx.conn.exec_driver_sql(f"SELECT 1 FROM {table} FOR UPDATE")
                begin()
                eventually(lambda: dispatcher._silent or told in caplog.text)
                assert not dispatcher._silent

        waits("endpoints", lambda: dispatcher._notices.change(endpoint, name="noted"), "a note waits")
        eventually(lambda: house.load(endpoint.id).name == "noted")
        receiver.do(hold=True)
        house.publish(["anna"])
        receiver.wait(1)
        waits("pending", lambda: receiver.do(status=200), "settlements wait")
        eventually(lambda: house.count("pending") == 0)
    assert [number for number, *_ in house.attempts(endpoint, 1)] == [1]


def test_who_lost_its_session_cannot_settle(house: House, receiver: Receiver, reopen: Callable[..., Database]) -> None:
    """An answer that comes after the session is gone changes nothing: the delivery is made again, by whoever has it then."""
    endpoint = house.endpoint(receiver.url)
    receiver.do(hold=True)
    with house.dispatching(shared="one") as dispatcher:
        house.publish(["anna"])
        receiver.wait(1)
        with house.database.write() as tx:
            tx.conn.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'one'"
            )
            receiver.do(status=200)
        receiver.wait(2)
        eventually(lambda: house.count("pending") == 0)
        eventually(lambda: dispatcher.not_ready == [])
    assert [number for number, *_ in house.attempts(endpoint, 1)] == [1]


def test_who_has_no_shard_does_not_look_for_what_is_in_none(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """As each worker at its start: PostgreSQL would walk through the whole backlog to find nothing of it."""
    house.endpoint("http://127.0.0.1:9/")
    house.publish(["anna"])
    outbox = house.outbox
    outbox.own(())
    with monkeypatch.context() as patched:
        patched.setattr(house.database, "read", None)
        assert outbox.window(1, after=0, limit=9) == outbox.load(1, [1]) == outbox.behind({1: 0}) == []
    outbox.own(range(SHARDS))
    assert len(outbox.window(1, after=0, limit=9)) == len(outbox.load(1, [1])) == len(outbox.behind({1: 0})) == 1


def test_shards_are_given_up_only_when_nothing_of_them_is_on_its_way(house: House, receiver: Receiver) -> None:
    """While one has a request of a user on its way, the joiner does not send the next one of that user."""
    # 32 on their way are half of what is allowed: as much as the joiner leaves to the first one.
    house.endpoint(receiver.url, concurrency=64)
    names = [f"user{n}" for n in range(64)]
    receiver.do(hold=True)
    with house.dispatching(shared="one", timeout=60.0):
        eventually(lambda: len(shards_of(house.database, "one")) == SHARDS)
        house.publish(names[:32])
        receiver.wait(32)
        other = House(house.database, Outbox(house.database))
        with other.dispatching(shared="two", timeout=60.0):
            eventually(lambda: len(shards_of(house.database, "two")) > 0)
            flying = [event["username"] for record in receiver.seen() for event in events_of(record["body"])]
            house.publish(names)
            # Some of what the other one is to get is idle, and went to it; what is on its way stays where it is.
            receiver.wait(33)
            assert {shard_of(name) for name in flying} <= shards_of(house.database, "one")
            later = [event["username"] for record in receiver.seen()[32:] for event in events_of(record["body"])]
            assert not set(later) & set(flying)
            assert {shard_of(name) for name in later} <= shards_of(house.database, "two")
            receiver.do(status=200)
            eventually(lambda: house.count("pending") == 0, timeout=60)
            eventually(lambda: shares(house.database) == [SHARDS // 2] * 2)
    assert house.states() == {"delivered": 96}


def test_an_event_that_becomes_visible_late_is_not_missed(house: House, receiver: Receiver) -> None:
    """Who took an id first may commit last: it comes although later ids were read, sent and settled before."""
    house.endpoint(receiver.url)
    taken, go_on = threading.Event(), threading.Event()

    def late() -> None:
        with house.database.write() as tx:
            house.outbox.publish(tx, [house.event("late")], now=CLOCK.now())
            taken.set()
            assert go_on.wait(30)

    thread = threading.Thread(target=late)
    with house.dispatching(shared="one"):
        thread.start()
        assert taken.wait(30)
        for number in range(5):
            house.publish([f"quick{number}"])
            receiver.wait(number + 1)
        eventually(lambda: house.count("pending") == 0)
        go_on.set()
        thread.join(30)
        receiver.wait(6)
    assert receiver.accepted()[-1]["username"] == "late"


def test_a_worker_needs_postgresql(tmp_path: Path) -> None:
    """On SQLite it says so in one line, and ends with 2; so does a service that is to send nothing."""
    for arguments in (("worker",), ("run", "--no-dispatch")):
        worker = WorkerProcess(tmp_path, {"MARZHOOK_DATABASE_URL": "sqlite:///marzhook.db"}, *arguments)
        assert worker.process.wait(30) == 2
        assert "on SQLite one process does all" in worker.said()
        worker.log.close()
