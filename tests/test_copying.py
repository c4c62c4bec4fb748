"""`marzhook db copy`: from SQLite to PostgreSQL, killed in between, and nothing is delivered twice or lost."""

from __future__ import annotations

import signal
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import every_row
import preloaded
from command_line import as_json, environment, marzhook
from conftest import SECRET_KEY
from histories import World
from marzhook import signals
from marzhook.delivery import DEAD
from marzhook.event import shard_of
from marzhook.store import endpoints
from marzhook.store.database import Database
from marzhook.testing import FakeClock, eventually
from postgresql import Server
from receivers import Receiver, header_of
from service import Service


@pytest.fixture
def target(postgresql: Server) -> Iterator[dict[str, str]]:
    """What the environment says of an empty PostgreSQL database."""
    with postgresql.database() as name:
        yield {"MARZHOOK_DATABASE_URL": postgresql.url(name), "MARZHOOK_SECRET_KEY": SECRET_KEY}


SHAPED = {
    "admins": frozenset({"alice"}), "usernames": ("vip_*", "!vip_2"), "condition": "user.note", "template": '{"t": "hush"}',
}  # fmt: skip
"""An endpoint's filter and template."""


def filled(folder: Path, clock: FakeClock, count: int = 3000) -> None:
    """A file with rows in each table and of each state, of which one has a character that PostgreSQL cannot keep."""
    database = Database.open(f"sqlite:///{folder}/marzhook.db")
    database.upgrade()
    every_row.fill(database)
    world = World(database, clock)
    world.live(count)
    world.live(20, DEAD)
    world.publish(count)
    with database.write() as tx:
        endpoints.create(tx, now=clock.now(), kind="webhook", url="https://shop.example/", **SHAPED)
    world.sql("UPDATE attempts SET response = 'a' || char(0) || 'b' WHERE event_id = 1")
    database.close()


def cut_off(folder: Path, point: str, target: dict[str, str]) -> None:
    ended = preloaded.run(
        "marzhook.testing", "db", "copy", "marzhook.db",
        folder=folder, environment=environment(MARZHOOK_KILL_AT=point, **target),
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr


OWN = ("vault", "moving", "moved")
"""Facts that each database has for itself."""
POINTS = (
    "copy.marked:1", "copy.batch:1", "copy.batch:2", "copy.batch:4", "copy.batch:7", "copy.facts:1", "copy.compared:5",
    "copy.before_release:1",
)  # fmt: skip
"""Where it is killed, one after the other; the batches count on from where the one before had come to."""


def test_killed_again_and_again_it_is_whole(tmp_path: Path, clock: FakeClock, target: dict[str, str]) -> None:
    """Between any two of its steps: the next call goes on, and in the meantime nothing starts on either database. In the end
    each row of each table is there once, as it was."""
    assert {point.partition(":")[0] for point in POINTS} == {
        name for name in signals.POINTS if name.startswith("copy.")
    }
    filled(tmp_path, clock)
    for point in POINTS:
        cut_off(tmp_path, point, target)
        assert "goes on with it" in marzhook(tmp_path, "db", "migrate", expect=2, **target).stderr
        assert "delivered twice" in marzhook(tmp_path, "db", "migrate", expect=2).stderr
    told = as_json(tmp_path, "db", "copy", "marzhook.db", **target)["rows"]
    assert (told["events"], told["pending"], told["settled"]) == (6022, 6002, 6042)
    assert as_json(tmp_path, "db", "check", **target)["problems"] == []
    assert "delivered twice" in marzhook(tmp_path, "db", "migrate", expect=2).stderr
    with closing(Database.open(f"sqlite:///{tmp_path}/marzhook.db")) as source:
        source.upgrade(moving=True)
        assert every_row.columns_without_a_value(source) == []
        before = every_row.everything(source)
    with closing(Database.open(target["MARZHOOK_DATABASE_URL"], secret_keys=[SECRET_KEY])) as copied:
        copied.upgrade()
        after = every_row.everything(copied)
        with copied.write() as tx:
            assert tx.conn.exec_driver_sql("SELECT nextval('events_id_seq')").scalar() == 6023
            shaped = endpoints.all_endpoints(tx.conn)[-1]
    assert {name: getattr(shaped, name) for name in SHAPED} == SHAPED
    after["meta"] = Counter(row for row in after["meta"] if row[0] not in OWN)
    assert after == as_expected(before)
    assert "already: nothing was copied" in marzhook(tmp_path, "db", "copy", "marzhook.db", **target).stdout
    again = as_json(tmp_path, "db", "copy", "marzhook.db", **target)
    assert (again["already"], again["rows"]) == (True, {})


def test_what_is_something_else_is_not_taken_for_the_copy(
    tmp_path: Path, clock: FakeClock, target: dict[str, str]
) -> None:
    """A file that was used after it had been copied, or another one, is not what the target holds."""
    filled(tmp_path, clock, 20)
    assert as_json(tmp_path, "db", "copy", "marzhook.db", **target)["already"] is False
    with closing(sqlite3.connect(tmp_path / "marzhook.db")) as file:
        file.execute("DELETE FROM meta WHERE key = 'moving'")
        file.commit()
    for _ in range(2):
        assert "is not empty" in marzhook(tmp_path, "db", "copy", "marzhook.db", expect=2, **target).stderr


def as_expected(rows: dict[str, Counter[tuple[Any, ...]]]) -> dict[str, Counter[tuple[Any, ...]]]:
    """What PostgreSQL is to have of a SQLite database's rows."""
    names = {row[0]: row[2] for row in rows["events"]}
    return rows | {
        "workers": Counter(),
        "meta": Counter(row for row in rows["meta"] if row[0] not in OWN),
        "pending": Counter((*row[:-2], shard_of(names[row[1]]), row[-1]) for row in rows["pending"]),
        "attempts": Counter(
            tuple(v.replace("\0", "\ufffd") if isinstance(v, str) else v for v in row) for row in rows["attempts"]
        ),
    }


def test_what_was_used_meanwhile_is_not_mixed(tmp_path: Path, clock: FakeClock, target: dict[str, str]) -> None:
    """Who takes the mark from the file has to begin anew; a row that somebody changed in the target is found."""
    filled(tmp_path, clock, 20)
    cut_off(tmp_path, "copy.before_release:1", target)
    database = Database.open(target["MARZHOOK_DATABASE_URL"], secret_keys=[SECRET_KEY])
    with database.write() as tx:
        tx.conn.exec_driver_sql("UPDATE pending SET due_at = 1 WHERE event_id = (SELECT max(event_id) FROM pending)")
    database.close()
    assert "the copy of pending differs" in marzhook(tmp_path, "db", "copy", "marzhook.db", expect=2, **target).stderr
    with closing(sqlite3.connect(tmp_path / "marzhook.db")) as file:
        file.execute("DELETE FROM meta WHERE key = 'moving'")
        file.commit()
    assert "half of another copy" in marzhook(tmp_path, "db", "copy", "marzhook.db", expect=2, **target).stderr


def test_wrong_databases_are_refused(tmp_path: Path, clock: FakeClock, target: dict[str, str]) -> None:
    """No file, no PostgreSQL, and a file on which the service runs."""
    assert "there is no database" in marzhook(tmp_path, "db", "copy", "marzhook.db", expect=2, **target).stderr
    with Service(tmp_path) as service:
        assert "is held by" in marzhook(tmp_path, "db", "copy", "marzhook.db", expect=2, **target).stderr
        assert service.stop() == 0
    assert "set MARZHOOK_DATABASE_URL" in marzhook(tmp_path, "db", "copy", "marzhook.db", expect=2).stderr


def test_a_refused_target_leaves_the_source_in_use(tmp_path: Path, clock: FakeClock, target: dict[str, str]) -> None:
    """What was not copied is not marked: the service starts on it as before, and it may be copied elsewhere."""
    filled(tmp_path, clock, 20)
    with closing(Database.open(target["MARZHOOK_DATABASE_URL"], secret_keys=[SECRET_KEY])) as database:
        database.upgrade()
        World(database, clock).publish(1)
    assert "is not empty" in marzhook(tmp_path, "db", "copy", "marzhook.db", expect=2, **target).stderr
    marzhook(tmp_path, "db", "migrate")


@pytest.mark.timeout(120)
def test_a_moved_backlog_is_delivered_once_and_in_order(tmp_path: Path, target: dict[str, str]) -> None:
    """Half delivered on SQLite, copied, the rest delivered on PostgreSQL: once each, in order per user, signed as before."""
    with Receiver() as receiver:
        with Service(tmp_path, WEBHOOK_ADDRESS=receiver.url) as service:
            for number in range(10):
                batch = [{"username": f"u{n}", "action": "user_updated", "number": number} for n in range(20)]
                if number == 5:
                    eventually(lambda: len(receiver.accepted()) == 100, timeout=30)
                    receiver.do(status=503)
                assert service.call("POST", "/api/v1/events", batch)[0] < 300
            receiver.wait(101)
            assert service.stop() == 0
        before = {header_of(record, "webhook-id") for record in receiver.seen()}
        as_json(tmp_path, "db", "copy", "marzhook.db", **target)
        receiver.do(status=200)
        with Service(tmp_path, WEBHOOK_ADDRESS=receiver.url, **target) as service:
            eventually(lambda: len(receiver.accepted()) >= 200, timeout=60)
            assert service.stop() == 0
        accepted = receiver.accepted()
        ids = [header_of(record, "webhook-id") for record in receiver.seen() if record["answered"] == 200]
    for user in {event["username"] for event in accepted}:
        assert [event["number"] for event in accepted if event["username"] == user] == list(range(10))
    assert len(accepted) == len(set(ids)) == 200
    assert before <= set(ids)
