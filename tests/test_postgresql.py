"""What is PostgreSQL's own: writers that do not take turns, and a server that can be away or refuse."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from conftest import SECRET_KEY
from marzhook.delivery import CANCELLED, DELIVERED
from marzhook.errors import ConflictError, DatabaseError, InvalidError, MarzhookError, StoreBusyError
from marzhook.event import NewEvent
from marzhook.store import admins, endpoints, idempotency
from marzhook.store.database import Database
from marzhook.store.outbox import DeliveryFilter, Outbox
from marzhook.store.postgresql import PostgreSQLDatabase
from marzhook.store.presence import Presence
from marzhook.testing import FakeClock, eventually
from postgresql import Server
from registries import World
from settling import settlement

pytest_plugins = ["registries"]
pytestmark = pytest.mark.postgresql

Open = Callable[..., Database]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def at_once(threads: ThreadPoolExecutor, *works: Callable[[], object]) -> list[object]:
    """What came of these, all begun in the same moment: results and our errors."""
    together = threading.Barrier(len(works))

    def one(work: Callable[[], object]) -> object:
        together.wait(10)
        try:
            return work()
        except MarzhookError as error:
            return error

    return [future.result(60) for future in [threads.submit(one, work) for work in works]]


def is_waiting(database: Database, count: int = 1) -> None:
    """Until so many sessions wait for a lock."""

    def waiting() -> bool:
        with database.read() as conn:
            found = conn.exec_driver_sql(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            ).scalar()
        return found == count

    eventually(waiting)


def is_open(future: Future[object]) -> bool:
    return not future.done()


# -- what is refused


def test_what_cannot_be_opened_says_why(postgresql: Server, template: str) -> None:
    """Nobody there, a wrong password, no such database, no rights, another encoding: one line each, without the password."""
    with (
        postgresql.database() as name,
        postgresql.database(encoding="SQL_ASCII") as strange,
        psycopg.connect(postgresql.url(name), autocommit=True) as connection,
    ):
        connection.execute("CREATE ROLE reader LOGIN")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        for url, kind, words in (
            ("postgresql://u:hush@127.0.0.1:1/x", StoreBusyError, r"127\.0\.0\.1:1/x cannot be reached .*check that it runs"),
            (postgresql.tcp_url(name).replace(postgresql.password, "hush"), DatabaseError, "cannot be opened .*password"),
            (postgresql.url("nothing"), DatabaseError, "cannot be opened .*does not exist"),
            (postgresql.url(name).replace("marzhook@", "reader@"), DatabaseError, "give its user the rights"),
            (postgresql.url(strange), DatabaseError, "encoding SQL_ASCII; create one with ENCODING 'UTF8'"),
        ):  # fmt: skip
            with closing(Database.open(url, secret_keys=[SECRET_KEY])) as database:
                with pytest.raises(kind, match=words) as caught:
                    database.upgrade()
                assert "hush" not in str(caught.value)
                assert "\n" not in str(caught.value)
        connection.execute("DROP ROLE reader")
    with pytest.raises(DatabaseError, match="is not a PostgreSQL URL") as caught:
        Database.open("postgresql://u:hush@[h/x")
    assert "hush" not in str(caught.value)


def test_other_databases_are_not_needed() -> None:
    """MySQL and MariaDB are refused with what to take instead, also where the URL did not come through the settings."""
    for url in ("mysql://h/db", "mariadb+pymysql://h/db"):
        with pytest.raises(DatabaseError, match="not needed"):
            Database.open(url)


def test_another_programs_database_is_left_alone(postgresql: Server) -> None:
    """Where there are tables of somebody else, nothing is made and nothing is changed."""
    with postgresql.database() as name, psycopg.connect(postgresql.url(name), autocommit=True) as connection:
        connection.execute("CREATE TABLE recipes (id integer)")
        with (
            closing(Database.open(postgresql.url(name), secret_keys=[SECRET_KEY])) as database,
            pytest.raises(DatabaseError, match="another program"),
        ):
            database.upgrade()
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert tables == [("recipes",)]


def test_without_a_key_nothing_is_made(postgresql: Server) -> None:
    """A first start needs MARZHOOK_SECRET_KEY, and says how to make one; so does a later one without it, or with another."""
    other = SECRET_KEY.replace("A", "B", 1)
    with postgresql.database() as name:
        for keys, words in (
            ([], "openssl rand -base64 32"),
            ([SECRET_KEY], ""),
            ([], "missing"),
            ([other], "another key"),
        ):
            with closing(Database.open(postgresql.url(name), secret_keys=keys)) as database:
                if not words:
                    database.upgrade()
                    continue
                with pytest.raises(DatabaseError, match=words) as caught:
                    database.upgrade()
                assert "MARZHOOK_SECRET_KEY" in str(caught.value)
                assert database.exists() == (words != "openssl rand -base64 32")


def test_several_processes_may_come_first(postgresql: Server, threads: ThreadPoolExecutor) -> None:
    """Whoever opens an empty database at the same time finds it built, once."""

    def start() -> object:
        with closing(Database.open(url, secret_keys=[SECRET_KEY])) as database:
            database.upgrade()
            with database.read() as conn:
                return database.meta(conn, "instance"), database.meta(conn, "token_key")

    with postgresql.database() as name:
        url = postgresql.url(name)
        found = at_once(threads, *[start] * 4)
    assert len(set(found)) == 1
    assert isinstance(found[0], tuple)


def test_characters_that_cannot_be_kept(world: World) -> None:
    """PostgreSQL's text holds no NUL: where one comes in, it is the caller's error and not ours."""
    with pytest.raises(InvalidError, match="NUL"):
        world.registry.get("a\0b", None)


# -- a server that is away


def test_a_restart_costs_what_was_on_its_way(threads: ThreadPoolExecutor, clock: FakeClock) -> None:
    """A transaction that the server took down with it is an error of ours that says so; the next one goes through."""
    server = Server()
    try:
        with (
            server.database() as name,
            closing(Database.open(server.url(name), secret_keys=[SECRET_KEY])) as database,
        ):
            database.upgrade()
            outbox = Outbox(database)
            watch = database.watch()
            assert not watch.changed()

            def interrupted() -> None:
                with database.write() as tx:
                    outbox.publish(tx, [NewEvent("user_created", "lost")], now=clock.now())
                    server.restart()

            with pytest.raises(StoreBusyError, match=r"went away .*Idempotency-Key"):
                interrupted()
            # Also connections that were idle meanwhile: they are noticed before they are used.
            with database.write() as tx:
                ids = outbox.publish(tx, [NewEvent("user_created", "kept")], now=clock.now())
            with database.read() as conn:
                assert conn.exec_driver_sql("SELECT id, username FROM events").all() == [(ids[0], "kept")]
            eventually(watch.changed)
            watch.close()
    finally:
        server.stop()


def test_a_session_that_ends_as_it_begins_is_one_trouble(
    postgresql: Server, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Between the pool's own look at it and the transaction: nobody tries to roll that back, and logs that he cannot, nor says
    that the server is away."""
    assert isinstance(database, PostgreSQLDatabase)

    def end(connection: psycopg.Connection[Any], *_: object) -> None:
        postgresql.sql(f"SELECT pg_terminate_backend({connection.info.backend_pid}, 10000)")

    sa.event.listen(database._engine, "checkout", end)
    with pytest.raises(StoreBusyError, match="ended a session"), database.read():
        pass
    sa.event.remove(database._engine, "checkout", end)
    with database.read() as conn:
        conn.exec_driver_sql("SELECT 1")
    sa.event.listen(database._engine, "checkout", end)
    database._notify()
    sa.event.remove(database._engine, "checkout", end)
    assert caplog.records == []
    with database.read() as conn:
        assert conn.exec_driver_sql("SELECT 1").scalar() == 1


def test_a_server_that_takes_no_more_sessions_is_not_away(postgresql: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Who gets none hears that, and tells it; who has one goes on, and nobody says that nothing is read or written."""
    postgresql.sql("CREATE ROLE narrow LOGIN PASSWORD 'x' CONNECTION LIMIT 1")
    url = f"postgresql://narrow:x@127.0.0.1:{postgresql.port}/postgres"
    with closing(Database.open(url, secret_keys=[SECRET_KEY])) as database, database.read() as conn:
        for _ in range(2):
            with pytest.raises(StoreBusyError, match="takes no more connections") as refused, database.read():
                pass
            assert refused.value.code == "store_busy"
        assert conn.exec_driver_sql("SELECT 1").scalar() == 1
    postgresql.sql("DROP ROLE narrow")
    assert caplog.records == []


def test_what_somebody_reaches_is_not_away(caplog: pytest.LogCaptureFixture, clock: FakeClock) -> None:
    """A server that refuses one session more may say so in Russian, with no code: others go on. That it is gone is told when
    nobody has reached it for some seconds, and since then."""
    presence = Presence("postgresql://one/db", clock.monotonic)
    presence.back()
    for _ in range(5):
        clock.advance(2)
        presence.gone("ВАЖНО:  извините, уже слишком много клиентов")
        presence.back()
    assert caplog.records == []
    for _ in range(4):
        clock.advance(1)
        presence.gone("Connection refused")
    clock.advance(4)
    presence.back()
    away, back = caplog.messages
    assert "is away (Connection refused)" in away
    assert back == "postgresql://one/db is back after 8.0 s"


def test_more_callers_than_connections(database: Database, reopen: Open) -> None:
    """Whoever finds all connections in use waits, and then hears that it is busy. A worker's notes do not wait for them."""
    impatient = reopen(busy_timeout=0.05)
    inner: list[object] = []
    brief: list[object] = []

    def use(left: int) -> None:
        with impatient.read() as conn:
            inner.append(conn)
            if len(inner) == 30:
                with impatient.write(brief=True) as tx:
                    brief.append(tx.conn.exec_driver_sql("SELECT 1").scalar())
            use(left - 1)

    with pytest.raises(StoreBusyError, match="all connections"):
        use(40)
    assert len(inner) == 30
    assert brief == [1]
    with impatient.read() as conn:
        assert conn.exec_driver_sql("SELECT 1").scalar() == 1


# -- writers do not take turns


def test_reports_and_changes_at_once_lose_nothing(world: World, threads: ThreadPoolExecutor) -> None:
    """However reports and changes of the same users fall together, each counts, and nobody waits for ever."""
    ann, bob = world.admin("ann"), world.admin("bob")
    names = [world.add(f"user-{i}", by=(ann, bob)[i % 2], data_limit=10**6).username for i in range(12)]

    def report(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(15):
            world.registry.charge([(name, 1) for name in chance.sample(names, 8)])

    def change(seed: int) -> None:
        chance = random.Random(seed)
        for n in range(15):
            world.registry.modify(chance.choice(names), {"note": f"{seed} {n}"}, None)

    works = [lambda i=i: (report if i % 2 else change)(i) for i in range(8)]
    assert at_once(threads, *works) == [None] * 8
    used = [world.registry.get(name, None).used_traffic for name in names]
    assert sum(used) == 4 * 15 * 8
    assert world.sql("SELECT sum(bytes) FROM traffic") == [(4 * 15 * 8,)]
    assert world.sql("SELECT sum(users_usage) FROM admins") == [(4 * 15 * 8,)]
    updates = [action for action, _ in world.events() if action == "user_updated"]
    assert len(updates) == 4 * 15


def test_a_limit_is_told_once(world: World, threads: ThreadPoolExecutor) -> None:
    """Of many reports at once one crosses the limit."""
    world.add(data_limit=10)
    assert at_once(threads, *[lambda: world.registry.charge([("alice", 2)])] * 12) == [[]] * 12
    assert world.actions().count("user_limited") == 1
    assert world.registry.get("alice", None).used_traffic == 24


def test_a_name_is_given_once(world: World, threads: ThreadPoolExecutor) -> None:
    """Of several who create the same user at once one does, the others hear that there is one; so it is with admins, whose
    names may not differ by case alone."""
    made = at_once(threads, *[lambda n=n: world.add(n) for n in ("alice", "ALICE") * 4])
    assert sum(isinstance(one, ConflictError) for one in made) == 7
    assert len(world.actions("alice") + world.actions("ALICE")) == 1
    made = at_once(threads, *[lambda n=n: world.admin(n, is_sudo=True) for n in ("ann", "Ann") * 4])
    assert sum(isinstance(one, ConflictError) for one in made) == 7


def test_the_last_sudo_admin_stays(world: World, threads: ThreadPoolExecutor) -> None:
    """Two who delete each other at once do not both succeed."""
    names = [world.admin(name, is_sudo=True).username for name in ("ann", "bob")]

    def delete(name: str) -> None:
        with world.database.write() as tx:
            admins.delete(tx, name)

    results = at_once(threads, *[lambda n=n: delete(n) for n in names])
    assert [type(one) for one in results if one is not None] == [ConflictError]


def test_two_reviews_do_everything_once(world: World, reopen: Open, threads: ThreadPoolExecutor) -> None:
    """Where two processes review at the same time, each user is told of once."""
    names = [world.add(f"user-{i}", expire=world.at + 60).username for i in range(40)]
    world.clock.advance(60)
    at_once(threads, *[lambda: world.review.pass_once(world.clock.now())] * 3)
    assert all(world.actions(name).count("user_expired") == 1 for name in names)


def test_ids_of_a_user_are_in_commit_order(
    database: Database, outbox: Outbox, clock: FakeClock, threads: ThreadPoolExecutor
) -> None:
    """Who publishes an event of a user waits for whoever has published one and not yet committed; others do not wait."""

    def publish(name: str) -> object:
        with database.write() as tx:
            return outbox.publish(tx, [NewEvent("user_updated", name)], now=clock.now())

    with database.write() as tx:
        (first,) = outbox.publish(tx, [NewEvent("user_updated", "anna")], now=clock.now())
        second = threads.submit(publish, "anna")
        is_waiting(database)
        assert is_open(second)
        (other,) = threads.submit(publish, "bert").result(20)
    assert second.result(20) == [other + 1]
    assert first < other


def test_a_deleted_endpoint_is_owed_nothing(
    database: Database, outbox: Outbox, clock: FakeClock, threads: ThreadPoolExecutor
) -> None:
    """An event that was just being published when its endpoint was deleted is cancelled with the others."""
    with database.write() as tx:
        endpoint = endpoints.create(tx, now=clock.now(), kind="webhook", url="http://x/")

    def delete() -> None:
        with database.write() as tx:
            endpoints.delete(tx, endpoint.id, now=clock.now())

    with database.write() as tx:
        ids = outbox.publish(tx, [NewEvent("user_updated", "anna")], now=clock.now())
        deleting = threads.submit(delete)
        is_waiting(database)
    deleting.result(20)
    with database.read() as conn:
        assert conn.exec_driver_sql("SELECT event_id, state FROM settled").all() == [(ids[0], CANCELLED)]
        assert conn.exec_driver_sql("SELECT * FROM pending").all() == []


@pytest.mark.parametrize("first", ["cancel", "settle"])
def test_an_answer_and_a_cancellation_at_once(
    database: Database, outbox: Outbox, clock: FakeClock, threads: ThreadPoolExecutor, first: str
) -> None:
    """Whichever comes first decides, and the other one finds that."""
    with database.write() as tx:
        endpoint = endpoints.create(tx, now=clock.now(), kind="webhook", url="http://x/").id
        ids = outbox.publish(tx, [NewEvent("user_updated", f"user-{i}") for i in range(5)], now=clock.now())
    answers = [settlement(one, DELIVERED, 200, clock) for one in outbox.load(endpoint, ids)]

    def cancel() -> object:
        with database.write() as tx:
            return outbox.cancel(tx, DeliveryFilter(endpoint_id=endpoint), now=clock.now())

    with database.write() as tx:
        if first == "cancel":
            assert outbox.cancel(tx, DeliveryFilter(endpoint_id=endpoint), now=clock.now()) == 5
            waits: Future[object] = threads.submit(outbox.settle, answers, now=clock.now())
        else:
            outbox._settle_endpoint(tx.conn, endpoint, answers, clock.now().timestamp())
            waits = threads.submit(cancel)
        is_waiting(database)
    assert waits.result(20) == (None if first == "cancel" else 0)
    with database.read() as conn:
        rows = conn.exec_driver_sql("SELECT state, attempts FROM settled").all()
    assert rows == [(CANCELLED if first == "cancel" else DELIVERED, 1)] * 5


def test_a_key_does_the_work_once(database: Database, clock: FakeClock, threads: ThreadPoolExecutor) -> None:
    """Of several calls with the same Idempotency-Key at once, through any process, one works; all get its answer."""
    done: list[int] = []

    def call() -> object:
        with database.write() as tx:
            stored = idempotency.recall(tx, "me", "key", b"hash", now=clock.now())
            if stored is None:
                done.append(1)
                stored = f"answer {len(done)}"
                idempotency.remember(tx, "me", "key", b"hash", stored, now=clock.now())
            return stored

    assert at_once(threads, *[call] * 8) == ["answer 1"] * 8
    assert done == [1]


def test_an_endpoints_changes_follow_each_other(
    database: Database, clock: FakeClock, threads: ThreadPoolExecutor
) -> None:
    """Secrets that are rotated at once are both kept in turn: the last one knows the one before."""
    with database.write() as tx:
        endpoint = endpoints.create(tx, now=clock.now(), kind="webhook", url="http://x/")

    def rotate() -> object:
        with database.write() as tx:
            return endpoints.rotate_secret(tx, endpoint.id, now=clock.now())

    made: Sequence[object] = at_once(threads, rotate, rotate)
    assert {one.revision for one in made if isinstance(one, endpoints.Endpoint)} == {2, 3}
    first, second = sorted((one for one in made if isinstance(one, endpoints.Endpoint)), key=lambda one: one.revision)
    assert (first.previous_signing_secret, second.previous_signing_secret) == (
        endpoint.signing_secret, first.signing_secret,
    )  # fmt: skip
