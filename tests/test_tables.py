"""A database that follows: each event once, in order, never back to an older state, on real SQLite and PostgreSQL."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from marzhook.delivery import Delivery
from marzhook.destinations.sql import Sql, state
from marzhook.endpoint import Endpoint
from marzhook.errors import InvalidError, MarzhookError
from marzhook.event import Event, detail_json
from marzhook.request import BAD_DATA, Job, Rows
from marzhook.settings import load
from marzhook.testing import eventually
from marzhook.transport.tables import tables, write
from postgresql import Server
from service import Service

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BACKENDS = ("sqlite", "postgresql")


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/users.db"
        return
    server: Server = request.getfixturevalue("postgresql")
    with server.database() as name:
        yield server.url(name)


def job(url: str, *events: Event, prefix: str = "", instance: str = "i") -> Rows:
    options = {"prefix": prefix} if prefix else {}
    target = Sql(Endpoint(1, "x", "sql", url, options=options), instance=instance)
    items = [target.item(Delivery(1, one), NOW) for one in events]
    made = target.request(items, [one.id for one in events], NOW, mode="plain")
    assert isinstance(made, Job)
    assert isinstance(made.work, Rows)
    return made.work


def event(
    number: int, username: str = "alice", action: str = "user_updated", at: float | None = None, **user: Any
) -> Event:
    return Event(number, action, username, at or 1680506457.0 + number, detail_json({"user": user} if user else {}))


def rows(url: str, table: str, order: str) -> list[dict[str, Any]]:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as conn:
            return [dict(row) for row in conn.execute(sa.text(f"SELECT * FROM {table} ORDER BY {order}")).mappings()]
    finally:
        engine.dispose()


def test_users_and_events_are_kept_current(url: str) -> None:
    """A snapshot is written whole; an event without one changes what it is about, and a deleted user's row stays."""
    told = write(
        job(
            url,
            event(
                1,
                action="user_created",
                status="active",
                used_traffic=5,
                data_limit=1 << 50,
                admin={"username": "shop"},
            ),
            event(2, action="user_limited"),
            event(3, "bob", "user_deleted"),
        ),
        5.0,
    )
    assert told == (0, None, "")
    alice, bob = rows(url, "users", "username")
    assert alice | {"deleted": bool(alice["deleted"])} == {
        "username": "alice", "status": "limited", "used_traffic": 5, "data_limit": 1 << 50, "expire": None, "admin": "shop",
        "note": None, "deleted": False, "event_id": "msg_i_2", "updated_at": 1680506459.0,
    }  # fmt: skip
    assert bob["deleted"]
    assert [one["id"] for one in rows(url, "events", "enqueued_at")] == ["msg_i_1", "msg_i_2", "msg_i_3"]
    assert json.loads(rows(url, "events", "enqueued_at")[0]["detail"])["user"]["used_traffic"] == 5


def test_what_a_user_has_no_more_is_cleared(url: str) -> None:
    """A note or an owner that an event shows as null, as it does a limit; what it does not name stays."""
    first = {"note": "paid", "admin": {"username": "shop"}, "data_limit": 5, "expire": 6}
    assert write(job(url, event(1, action="user_created", **first)), 5.0)[0] == 0
    assert write(job(url, event(2, status="active")), 5.0)[0] == 0
    [row] = rows(url, "users", "username")
    assert (row["note"], row["admin"], row["data_limit"], row["expire"]) == ("paid", "shop", 5, 6)
    assert write(job(url, event(3, note=None, admin=None, data_limit=None)), 5.0)[0] == 0
    [row] = rows(url, "users", "username")
    assert (row["note"], row["admin"], row["data_limit"], row["expire"]) == (None, None, None, 6)


@pytest.mark.parametrize("together", [True, False])
def test_a_name_that_is_used_again_inherits_nothing(url: str, together: bool) -> None:
    """Whoever is created after a deletion is another user, in one request with it or in a later one."""
    life = [
        event(1, action="user_created", status="limited", note="never paid", admin={"username": "shop"}, expire=5),
        event(2, action="user_deleted"),
        event(3, action="user_created", status="active"),
    ]
    for part in [life] if together else [[one] for one in life]:
        assert write(job(url, *part), 5.0)[0] == 0
    [row] = rows(url, "users", "username")
    assert row | {"deleted": bool(row["deleted"])} == {
        "username": "alice", "status": "active", "used_traffic": None, "data_limit": None, "expire": None, "admin": None,
        "note": None, "deleted": False, "event_id": "msg_i_3", "updated_at": 1680506460.0,
    }  # fmt: skip


def test_only_users_are_in_the_table_of_users(url: str) -> None:
    """Notices of endpoints, tests and a panel's nodes are events only; and so is what has no say in what a user is."""
    others = [
        event(1, "endpoint-3", "endpoint_failing"),
        event(2, "marzhook_test", "marzhook_test"),
        event(3, "remnawave-node", "node.connection_lost"),
    ]
    assert write(job(url, *others), 5.0)[0] == 0
    assert rows(url, "users", "username") == []
    told = [event(4, status="active"), event(5, action="user_deleted"), event(6, action="paid")]
    assert write(job(url, *told, event(7, "bob", "paid", status="active")), 5.0)[0] == 0
    alice, bob = rows(url, "users", "username")
    assert (bool(alice["deleted"]), alice["event_id"], bob["username"]) == (True, "msg_i_5", "bob")
    assert len(rows(url, "events", "id")) == 7


def test_what_comes_again_or_late_changes_nothing(url: str) -> None:
    """Repeated after a crash, or replayed a week later: each event is there once, and the newest state stands."""
    assert write(job(url, event(1, status="active"), event(3, status="expired")), 5.0)[0] == 0
    assert write(job(url, event(2, status="limited"), event(3, status="active")), 5.0)[0] == 0
    assert write(job(url, event(1, status="on_hold")), 5.0)[0] == 0
    assert rows(url, "users", "username")[0]["status"] == "expired"
    assert len(rows(url, "events", "id")) == 3


def test_several_sources_keep_apart(url: str) -> None:
    """By a prefix, or in the same tables by time: another database's numbers say nothing."""
    assert write(job(url, event(900, at=100.0, status="active")), 5.0)[0] == 0
    assert write(job(url, event(1, at=200.0, status="limited"), instance="other"), 5.0)[0] == 0
    assert write(job(url, event(5, status="expired"), prefix="two_"), 5.0)[0] == 0
    assert rows(url, "users", "username")[0]["status"] == "limited"
    assert rows(url, "two_users", "username")[0]["status"] == "expired"


def test_a_bad_batch_leaves_nothing(url: str) -> None:
    """One transaction: what fails in the middle was never there."""
    assert write(job(url, event(1)), 5.0)[0] == 0
    broken = json.loads(job(url, event(3)).rows[0]) | {"enqueued_at": None}
    status, error, message = write(Rows(url, "", (*job(url, event(2)).rows, json.dumps(broken))), 5.0)
    # By this status the sender knows that it is about the events, and tries each alone.
    assert (status, error) == (BAD_DATA, None)
    assert "the database refused it" in message
    assert len(rows(url, "events", "id")) == 1


RULES = {
    "sqlite": [
        "CREATE TRIGGER refused BEFORE INSERT ON users WHEN NEW.username = 'bob' BEGIN SELECT RAISE(ABORT, 'no'); END"
    ],
    "postgresql": [
        "CREATE FUNCTION refused() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$",
        "CREATE TRIGGER refused BEFORE INSERT ON users FOR EACH ROW WHEN (NEW.username = 'bob') EXECUTE FUNCTION refused()",
    ],
}


def test_what_a_trigger_refuses_is_the_events_fault(url: str) -> None:
    """A rule of the database's owner: the event is refused, with the status at which all others go without it."""
    assert write(job(url, event(1)), 5.0)[0] == 0
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as conn:
        for statement in RULES[engine.dialect.name]:
            conn.exec_driver_sql(statement)
    engine.dispose()
    assert write(job(url, event(2, "bob")), 5.0)[:2] == (BAD_DATA, None)
    assert write(job(url, event(3, "carol")), 5.0)[0] == 0


@pytest.mark.parametrize("dialect", ["mysql", "mariadb"])
def test_tables_of_mysql_take_every_name_and_tell_all_apart(dialect: str) -> None:
    """In transactions, whatever the server's defaults are. `docs/destinations.md` says on which server that was tried."""
    _, users, events = tables("")
    for table in (users, events):
        made = str(sa.schema.CreateTable(table).compile(dialect=sa.make_url(f"{dialect}+pymysql://").get_dialect()()))
        for option in ("ENGINE=InnoDB", "CHARSET=utf8mb4", "COLLATE utf8mb4_bin"):
            assert option in made


@pytest.mark.parametrize("text", ["half \ud83d of one", "nothing\0ness"])
def test_text_that_no_database_takes_is_written_in_part(url: str, text: str) -> None:
    """JSON can bring what is no text: the rest of it is kept, and the event is no poison."""
    told = event(1, status="active", note=text, used_traffic=True, admin={"username": text})
    assert write(job(url, told), 5.0)[0] == 0
    [row] = rows(url, "users", "username")
    assert row["note"].startswith(text[:4])
    assert row["admin"] == row["note"]
    assert row["used_traffic"] is None


@settings(max_examples=25)
@given(st.permutations(range(6)), st.lists(st.integers(1, 3), min_size=6, max_size=6))
def test_any_order_of_batches_ends_in_the_newest_state(order: Sequence[int], sizes: list[int]) -> None:
    """Whatever comes when, and how often: the row is the last event's."""
    with TemporaryDirectory() as folder:
        url, left = f"sqlite:///{folder}/users.db", [*order, *order]
        for size in sizes * 4:
            batch, left = left[:size], left[size:]
            if batch:
                assert write(job(url, *(event(n + 1, status=f"s{n + 1}") for n in dict.fromkeys(batch))), 5.0)[0] == 0
        [found] = rows(url, "users", "username")
    assert (found["status"], found["event_id"]) == ("s6", "msg_i_6")


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("postgresql://u:hush@127.0.0.1:1/d", "OperationalError"),
        ("nosuch://u:hush@h/d", "does not understand"),
        ("mysql+nodriver://u:hush@h/d", "does not understand"),
        ("sqlite:////nowhere/at/all.db", "OperationalError"),
    ],
)
def test_what_cannot_be_reached_says_so_without_the_url(url: str, part: str) -> None:
    """Passwords are in it."""
    status, error, message = write(job(url, event(1)), 2.0)
    assert (status, error) == (1, "other")
    assert part in message
    assert "hush" not in message


def test_the_state_of_strange_users() -> None:
    """What does not fit a column is left out, and no event fails for it."""
    strange = {"status": "x" * 99, "used_traffic": 1 << 70, "expire": "never", "admin": 3, "note": "a\0b"}
    assert state("user_updated", {"user": strange}) == {
        "deleted": False, "status": "x" * 32, "used_traffic": None, "expire": None, "admin": None, "note": "a�b",
    }  # fmt: skip
    for wrong in ("users.db", "sqlite:", "sqlite:///a b", None):
        with pytest.raises(InvalidError):
            Sql.checked_url(wrong)
    for options in ({"prefix": "a-b"}, {"prefix": "1"}, {"prefix": 3}, {"table": "x"}):
        with pytest.raises(InvalidError):
            Sql.checked_options(options)


@pytest.mark.parametrize(
    "url",
    [
        "mysql+pymysql://admin@server:pw@h/db",
        "postgresql://admin@server@h/db@home?x=a@b",
        "postgresql://u:p%40w@[::1]:5432/db",
        "sqlite:////srv/a:b@c@d.db",
        "postgresql://u:x@hush@h/db",
        "postgresql://u:x/y@hush@h/db",
        "postgresql://u@s:x@hush@h?y",
    ],
)
def test_what_would_be_cut_out_of_a_password_is_refused(url: str) -> None:
    """An address is taken where SQLAlchemy reads it as it is meant, whatever else has an @ in it."""
    if "@" not in (sa.make_url(url).host or ""):
        assert Sql.checked_url(url) == load({"MARZHOOK_SQL_URL": url}, None).sql_url == url
        return
    for check in (Sql.checked_url, lambda url: load({"MARZHOOK_SQL_URL": url}, None)):
        with pytest.raises(MarzhookError, match="an @ within its password is written %40") as refused:
            check(url)
        assert "hush" not in str(refused.value)


def test_a_service_that_is_killed_between_the_effect_and_its_settlement(url: str, tmp_path: Path) -> None:
    """The events are made again at the next start, and are there once; each user is in his newest state."""
    names = [f"user{number % 7}" for number in range(40)]
    with Service(tmp_path, point="settle.before_commit", MARZHOOK_SQL_URL=url) as service:
        events = [
            {"username": name, "action": "user_updated", "user": {"used_traffic": number}}
            for number, name in enumerate(names)
        ]
        assert service.call("POST", "/api/v1/events", events)[0] == 202
        assert service.process.wait(30) == -signal.SIGKILL
    assert len(rows(url, "events", "id")) > 0
    told = tmp_path / "told"
    with Service(tmp_path, MARZHOOK_SQL_URL=url, MARZHOOK_EXEC_COMMAND=f"/usr/bin/tee {told}") as service:
        eventually(
            lambda: service.call("GET", "/api/v1/deliveries?state=delivered&limit=100")[1]["deliveries"][39:],
            timeout=30,
        )
        # The settings' command, of which all else is in test_commands.py.
        assert service.call("POST", "/api/v1/events", {"username": "user3", "action": "user_deleted"})[0] == 202
        eventually(lambda: told.exists() and "user_deleted" in told.read_text(), timeout=30)
        eventually(lambda: len(rows(url, "events", "id")) == 41, timeout=30)
        assert service.stop() == 0
    newest = {name: number for number, name in enumerate(names)}
    assert {one["username"]: one["used_traffic"] for one in rows(url, "users", "username")} == newest


def test_an_event_that_the_database_refuses_keeps_no_other_from_it(tmp_path: Path) -> None:
    """A trigger of the database's owner refuses one user: his events are dead, with the reason, and those of all others, which
    went there in the same requests, are there, in order."""
    url = f"sqlite:///{tmp_path}/users.db"
    names = [f"user{number}" for number in range(20)]
    settings = {"MARZHOOK_SQL_URL": url, "MARZHOOK_REJECTED_SCHEDULE": "1"}
    with Service(tmp_path, **settings) as service:
        assert service.call("POST", "/api/v1/events", {"username": "user0", "action": "user_created"})[0] == 202
        eventually(lambda: service.call("GET", "/api/v1/deliveries?state=delivered")[1]["deliveries"], timeout=30)
        with closing(sqlite3.connect(tmp_path / "users.db")) as owner:
            owner.execute(
                "CREATE TRIGGER refused BEFORE INSERT ON users WHEN NEW.username = 'user7'"
                " BEGIN SELECT RAISE(ABORT, 'this one never paid'); END"
            )
        events = [
            {"username": name, "action": "user_updated", "user": {"used_traffic": number}}
            for number in range(3)
            for name in names
        ]
        assert service.call("POST", "/api/v1/events", events)[0] == 202

        def dead() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = service.call("GET", "/api/v1/deliveries?state=dead")[1]["deliveries"]
            return found

        eventually(lambda: len(dead()) == 3 and len(rows(url, "events", "id")) == 58, timeout=60)
        assert {one["event"]["username"] for one in dead()} == {"user7"}
        assert {one["last_attempt"]["message"] for one in dead()} == {"the database refused it: IntegrityError"}
        assert service.stop() == 0
    others = [name for name in names if name != "user7"]
    assert {one["username"]: one["used_traffic"] for one in rows(url, "users", "username")} == dict.fromkeys(others, 2)
