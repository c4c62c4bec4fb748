"""Each event is handled once: in memory, and in databases together with what the handler writes there."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
import sqlalchemy

from marzhook.receiver import Dedupe, Memory, ReceivedEvent, Receiver
from marzhook.receiver.database import DBAPI, KEEP, SQLite
from marzhook.testing import FakeClock, WebhookRequest, webhook_request
from postgresql import Server

SECRET = "something-very-very-secret"


def request(username: str = "alice", *, first_id: int = 1, **fields: Any) -> WebhookRequest:
    return webhook_request({"action": "user_created", "username": username, **fields}, secret=SECRET, first_id=first_id)


class FormatConnection:
    """A driver of the paramstyle `format`, as psycopg and PyMySQL have it, around the real sqlite3."""

    def __init__(self, path: Path) -> None:
        self._real = sqlite3.connect(path, timeout=30, check_same_thread=False)
        self.commit, self.rollback, self.close = self._real.commit, self._real.rollback, self._real.close

    def cursor(self) -> Any:
        real = self._real.cursor()

        class Cursor:
            fetchall, close = real.fetchall, real.close

            def execute(self, text: str, values: tuple[Any, ...] = ()) -> None:
                assert "?" not in text
                real.execute(text.replace("%s", "?"), values)

        return Cursor()


class MySQLConnection(FormatConnection):
    """As mysql-connector-python's: it tells whether it is in a transaction, and only its cursors execute."""

    @property
    def in_transaction(self) -> bool:
        return self._real.in_transaction


def of_sqlalchemy(path: Path) -> DBAPI:
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
    return DBAPI(engine.raw_connection, paramstyle="qmark")


DATABASES: dict[str, Callable[[Path], Dedupe]] = {
    "SQLite": SQLite,
    "sqlite3": lambda path: DBAPI(lambda: sqlite3.connect(path, timeout=30)),
    "sqlite3, isolation_level None": lambda path: DBAPI(
        lambda: sqlite3.connect(path, timeout=30, isolation_level=None)
    ),
    "format": lambda path: DBAPI(lambda: FormatConnection(path), paramstyle="format"),
    "MySQL's own": lambda path: DBAPI(lambda: MySQLConnection(path), paramstyle="pyformat"),
    "SQLAlchemy's pool": of_sqlalchemy,
}


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Dedupe:
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE effects (username TEXT)")
    return DATABASES[request.param](tmp_path / "app.db")


def write(event: ReceivedEvent) -> None:
    mark = "?" if not isinstance(event.connection, FormatConnection) else "%s"
    event.connection.cursor().execute(f"INSERT INTO effects VALUES ({mark})", (event.username,))


def effects(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "app.db")) as connection:
        return [name for (name,) in connection.execute("SELECT username FROM effects ORDER BY rowid")]


def test_effect_and_mark_are_one_transaction(database: Dedupe, tmp_path: Path) -> None:
    """A handler that fails leaves neither effect nor mark, one that succeeds both; a second receiver on the same database,
    as after a restart, knows."""
    receiver, broken = Receiver(SECRET, dedupe=database), [True]

    @receiver.on("*")
    def handle(event: ReceivedEvent) -> None:
        write(event)
        if broken.pop():
            raise OSError

    message = request()
    assert receiver.receive(message.headers, message.body).status == 500
    assert effects(tmp_path) == []
    broken.append(False)
    assert receiver.receive(message.headers, message.body).status == 200
    restarted = Receiver(SECRET, dedupe=SQLite(tmp_path / "app.db"))
    restarted.on("*")(write)
    answer = restarted.receive(message.headers, message.body)
    assert [result.what for result in answer.results] == ["duplicate"]
    assert effects(tmp_path) == ["alice"]


def test_many_threads_with_the_same_events_handle_each_once(database: Dedupe, tmp_path: Path) -> None:
    """Eight threads that get the same twenty requests at the same time: twenty effects, every answer 200."""
    receiver, answers, start = Receiver(SECRET, dedupe=database), list[int](), threading.Barrier(8)
    receiver.on("*")(write)
    messages = [request(f"user{n}", first_id=n) for n in range(20)]

    def deliver() -> None:
        start.wait()
        for message in messages:
            answers.append(receiver.receive(message.headers, message.body).status)

    threads = [threading.Thread(target=deliver) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 160
    assert sorted(effects(tmp_path)) == sorted(f"user{n}" for n in range(20))


def test_one_bad_event_of_a_list_takes_no_other_back(database: Dedupe, tmp_path: Path) -> None:
    """Each event of a list is a transaction of its own."""
    receiver = Receiver(SECRET, dedupe=database)

    @receiver.on("*")
    def handle(event: ReceivedEvent) -> None:
        write(event)
        if event.username == "bad":
            raise ValueError

    events = [{"action": "user_created", "username": name} for name in ("alice", "bad", "carol")]
    message = webhook_request(*events, secret=SECRET, format="list")
    for _ in range(2):
        assert receiver.receive(message.headers, message.body).status == 422
        assert effects(tmp_path) == ["alice", "carol"]


@pytest.mark.parametrize("plain", [False, True], ids=["SQLite", "sqlite3"])
def test_marks_are_kept_for_a_month(plain: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Old marks go, with the first request after an hour; newer ones stay."""
    clock = FakeClock()
    now = lambda: clock.now().timestamp()  # noqa: E731
    path = tmp_path / "app.db"
    dedupe = DBAPI(lambda: sqlite3.connect(path), clock=now) if plain else SQLite(path, clock=now)
    receiver = Receiver(SECRET, dedupe=dedupe, clock=now)
    receiver.on("*")(lambda event: None)

    def marked() -> set[str]:
        with closing(sqlite3.connect(path)) as connection:
            return {name for (name,) in connection.execute("SELECT id FROM marzhook_received")}

    for number, wait in ((1, KEEP - 10), (2, 3601.0), (3, 0.0)):
        message = request(first_id=number)
        assert receiver.receive(message.headers, message.body).status == 200
        clock.advance(wait)
    assert marked() == {"msg_testing_2", "msg_testing_3"}
    assert caplog.text == ""


def test_a_prune_that_fails_fails_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Old marks that cannot be removed just now wait for the next hour, and the event is handled."""
    receiver, message = Receiver(SECRET, dedupe=SQLite(tmp_path / "app.db")), request()
    receiver.on("*")(lambda event: None)
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE marzhook_received (id VARCHAR(255) PRIMARY KEY, received_at DOUBLE PRECISION)")
        connection.execute("CREATE TRIGGER no BEFORE DELETE ON marzhook_received BEGIN SELECT RAISE(ABORT, 'no'); END")
        connection.execute("INSERT INTO marzhook_received VALUES ('old', 0)")
    assert receiver.receive(message.headers, message.body).status == 200
    assert "could not be removed" in caplog.text


@pytest.mark.parametrize(
    "ends",
    [
        lambda connection: connection.commit(),
        lambda connection: connection.rollback(),
        lambda connection: connection.close(),
        lambda connection: connection.executescript("SELECT 1"),
    ],
    ids=["commit", "rollback", "close", "executescript"],
)
def test_a_handler_cannot_end_the_receivers_transaction(ends: Callable[[Any], object], tmp_path: Path) -> None:
    """SQLite's connection refuses what would part the effect from its mark, and says why."""
    receiver, told = Receiver(SECRET, dedupe=SQLite(tmp_path / "app.db")), list[str]()

    @receiver.on("*")
    def handle(event: ReceivedEvent) -> None:
        event.connection.execute("CREATE TABLE effects (username TEXT)")
        try:
            ends(event.connection)
        except RuntimeError as error:
            told.append(str(error))
            raise

    message = request()
    assert receiver.receive(message.headers, message.body).status == 500
    assert "receiver" in told[0]
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'effects'").fetchall() == []


def test_with_connection_in_a_handler_is_harmless(tmp_path: Path) -> None:
    """`with connection:`, sqlite3's usual way, does not commit before the handler has ended."""
    receiver = Receiver(SECRET, dedupe=SQLite(tmp_path / "app.db"))

    @receiver.on("*")
    def handle(event: ReceivedEvent) -> None:
        with event.connection as connection:
            connection.execute("CREATE TABLE effects (username TEXT)")
        raise OSError

    message = request()
    assert receiver.receive(message.headers, message.body).status == 500
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'effects'").fetchall() == []


def test_a_connection_in_autocommit_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where every statement commits by itself nothing could be one transaction: no handler is called, the log says why."""

    class Autocommit(FormatConnection):
        autocommit = True

    receiver = Receiver(SECRET, dedupe=DBAPI(lambda: Autocommit(tmp_path / "app.db"), paramstyle="format"))
    called: list[ReceivedEvent] = []
    receiver.on("*")(called.append)
    message = request()
    assert receiver.receive(message.headers, message.body).status == 500
    assert called == []
    assert "autocommit" in caplog.text


def test_an_unreachable_database_is_answered_500(tmp_path: Path) -> None:
    """Nothing is handled that could not be marked; the sender comes again."""
    receiver, called = Receiver(SECRET, dedupe=SQLite(tmp_path / "no" / "such" / "folder.db")), list[ReceivedEvent]()
    receiver.on("*")(called.append)
    events = [{"action": "user_created", "username": name} for name in ("alice", "bob")]
    message = webhook_request(*events, secret=SECRET, format="list")
    answer = receiver.receive(message.headers, message.body)
    assert (answer.status, [result.what for result in answer.results]) == (500, ["failed", "failed"])
    assert called == []


def test_a_wrapper_that_hides_its_driver_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the paramstyle cannot be found out, the log says what to give."""
    receiver = Receiver(SECRET, dedupe=DBAPI(lambda: FormatConnection(tmp_path / "app.db")))
    receiver.on("*")(lambda event: None)
    message = request()
    assert receiver.receive(message.headers, message.body).status == 500
    assert "paramstyle" in caplog.text


def test_a_driver_that_is_part_of_a_package_tells_its_paramstyle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `mysql.connector` does, whose connections are of a module below it."""
    driver = ModuleType("package.driver")
    driver.__dict__["paramstyle"] = "pyformat"
    monkeypatch.setitem(sys.modules, "package", ModuleType("package"))
    monkeypatch.setitem(sys.modules, "package.driver", driver)
    monkeypatch.setattr(MySQLConnection, "__module__", "package.driver.connection")
    receiver = Receiver(SECRET, dedupe=DBAPI(lambda: MySQLConnection(tmp_path / "app.db")))
    receiver.on("*")(lambda event: None)
    message = request()
    assert receiver.receive(message.headers, message.body).status == 200


def test_an_error_that_a_handler_catches_is_no_silent_loss(postgresql: Server) -> None:
    """PostgreSQL gives a transaction up at its first error, and its COMMIT then rolls back without a word: the event has
    failed, and comes again. Within a savepoint the error costs nothing else."""
    with postgresql.database() as name, psycopg.connect(postgresql.url(name), autocommit=True) as aside:
        aside.execute("CREATE TABLE effects (username TEXT PRIMARY KEY)")
        aside.execute("CREATE TABLE journal (username TEXT)")
        receiver = Receiver(SECRET, dedupe=DBAPI(lambda: psycopg.connect(postgresql.url(name))))

        @receiver.on("*")
        def journal(event: ReceivedEvent) -> None:
            event.connection.execute("INSERT INTO journal VALUES (%s)", (event.username,))

        @receiver.on("user_created")
        def book(event: ReceivedEvent) -> None:
            own = event.connection.transaction() if event.extra["careful"] else nullcontext()
            with suppress(psycopg.errors.UniqueViolation), own:
                event.connection.execute("INSERT INTO effects VALUES ('alice')")

        answers = []
        for number, careful in enumerate((False, False, True), 1):
            message = request(first_id=number, careful=careful)
            answers.append(receiver.receive(message.headers, message.body).status)
        assert answers == [200, 500, 200]
        assert aside.execute("SELECT count(*) FROM journal").fetchall() == [(2,)]
        marks = aside.execute("SELECT id FROM marzhook_received ORDER BY id").fetchall()
        assert marks == [("msg_testing_1",), ("msg_testing_3",)]
        nameless = request(careful=False)
        del nameless.headers["webhook-id"]
        assert receiver.receive(nameless.headers, nameless.body).status == 500


def test_a_transaction_that_a_handler_lost_is_no_silent_loss(database: Dedupe, tmp_path: Path) -> None:
    """What takes the whole transaction back (a conflict clause, a trigger; in MySQL a deadlock), and is caught, takes the mark
    with it: the event has failed, and comes again."""
    receiver = Receiver(SECRET, dedupe=database)

    @receiver.on("*")
    def handle(event: ReceivedEvent) -> None:
        write(event)
        with suppress(sqlite3.IntegrityError):
            event.connection.cursor().execute("INSERT OR ROLLBACK INTO once VALUES (1)")

    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE once (number INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO once VALUES (1)")
        message = request()
        assert receiver.receive(message.headers, message.body).status == 500
        connection.execute("DELETE FROM once")
        assert receiver.receive(message.headers, message.body).status == 200
    assert effects(tmp_path) == ["alice"]


def test_a_bad_table_name_is_refused() -> None:
    """The table's name goes into statements, so only a name is taken."""
    with pytest.raises(ValueError):
        DBAPI(lambda: None, table="marks; DROP TABLE users")


def test_a_fork_opens_its_own_connections(tmp_path: Path) -> None:
    """A server that forks its workers after the first request keeps working: no connection crosses the fork."""
    dedupe = SQLite(tmp_path / "app.db")
    with dedupe.session() as session:
        parents = session.connection
    child = os.fork()
    if child == 0:
        try:
            with dedupe.session() as session:
                os._exit(0 if session.connection is not parents else 3)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with dedupe.session() as session:
        assert session.connection is parents
    dedupe.close()


def test_memory_forgets_the_oldest_first() -> None:
    """It holds as many as it is told, and what failed was never in it."""
    memory = Memory(2)
    for event_id in ("a", "b", "c"):
        with memory.once([event_id]) as first:
            assert first
    assert ("a" in memory, "b" in memory, "c" in memory) == (False, True, True)
    with pytest.raises(OSError), memory.once(["d"]):
        raise OSError
    assert "d" not in memory


def test_memory_makes_the_second_of_two_wait() -> None:
    """Two requests with one event at the same time: the second is answered when the first has ended, and handled by itself
    if that failed."""
    memory, inside, go_on, second = Memory(), threading.Event(), threading.Event(), list[bool]()

    def first() -> None:
        try:
            with memory.once(["a"]):
                inside.set()
                go_on.wait(20)
                raise OSError
        except OSError:
            pass

    def again() -> None:
        with memory.once(["a"]) as is_first:
            second.append(is_first)

    threads = [threading.Thread(target=first), threading.Thread(target=again)]
    threads[0].start()
    assert inside.wait(20)
    threads[1].start()
    assert second == []
    go_on.set()
    for thread in threads:
        thread.join()
    assert second == [True]


def test_a_captured_request_under_another_id_is_recognised() -> None:
    """The HMAC of the panel's page does not cover webhook-id; whoever changes that has the event handled once all the same."""
    receiver, seen = Receiver(SECRET), list[ReceivedEvent]()
    receiver.on("*")(seen.append)
    message = webhook_request({"action": "user_created", "username": "alice"}, secret=SECRET, hmac=True)
    for message_id in ("msg_1", "msg_2"):
        assert receiver.receive({**message.headers, "webhook-id": message_id}, message.body).status == 200
    assert len(seen) == 1


@pytest.mark.parametrize("hmac_first", [False, True])
def test_a_sender_that_changes_between_secret_and_hmac_is_recognised(hmac_first: bool, database: Dedupe) -> None:
    """A sender that finds out which of the two is wanted may send one event in both ways; it is handled once."""
    receiver = Receiver(SECRET, dedupe=database)
    receiver.on("*")(lambda event: None)
    event = {"action": "user_created", "username": "alice"}
    whats = []
    for hmac in (hmac_first, not hmac_first):
        message = webhook_request(event, secret=SECRET, hmac=hmac, first_id=1)
        whats += [result.what for result in receiver.receive(message.headers, message.body).results]
    assert whats == ["done", "duplicate"]


def test_two_equal_events_are_two(tmp_path: Path) -> None:
    """A publisher who says the same thing twice means it twice: as requests of their own, and within one list."""
    receiver, seen = Receiver(SECRET), list[ReceivedEvent]()
    receiver.on("*")(seen.append)
    event = {"action": "paid", "username": "alice", "amount": 5, "enqueued_at": 1767225600.5}
    for format, count in (("event", 1), ("event", 1), ("list", 2)):
        message = webhook_request(*[event] * count, secret=SECRET, format=format)
        for _ in range(2):
            assert receiver.receive(message.headers, message.body).status == 200
    assert len(seen) == 4
