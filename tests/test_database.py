"""The database: who may use it, what is refused, and what a failure leaves behind."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from marzhook import signals
from marzhook.errors import AlreadyRunningError, DatabaseError, DatabaseNewerError, StoreBusyError
from marzhook.event import NewEvent
from marzhook.store import driver, endpoints
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.testing import FakeClock, eventually
from processes import process, said

Open = Callable[..., Database]


def opened(path: Path, **values: float) -> Database:
    return Database.open(f"sqlite:///{path}", **values)


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


# -- upgrading


@pytest.mark.sqlite
def test_the_settings_for_durability_are_in_force(database: Database) -> None:
    """A commit is on the disk itself, and what does not belong together cannot be written."""
    with database.read() as conn:
        pragmas = [
            conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]


def test_upgrading_again_changes_nothing(database: Database, reopen: Open) -> None:
    """The second start finds its database, with the same instance and keys."""
    assert database.exists()
    with database.read() as conn:
        before = database.meta(conn, "instance"), database.meta(conn, "token_key")
    assert all(before)
    again = reopen()
    again.upgrade()
    with again.read() as conn:
        assert (again.meta(conn, "instance"), again.meta(conn, "token_key")) == before
        assert again.meta(conn, "no such fact") is None
    with again.write() as tx:
        again.set_meta(tx, "fact", "a")
        again.set_meta(tx, "fact", "b")
        assert again.meta(tx.conn, "fact") == "b"


def test_a_migration_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    """Where the upgrade fails before its commit, the file is as empty as before, and the next start builds it whole."""
    path = tmp_path / "m.db"

    def fail() -> None:
        raise KeyboardInterrupt

    database = opened(path)
    with signals.listening("migrate.before_commit", fail), pytest.raises(KeyboardInterrupt):
        database.upgrade()
    assert tables(path) == set()
    database.upgrade()
    assert {"events", "pending", "meta"} <= tables(path)
    database.close()


def test_several_processes_may_come_first(tmp_path: Path) -> None:
    """Threads that open a new file at the same time all find it built, once."""
    found: list[str | None] = []

    def start() -> None:
        database = opened(tmp_path / "m.db")
        database.upgrade()
        with database.read() as conn:
            found.append(database.meta(conn, "instance"))
        database.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 4
    assert len(set(found)) == 1


def test_who_makes_a_database_waits_for_who_writes_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite refuses the change of a new file's mode at once while another one writes there; the start tries again."""
    waited: list[float] = []
    database = opened(tmp_path / "m.db")
    with closing(sqlite3.connect(tmp_path / "m.db", isolation_level=None)) as other:

        def begin(_conn: object, _cursor: object, statement: str, *_: object) -> None:
            if statement == "PRAGMA journal_mode=WAL" and not waited:
                other.execute("BEGIN IMMEDIATE")

        def end(seconds: float) -> None:
            waited.append(seconds)
            other.execute("ROLLBACK")

        sa.event.listen(database._engine, "before_cursor_execute", begin)
        monkeypatch.setattr(time, "sleep", end)
        database.upgrade()
    database.close()
    assert waited


# -- what is refused


def test_a_newer_database_is_refused(database: Database, reopen: Open) -> None:
    """A schema that this version does not know is left alone, and the message names it and the way out."""
    with database.write() as tx:
        tx.conn.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseNewerError, match="9999") as caught:
        reopen().upgrade()
    assert "restore a backup" in str(caught.value)


PANEL = """
    CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('2b231de97dc3');
    CREATE TABLE users (id INTEGER)"""


@pytest.mark.parametrize("script", ["CREATE TABLE recipes (id INTEGER)", PANEL])
def test_another_programs_database_is_refused(tmp_path: Path, script: str) -> None:
    """A database with tables of another program, also the panel's own, is refused and stays as it was to the byte."""
    path = tmp_path / "db.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    before = path.read_bytes()
    database = opened(path)
    with pytest.raises(DatabaseError, match="another program"):
        database.upgrade()
    database.close()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["db.sqlite3"]


def test_what_is_not_a_database_is_refused(tmp_path: Path) -> None:
    """A file that is something else is refused with its name and left alone."""
    path = tmp_path / "letter.txt"
    path.write_bytes(b"Dear operator, " * 200)
    database = opened(path)
    with pytest.raises(DatabaseError, match=r"letter\.txt is not a usable database"):
        database.upgrade()
    database.close()
    assert path.read_bytes() == b"Dear operator, " * 200


def test_places_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    """A folder in the file's place, a folder that is missing, or a file where a folder should be: one line each."""
    (tmp_path / "file").write_text("")
    for path, words in (
        (tmp_path, "directory"), (tmp_path / "no" / "m.db", "does not exist; create it"),
        (tmp_path / "file" / "m.db", "folder"),
    ):  # fmt: skip
        for method in ("upgrade", "claim"):
            database = opened(path)
            if (path, method) == (tmp_path, "claim"):
                continue
            with pytest.raises(DatabaseError, match=words) as caught:
                getattr(database, method)()
            assert "\n" not in str(caught.value)
    with pytest.raises(DatabaseError, match="memory"):
        Database.open("sqlite://")


def test_a_read_only_place_is_refused() -> None:
    """Without the right to write the file or its folder, the start is refused; the message says what to check."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's own folder cannot be entered by others
        folder, path = Path(name), Path(name, "m.db")
        with closing(opened(path)) as database:
            database.upgrade()
        # Root may write anything: there the process gives up its rights, and the file is made as open as it can be.
        for folder_mode, file_mode in ((0o755, 0o444), (0o555, 0o666)):
            path.chmod(file_mode)
            folder.chmod(folder_mode)
            with process("unprivileged", {"MARZHOOK_DATABASE_URL": f"sqlite:///{path}"}) as child:
                assert re.search(r"^DatabaseError: .*check its owner and permissions", said(child))
        folder.chmod(0o700)


# -- locks


def test_a_locked_database_is_busy(
    database: Database, reopen: Open, database_settings: dict[str, str], clock: FakeClock
) -> None:
    """While another process writes, a write gives up after its patience with StoreBusyError, and nothing is changed;
    reading goes on; afterwards writing does."""
    impatient = reopen(busy_timeout=0.1)
    with process("hold", database_settings) as child:
        assert said(child) == "holding"
        with pytest.raises(StoreBusyError, match="nothing was changed"), impatient.write() as tx:
            Outbox(impatient).publish(tx, [NewEvent("user_created", "u")], now=clock.now())
        with impatient.read() as conn:
            assert conn.execute(sa.text("SELECT count(*) FROM events")).scalar() == 0
    with impatient.write() as tx:
        assert len(Outbox(impatient).publish(tx, [NewEvent("user_created", "u")], now=clock.now())) == 1


def test_writers_take_turns(database: Database) -> None:
    """Threads that write the same at once all get through, one after the other, and no update is lost."""

    def count() -> None:
        for _ in range(10):
            with database.write() as tx:
                tx.lock("count")
                value = int(database.meta(tx.conn, "count") or 0)
                database.set_meta(tx, "count", str(value + 1))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    with database.read() as conn:
        assert database.meta(conn, "count") == "80"


@pytest.mark.sqlite
def test_a_queue_of_writers_gives_up_together(database: Database, database_settings: dict[str, str]) -> None:
    """While another process holds the file, ten who want to write have all been refused after two patiences, not ten."""
    impatient = opened(database.name, busy_timeout=0.5)
    refused: list[float] = []

    def write() -> None:
        with pytest.raises(StoreBusyError, match="nothing was changed"), impatient.write() as tx:
            impatient.set_meta(tx, "x", "y")
        refused.append(time.monotonic())

    with process("hold", database_settings) as child:
        assert said(child) == "holding"
        began = time.monotonic()
        threads = [threading.Thread(target=write) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(refused) == 10
    assert max(refused) - began < 3
    impatient.close()


@pytest.mark.sqlite
def test_one_process_delivers(database: Database, reopen: Open, database_settings: dict[str, str]) -> None:
    """A second claim names the first; after a SIGKILL of the holder another one gets it, and so when it is closed."""
    assert database.holder() is None
    with process("claim", database_settings) as child:
        assert said(child) == "claimed"
        assert f"process {child.pid} " in (database.holder() or "")
        with pytest.raises(AlreadyRunningError, match=f"process {child.pid} ") as caught:
            reopen().claim()
        assert "stop that one first" in str(caught.value)
        child.send_signal(signal.SIGKILL)
        child.wait()
    # The server may need a moment to notice that nobody is there any more.
    eventually(lambda: database.holder() is None)
    database.claim()
    with pytest.raises(AlreadyRunningError, match=f"process {os.getpid()} "):
        reopen().claim()
    database.close()
    eventually(lambda: database.holder() is None)
    reopen().claim()


@pytest.mark.sqlite
def test_a_link_leads_to_the_same_lock(database: Database, tmp_path: Path) -> None:
    """By whatever name the file is reached, one process delivers from it."""
    link = tmp_path / "link.db"
    link.symlink_to(database.name)
    database.claim()
    with pytest.raises(AlreadyRunningError):
        opened(link).claim()


@pytest.mark.sqlite
def test_a_full_disk_loses_nothing_that_was_acknowledged(
    database: Database, database_settings: dict[str, str], clock: FakeClock
) -> None:
    """Where the file can grow no more, publishing raises StoreBusyError with its code, what was written before is there,
    and with room again it goes on."""
    with process("fill", database_settings) as child:
        written, error = said(child).split(" ", 1)
    assert error.startswith("StoreBusyError disk_full")
    assert int(written) > 0
    with database.read() as conn:
        assert conn.execute(sa.text("SELECT count(*) FROM events")).scalar() == int(written)
        assert conn.execute(sa.text("PRAGMA integrity_check")).scalar() == "ok"
    with database.write() as tx:
        Outbox(database).publish(tx, [NewEvent("user_created", "u")], now=clock.now())


# -- transactions


def test_callbacks_come_after_the_commit(database: Database) -> None:
    """What is asked for after the commit happens once, when others can see the change, and not at all after a rollback."""
    seen: list[str | None] = []

    def look() -> None:
        with database.read() as conn:
            seen.append(database.meta(conn, "x"))

    with database.write() as tx:
        database.set_meta(tx, "x", "1")
        tx.after_commit(look)
        tx.after_commit(look)
        assert seen == []
    assert seen == ["1"]
    with pytest.raises(sa.exc.IntegrityError), database.write() as tx:
        tx.conn.execute(
            sa.text("INSERT INTO meta VALUES ('x', :x)"), {"x": tx.after_commit(lambda: seen.append("never"))}
        )
    assert seen == ["1"]


def test_a_reader_sees_one_moment(database: Database) -> None:
    """What is committed while a reader reads is not seen before it begins anew."""
    with database.read() as conn:
        assert database.meta(conn, "x") is None
        with database.write() as tx:
            database.set_meta(tx, "x", "1")
        assert database.meta(conn, "x") is None
    with database.read() as conn:
        assert database.meta(conn, "x") == "1"


@pytest.mark.sqlite
def test_what_need_not_be_durable_does_not_make_others_less_so(database: Database) -> None:
    """A commit that does not wait for the disk is seen by everybody at once, and the next one waits as ever."""
    settings = []
    for durable in (True, False, True):
        with database.write(durable=durable) as tx:
            database.set_meta(tx, "x", str(durable))
            settings.append(tx.conn.exec_driver_sql("PRAGMA synchronous").scalar())
        with database.read() as conn:
            assert database.meta(conn, "x") == str(durable)
    assert settings == [2, 1, 2]


def test_another_processs_events_are_noticed(
    database: Database, database_settings: dict[str, str], clock: FakeClock
) -> None:
    """A watch tells of what was published or changed since its last look, by this process and by others, and is quiet else."""
    with database.write() as tx:
        endpoints.create(tx, now=clock.now(), kind="webhook", url="http://x/")
    watch = database.watch()
    assert not watch.changed()
    with process("publish", database_settings) as child:
        assert said(child) == "published"
    eventually(watch.changed)
    assert not watch.changed()
    with database.write() as tx:
        endpoints.update(tx, 1, name="another")
    eventually(watch.changed)
    with database.read() as conn:
        database.meta(conn, "x")
    assert not watch.changed()
    watch.close()


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    """The file, its log, its lock and its key hold secrets: whatever the umask, nobody else may read them."""
    before = os.umask(0)
    try:
        database = opened(tmp_path / "m.db")
        database.upgrade()
        database.claim()
        with database.write() as tx:
            database.set_meta(tx, "x", "1")
        modes = {entry.name: entry.stat().st_mode & 0o777 for entry in os.scandir(tmp_path)}
        database.close()
    finally:
        os.umask(before)
    assert modes == {"m.db": 0o600, "m.db-wal": 0o600, "m.db-shm": 0o600, "m.db.lock": 0o600, "m.db.key": 0o600}


def test_a_statement_past_sqlalchemy_fails_as_its_own_do(database: Database) -> None:
    """Who tells a busy database from a refused row does so everywhere, and no value gets into a message."""
    with database.write() as tx, pytest.raises(sa.exc.IntegrityError) as refused:
        driver.execute(tx.conn, "INSERT INTO meta (key, value) VALUES ('instance', ?)", ("hidden",))
    with database.write() as tx, pytest.raises(sa.exc.DBAPIError, match=r"no such table|does not exist") as missing:
        driver.executemany(tx.conn, "INSERT INTO nowhere VALUES (?)", [("hidden",)])
    assert type(missing.value) is (sa.exc.OperationalError if database.one_writer else sa.exc.ProgrammingError)
    assert "hidden" not in str(refused.value) + str(missing.value)
