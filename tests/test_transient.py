"""Troubles of a PostgreSQL database that pass: met by trying again, wherever that cannot do anything twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from api_client import PASSWORD, Api
from command_line import marzhook
from conftest import SECRET_KEY
from marzhook.admin import SCOPES
from marzhook.api.app import create_app
from marzhook.api.auth import Caller
from marzhook.api.once import once
from marzhook.dashboard.session import SESSION
from marzhook.dashboard.site import install
from marzhook.errors import OutcomeUnknownError, StoreBusyError
from marzhook.event import NewEvent
from marzhook.runtime import Runtime, Services, build_services
from marzhook.settings import load
from marzhook.sources.import_users import NEW, UserImport
from marzhook.store import admins, schema, sources
from marzhook.store.database import Database, Transaction
from marzhook.store.postgresql import PostgreSQLDatabase
from marzhook.testing import FakeClock, eventually
from marzhook.user import Thresholds
from postgresql import Server
from severing import Severed

pytestmark = pytest.mark.postgresql
CALLER = Caller("admin:1", frozenset(SCOPES))


@pytest.fixture
def severed(postgresql: Server, clock: FakeClock) -> Iterator[tuple[Severed, Services]]:
    """Services whose way to the database can be cut."""
    with postgresql.database() as name, Severed(postgresql.port) as way:
        url = postgresql.tcp_url(name).replace(f":{postgresql.port}/", f":{way.port}/")
        settings = load({"MARZHOOK_DATABASE_URL": url, "MARZHOOK_SECRET_KEY": SECRET_KEY}, None)
        services = build_services(settings, clock=clock)
        services.database.upgrade()
        try:
            yield way, services
        finally:
            services.database.close()


def publish(services: Services, key: str | None) -> str:
    """An event, as the API takes it."""

    def work(tx: Transaction) -> str:
        return str(services.outbox.publish(tx, [NewEvent("user_created", "ann")], now=services.clock.now()))

    return once(services, CALLER, key, "/api/v1/events", b"{}", work)[0]


def events(database: Database) -> int:
    with database.read() as conn:
        return int(conn.execute(sa.select(sa.func.count()).select_from(schema.events)).scalar_one())


def connected(database: Database, pid: int) -> bool:
    assert isinstance(database, PostgreSQLDatabase)
    # Through a connection of its own: the pool's may be the one that is just being ended.
    with database.connect() as conn:
        return conn.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() is not None


def test_a_commit_whose_answer_is_lost_is_done_once(severed: tuple[Severed, Services]) -> None:
    """With an idempotency key the caller notices nothing, however often it happens."""
    way, services = severed
    way.at_commit = 2
    first = publish(services, "k1")
    assert way.lost >= 1
    assert events(services.database) == 1
    assert publish(services, "k1") == first
    assert events(services.database) == 1


def test_without_a_key_the_caller_is_told_that_nobody_knows(severed: tuple[Severed, Services]) -> None:
    """It may be there: to do it again could do it twice."""
    way, services = severed
    way.at_commit = 1
    with pytest.raises(OutcomeUnknownError, match=r"during the commit.*Idempotency-Key"):
        publish(services, None)
    assert way.lost == 1
    assert events(services.database) == 1


@pytest.mark.parametrize("state", ["40001", "40P01", "25006", "25P04"])
def test_what_the_server_takes_back_is_tried_again(severed: tuple[Severed, Services], state: str) -> None:
    """A serialization failure, a deadlock, a primary that is none for a moment, a time that no transaction may last: nothing
    was changed, nobody is told."""
    _, services = severed
    tries = []

    def work(tx: Transaction) -> list[int]:
        ids = services.outbox.publish(tx, [NewEvent("user_created", "ann")], now=services.clock.now())
        tries.append(ids)
        if len(tries) < 3:
            tx.conn.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'as told' USING ERRCODE = '{state}'; END $$")
        return ids

    assert services.database.transact(work) == tries[-1]
    assert len(tries) == 3
    assert events(services.database) == 1


def test_a_connection_that_is_lost_before_the_commit_is_made_anew(severed: tuple[Severed, Services]) -> None:
    """Also without a key: what was not committed was not done."""
    _, services = severed
    tries = []

    def work(tx: Transaction) -> str:
        tries.append(services.outbox.publish(tx, [NewEvent("user_created", "ann")], now=services.clock.now()))
        if len(tries) == 1:
            tx.conn.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        return "done"

    assert services.database.transact(work) == "done"
    assert len(tries) == 2
    assert events(services.database) == 1


def test_a_session_that_the_server_ends_for_idling_is_made_anew(severed: tuple[Severed, Services]) -> None:
    """`idle_in_transaction_session_timeout`, as administrators set it: the transaction's next statement finds it gone, and all
    of it is done again."""
    _, services = severed
    tries = []

    def work(tx: Transaction) -> str:
        tries.append(services.outbox.publish(tx, [NewEvent("user_created", "ann")], now=services.clock.now()))
        if len(tries) == 1:
            [pid] = tx.conn.exec_driver_sql("SELECT pg_backend_pid()").scalars()
            tx.conn.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 1")
            eventually(lambda: not connected(services.database, pid))
            tx.conn.exec_driver_sql("SELECT 1")
        return "done"

    assert services.database.transact(work) == "done"
    assert len(tries) == 2
    assert events(services.database) == 1


def test_a_session_that_is_ended_between_two_transactions_is_made_anew(severed: tuple[Severed, Services]) -> None:
    """`idle_session_timeout`: the next transaction has another session, and nobody is told."""
    _, services = severed
    with services.database.write() as tx:
        tx.conn.exec_driver_sql("SET idle_session_timeout = 1")
        [pid] = tx.conn.exec_driver_sql("SELECT pg_backend_pid()").scalars()
    eventually(lambda: not connected(services.database, pid))
    assert publish(services, None)
    assert events(services.database) == 1


def test_what_fails_after_the_commit_is_not_done_again(severed: tuple[Severed, Services]) -> None:
    """The notification of other processes is lost with its connection: the event is there, once, and nobody is troubled."""
    way, services = severed
    way.word, way.at_commit = b"pg_notify", 1
    assert publish(services, None)
    assert way.lost == 1
    assert events(services.database) == 1


def test_a_database_that_stays_away_is_told_in_time(
    severed: tuple[Severed, Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller waits for some seconds and not for ever, and is told that nothing was changed."""
    way, services = severed
    monkeypatch.setattr("marzhook.store.database.BUSY_TIMEOUT", 0.2)
    way.__exit__(None, None, None)
    with pytest.raises(StoreBusyError):
        publish(services, "k")


# -- what is read


@pytest.fixture
def reading(severed: tuple[Severed, Services], clock: FakeClock) -> Iterator[tuple[Severed, Api]]:
    """A client, in the API and in the dashboard, of services whose way to the database can be cut at a statement."""
    way, services = severed
    app = create_app(services)
    site = install(app, services)
    with TestClient(app) as client:
        api = Api(client, services, clock)
        client.headers.update(api.admin("boss", is_sudo=True))
        client.cookies.set(SESSION, client.headers["Authorization"].split()[1])
        yield way, api
    site.close()


@pytest.mark.parametrize(
    ("method", "path", "word"),
    [
        ("GET", "/api/v1/endpoints", b"FROM endpoints"),
        ("GET", "/api/v1/events/1", b"FROM events"),
        ("GET", "/api/v1/deliveries/1/1", b"FROM attempts"),
        ("GET", "/api/users", b"FROM users"),
        ("GET", "/api/admins", b"FROM admins"),
        ("GET", "/api/v1/keys", b"token_key"),
        ("GET", "/endpoints", b"FROM endpoints"),
        ("GET", "/users", b"token_key"),
        # Who asks is looked up before anything is changed.
        ("POST", "/api/v1/endpoints/1/test", b"token_key"),
        ("PATCH", "/api/v1/endpoints/1", b"FROM endpoints"),
        ("POST", "/api/v1/deliveries/1/1/cancel", b"FROM attempts"),
    ],
)
def test_an_answer_that_is_lost_while_something_is_read_is_asked_for_again(
    reading: tuple[Severed, Api], method: str, path: str, word: bytes
) -> None:
    """The connection dies in the middle, at a failover or a restart: nobody is told, whatever asks for it."""
    way, api = reading
    api.endpoint()
    api.publish()
    way.word, way.at_commit = word, 1
    answered = api.call(method, path, **({"json": {"name": "changed"}} if method == "PATCH" else {}))
    assert way.lost == 1
    assert answered.status_code < 300, answered.text
    way.word, way.at_commit = b"meta", 1
    assert api.get(path.removesuffix("/test").removesuffix("/cancel")).status_code == 200
    assert way.lost == 2


def test_a_sign_in_and_a_panels_request_outlive_a_lost_connection(severed: tuple[Severed, Services]) -> None:
    """They read, too, before they write."""
    way, services = severed
    with services.database.write() as tx:
        admins.ensure_sudo(tx, "boss", PASSWORD, services.clock.now())
    with TestClient(create_app(services), client=("127.0.0.1", 1)) as client:
        way.word, way.at_commit = b"password_hash", 1
        answered = client.post("/api/admin/token", data={"username": "boss", "password": PASSWORD})
        assert (answered.status_code, way.lost) == (200, 1), answered.text
        way.word, way.at_commit = b"FROM endpoints", 1
        answered = client.post("/ingest/marzban", json=[{"action": "user_created", "username": "ann"}])
        assert (answered.status_code, way.lost) == (200, 2), answered.text
    assert events(services.database) == 1


def test_who_looks_is_told_in_time_that_the_database_stays_away(
    reading: tuple[Severed, Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, after some seconds and not after many."""
    way, api = reading
    monkeypatch.setattr("marzhook.store.database.BUSY_TIMEOUT", 0.2)
    way.__exit__(None, None, None)
    for path in ("/api/v1/endpoints", "/api/users", "/endpoints"):
        assert api.get(path).status_code == 503


# -- what operators do

_STUMBLING = """
    CREATE SEQUENCE stumbles;
    CREATE FUNCTION stumble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        -- What was taken from a sequence stays taken, whatever becomes of the transaction.
        IF nextval('stumbles') = 1 THEN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END IF;
        RETURN NULL;
    END $$;
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace LOOP
            EXECUTE 'CREATE TRIGGER stumble AFTER INSERT OR UPDATE OR DELETE ON ' || name || ' EXECUTE FUNCTION stumble()';
        END LOOP;
    END $$"""


@pytest.fixture
def stumbling(severed: tuple[Severed, Services], clock: FakeClock) -> Iterator[Api]:
    """A client of services whose database can be told to meet its next change with a deadlock."""
    _, services = severed
    with TestClient(create_app(services)) as client:
        api = Api(client, services, clock)
        client.headers.update(api.admin("boss", is_sudo=True))
        with services.database.write() as tx:
            tx.conn.exec_driver_sql(_STUMBLING)
            tx.conn.exec_driver_sql("SELECT nextval('stumbles')")
        yield api


def stumble(api: Api) -> None:
    with api.services.database.write() as tx:
        tx.conn.exec_driver_sql("SELECT setval('stumbles', 1, false)")


def stumbled(api: Api) -> bool:
    """And has gone on."""
    with api.services.database.read() as conn:
        return int(conn.exec_driver_sql("SELECT last_value FROM stumbles").scalar_one()) > 1


def test_an_operators_change_that_meets_a_deadlock_is_made_all_the_same(stumbling: Api) -> None:
    """Once, and nobody is told; whatever it is."""
    api = stumbling
    one, event = api.endpoint(), api.publish()
    key = api.post("/api/v1/keys", json={"name": "shop", "scopes": ["read"]}).json()["id"]
    endpoint, delivery = f"/api/v1/endpoints/{one}", f"/api/v1/deliveries/{one}/{event}"
    for method, path, body in (
        ("POST", "/api/v1/endpoints", {"kind": "webhook", "url": "https://two.example/"}),
        ("PATCH", endpoint, {"name": "changed"}),
        ("POST", f"{endpoint}/rotate-secret", None),
        ("POST", f"{endpoint}/test", None),
        ("POST", f"{endpoint}/disable", None),
        ("POST", f"{endpoint}/enable", None),
        ("POST", f"{delivery}/cancel", None),
        ("POST", f"{delivery}/retry", None),
        ("DELETE", endpoint, None),
        ("POST", "/api/admin", {"username": "seller", "password": "correct horse", "is_sudo": False}),
        ("PUT", "/api/admin/seller", {"telegram_id": 1, "is_sudo": False}),
        ("POST", "/api/admin/usage/reset/seller", None),
        ("DELETE", "/api/admin/seller", None),
        ("POST", "/api/v1/keys", {"name": "node", "scopes": ["read"]}),
        ("DELETE", f"/api/v1/keys/{key}", None),
    ):
        stumble(api)
        answered = api.call(method, path, json=body)
        assert answered.status_code < 300, (method, path, answered.text)
        assert stumbled(api), path
    assert len(api.get("/api/v1/endpoints").json()["endpoints"]) == 1
    assert len(api.get("/api/v1/keys").json()["keys"]) == 2
    assert events(api.services.database) == 2


def test_a_command_that_meets_a_deadlock_does_its_work_all_the_same(stumbling: Api, tmp_path: Path) -> None:
    """Once; it ends well."""
    settings = {
        "MARZHOOK_DATABASE_URL": stumbling.services.settings.database_url,
        "MARZHOOK_SECRET_KEY": SECRET_KEY,
        "WEBHOOK_ADDRESS": "https://shop.example/hook",
    }

    def run(*command: str) -> str:
        stumble(stumbling)
        ended = marzhook(tmp_path, *command, **settings)
        assert stumbled(stumbling), command
        return ended.stdout

    run("send", "user_created", "ann")  # which takes the settings' endpoint in, and stumbles there
    sent = json.loads(run("send", "user_updated", "ann", "--json"))
    [endpoint], event = map(str, sent["endpoints"]), str(sent["event_id"])
    run("deliveries", "cancel", endpoint, event)
    run("deliveries", "retry", endpoint, event)
    run("endpoints", "disable", endpoint)
    run("endpoints", "enable", endpoint)
    with stumbling.services.database.write() as tx:
        source = str(
            sources.create(tx, kind="marzban", url="https://panel.example", now=stumbling.clock.now(), token="t")
        )
    run("source", "pause", source)
    run("source", "resume", source)
    run("source", "remove", source)
    assert events(stumbling.services.database) == 2


def test_a_start_that_meets_a_deadlock_goes_on(stumbling: Api) -> None:
    """What its settings say is written down all the same."""
    url = "https://shop.example/hook"
    settings = load(
        {
            "MARZHOOK_DATABASE_URL": stumbling.services.settings.database_url,
            "MARZHOOK_SECRET_KEY": SECRET_KEY,
            "WEBHOOK_ADDRESS": url,
        },
        None,
    )
    runtime = Runtime(settings, clock=stumbling.clock, dispatches=False)
    stumble(stumbling)
    runtime.start()
    runtime.stop()
    assert stumbled(stumbling)
    assert [one["url"] for one in stumbling.get("/api/v1/endpoints").json()["endpoints"]] == [url]


def test_an_import_that_meets_a_deadlock_goes_on(stumbling: Api) -> None:
    """With all of a page that can be looked through only once; each user is there once."""
    services = stumbling.services
    stumble(stumbling)
    work = UserImport(services.database, services.clock, Thresholds())
    assert [one.outcome for one in work.take(iter([{"username": "ann"}]), update=False)] == [NEW]
    assert stumbled(stumbling)
