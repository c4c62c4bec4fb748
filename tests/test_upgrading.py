"""Upgrades: what an older Marzhook has written is kept, and what it goes on writing beside the new one is taken.

So every migration after the first only expands: it adds tables, indexes, and columns that nobody has to know.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from conftest import SECRET_KEY
from marzhook.signing import new_secret
from marzhook.store import endpoints, integrity, migrations
from marzhook.store.database import Database
from marzhook.store.driver import is_postgresql
from marzhook.store.outbox import DeliveryFilter, Outbox
from marzhook.testing import FakeClock, eventually
from postgresql import Server

FIRST = migrations.revisions()[0]
URL = "https://shop.example/hook?token=t0ps3cret"

# What the first release's statements name; {n} keeps two fillings apart. In the order of their references.
ROWS = {
    "admins": {"id": "{n}", "username": "boss{n}", "password_hash": "$argon2id$…", "is_sudo": True, "telegram_id": 2**40,
        "users_usage": 12, "created_at": 1.5},
    "api_keys": {"id": "{n}", "name": "shop", "key_hash": "{hash}", "scopes": "read", "created_at": 1.5},
    "endpoints": {"id": "{n}", "name": "Shop", "kind": "webhook", "url": "{url}", "format": "list", "secret": "{secret}",
        "secret_mode": "auto", "learned_mode": "hmac", "detail": "safe", "signing_secret": "{signing}", "ordered": True,
        "concurrency": 3, "rate_limit": 2.5, "enabled": True, "source": "api", "revision": 7, "created_at": 1.5},
    "events": {"id": "{n}", "action": "user_created", "username": "علی{n}", "enqueued_at": 1680506457.636369,
        "detail": '{"by": null}', "full_detail": None},
    "pending": {"endpoint_id": "{n}", "event_id": "{n}", "tries": 1, "attempts": 2, "due_at": 1680506460.25},
    "settled": {"endpoint_id": "{n}", "event_id": "{n+1}", "state": "dead", "tries": 1, "attempts": 1, "settled_at": 2.5},
    "attempts": {"endpoint_id": "{n}", "event_id": "{n+1}", "number": 1, "at": 2.25, "duration": 0.5, "status": 500,
        "error": None, "message": "", "response": "<html>\n", "schedule": "standard"},
    "users": {"id": "{n}", "username": "Bob{n}", "username_key": "bob{n}", "status": "active", "proxies": "{}",
        "inbounds": "{}", "excluded_inbounds": "{}", "links": "[]", "subscription_url": "", "data_limit": 2**50,
        "data_limit_reset_strategy": "no_reset", "admin_id": "{n}", "created_at": 1.5},
    "counters": {"user_id": "{n}", "used_traffic": 2**50, "lifetime_used_traffic": 2**51},
    "traffic": {"user_id": "{n}", "hour": 3600, "bytes": 2**50},
    "idempotency_keys": {"owner": "key:{n}", "key": "k", "request_hash": b"\x00\x01", "response": "{}", "created_at": 1.5},
    "ingested": {"id": "{n}", "fingerprint": b"\x01", "tries": 0, "seen_at": 1.5},
    "rejected": {"id": "{n}", "at": 1.5, "source": "marzban", "code": "c", "reason": "r", "body": "b", "length": 1},
}  # fmt: skip


@pytest.fixture
def old(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[], Database]]:
    """Opens a database that the first release has made; called again, once more."""
    found: list[Database] = []

    def opened(url: str) -> Database:
        found.append(Database.open(url, secret_keys=[SECRET_KEY]))
        return found[-1]

    if backend == "sqlite":
        yield lambda: opened(f"sqlite:///{tmp_path}/marzhook.db")
    else:
        server: Server = request.getfixturevalue("postgresql")
        with server.database() as name:
            yield lambda: opened(server.url(name))
            for database in found:
                database.close()
    for database in found:
        database.close()


def first_release(database: Database) -> None:
    """What a first start made of it."""
    database._prepare()
    with database.write() as tx:
        migrations.upgrade(tx.conn, FIRST)
        tx.conn.exec_driver_sql("INSERT INTO meta (key, value) VALUES ('instance', 'abcd0123')")
        database.vault.found(tx.conn)


def fill(database: Database, number: int) -> None:
    """A row of each table, named as the first release names them."""
    vault = database.vault
    with database.write() as tx:
        vault.unlock(tx.conn)
        words = {
            "{n}": number,
            "{n+1}": number + 1,
            "{hash}": b"\x00\xff" + bytes([number]),
            "{url}": vault.seal(URL),
            "{secret}": vault.seal("sesame"),
            "{signing}": vault.seal(new_secret()),
        }
        for table, row in ROWS.items():
            for one in (row, row | {"id": number + 1}) if table == "events" else (row,):
                values = [
                    words.get(v, v.replace("{n}", str(number))) if isinstance(v, str) else v for v in one.values()
                ]
                tx.conn.execute(
                    sa.text(f"INSERT INTO {table} ({', '.join(one)}) VALUES ({', '.join(f':{name}' for name in one)})"),
                    dict(zip(one, values, strict=True)),
                )
            if "id" in row and is_postgresql(tx.conn):
                tx.conn.exec_driver_sql(f"SELECT setval('{table}_id_seq', {number + 1})")


def rows(database: Database) -> dict[str, list[Any]]:
    """Of each table, what the first release knows of it."""
    with database.read() as conn:
        return {
            table: sorted(conn.execute(sa.text(f"SELECT {', '.join(row)} FROM {table}")).all(), key=repr)
            for table, row in ROWS.items()
        }


def test_what_the_first_release_wrote_is_kept(old: Callable[[], Database], clock: FakeClock) -> None:
    """Brought to this version's schema, each row says what it said, secrets are readable, and what was owed is owed."""
    database = old()
    first_release(database)
    fill(database, 10)
    before = rows(database)
    database.upgrade()
    assert database.revision() == migrations.revisions()[-1]
    assert rows(database) == before
    assert list(integrity.findings(database)) == []
    with database.read() as conn:
        assert database.meta(conn, "instance") == "abcd0123"
        endpoint = endpoints.get(conn, 10)
    assert (endpoint.url, endpoint.secret, endpoint.learned_mode) == (URL, "sesame", "hmac")
    outbox = Outbox(database)
    [owed] = outbox.load(10, [10])
    assert (owed.event.username, owed.event.enqueued_at, owed.tries) == ("علی10", 1680506457.636369, 1)
    with database.write() as tx:
        assert outbox.replay(tx, DeliveryFilter(endpoint_id=10), now=clock.now()) == 1


@pytest.mark.postgresql
def test_a_settlement_of_the_version_before_goes_first(old: Callable[[], Database]) -> None:
    """It has rows of what is owed in hand and comes to their endpoint last, for its foreign key: neither waits for ever."""
    database = old()
    first_release(database)
    fill(database, 10)
    with database.write() as tx:
        migrations.upgrade(tx.conn, "0010")
    with ThreadPoolExecutor(1) as pool, database.write() as tx:
        tx.conn.exec_driver_sql("DELETE FROM pending WHERE endpoint_id = 10")
        upgrading = pool.submit(database.upgrade)
        eventually(lambda: waiting(database))
        tx.conn.exec_driver_sql("SELECT 1 FROM endpoints WHERE id = 10 FOR KEY SHARE")
    assert upgrading.result(30) is None
    assert database.revision() == migrations.revisions()[-1]


def waiting(database: Database) -> bool:
    with database.read() as conn:
        return bool(conn.exec_driver_sql("SELECT 1 FROM pg_locks WHERE NOT granted").all())


def test_the_first_release_goes_on_writing(old: Callable[[], Database]) -> None:
    """While its processes still run, on the new schema: what its statements name is enough, and it finds what it wrote."""
    database = old()
    first_release(database)
    fill(database, 10)
    upgraded = old()
    upgraded.upgrade()
    fill(database, 20)
    kept = rows(database)
    assert [len(kept[table]) for table in ("events", "pending", "users")] == [4, 2, 2]
    assert list(integrity.findings(upgraded)) == []
    assert [d.event.id for d in Outbox(upgraded).load(20, [20])] == [20]


def test_migrations_only_expand(old: Callable[[], Database]) -> None:
    """Tables and columns stay as they are, new columns may be left out, and nothing is forbidden that was allowed."""
    database = old()
    first_release(database)
    before = described(database)
    for revision in migrations.revisions()[1:]:
        with database.write() as tx:
            migrations.upgrade(tx.conn, revision)
        after = described(database)
        for table, was in before.items():
            now = after[table]
            assert {name: now["columns"].get(name) for name in was["columns"]} == was["columns"], (revision, table)
            for name in now["columns"].keys() - was["columns"].keys():
                assert now["columns"][name]["may_be_left_out"], (revision, table, name)
            for rules in ("primary key", "unique"):
                assert now[rules] == was[rules], (revision, table, rules)
            for rules in ("foreign keys", "checks"):
                assert set(now[rules]) <= set(was[rules]), (revision, table, rules)
        before = after


def described(database: Database) -> dict[str, dict[str, Any]]:
    """Of each table what a statement has to know."""
    with database.read() as conn:
        look = sa.inspect(conn)
        return {
            table: {
                "columns": {
                    column["name"]: {
                        "type": str(column["type"]),
                        "default": column["default"],
                        "may_be_left_out": bool(column["nullable"] or column["default"] is not None),
                        "nullable": column["nullable"],
                    }
                    for column in look.get_columns(table)
                },
                "primary key": look.get_pk_constraint(table)["constrained_columns"],
                "foreign keys": sorted(json.dumps(key) for key in look.get_foreign_keys(table)),
                "unique": sorted(repr(index) for index in look.get_indexes(table) if index["unique"])
                + [repr(one) for one in look.get_unique_constraints(table)],
                "checks": sorted(check["sqltext"] for check in look.get_check_constraints(table)),
            }
            for table in look.get_table_names()
        }
