"""Admins' own chats: whose telegram_id is known from where, and that those who send hear of it."""

from __future__ import annotations

from typing import Any

import pytest

from marzhook.delivery import Delivery
from marzhook.destinations.telegram import Telegram
from marzhook.endpoint import Endpoint
from marzhook.errors import InvalidError
from marzhook.event import Event, detail_json
from marzhook.settings import parsers
from marzhook.store import admins, endpoints, schema, telegram_ids
from marzhook.store.database import Database
from marzhook.testing import FakeClock

URL = "https://api.telegram.org/bot123:abc"
OWN = {"*": "telegram_id"}


@pytest.fixture
def bot(database: Database, clock: FakeClock) -> int:
    return made(database, clock, chats={**OWN, "Named": 9})


def made(database: Database, clock: FakeClock, **options: Any) -> int:
    with database.write() as tx:
        return endpoints.create(tx, now=clock.now(), kind="telegram", url=URL, options={"chat": 5, **options}).id


def learn(database: Database, *details: dict[str, Any]) -> None:
    with database.write() as tx:
        telegram_ids.learn(tx, details)


def admin(username: str, chat: int | None) -> dict[str, Any]:
    return {"username": username, "is_sudo": False, "telegram_id": chat}


def load(database: Database, endpoint_id: int) -> Endpoint:
    with database.read() as conn:
        assert endpoints.get(conn, endpoint_id) in endpoints.all_endpoints(conn)
        return endpoints.get(conn, endpoint_id)


def chat_of(endpoint: Endpoint, owner: str) -> str:
    one = Event(1, "user_expired", "alice", 1800000000.0, detail_json({"user": {"admin": {"username": owner}}}))
    return Telegram(endpoint, instance="i").item(Delivery(1, one), FakeClock().now()).partition("\n")[0]


def test_an_admin_here_has_his_own_chat(database: Database, clock: FakeClock, bot: int) -> None:
    """From when his telegram_id is set until it is taken away, or he is; each time the endpoint's revision says so."""
    revisions = [load(database, bot).revision]

    def then(chat: str) -> None:
        endpoint = load(database, bot)
        revisions.append(endpoint.revision)
        assert chat_of(endpoint, "shop1") == chat
        assert revisions[-1] > revisions[-2]

    with database.write() as tx:
        admins.create(tx, username="Shop1", password_hash="x", is_sudo=False, telegram_id=71, now=clock.now())
    then("71")
    with database.write() as tx:
        admins.change(tx, "Shop1", {"telegram_id": None}, now=clock.now())
    then("5")
    with database.write() as tx:
        admins.change(tx, "Shop1", {"telegram_id": 72}, now=clock.now())
    then("72")
    with database.write() as tx:
        admins.change(tx, "Shop1", {"is_sudo": True, "telegram_id": 72}, now=clock.now())
    assert load(database, bot).revision == revisions[-1]
    with database.write() as tx:
        admins.create(tx, username="root", password_hash="x", is_sudo=True, now=clock.now())
        admins.delete(tx, "Shop1")
    then("5")


def test_panels_tell_of_theirs(database: Database, clock: FakeClock, bot: int) -> None:
    """In `by` and in the user's `admin`; a later event moves or takes it away, and one that says nothing changes nothing.
    Whom the settings or this database know are not theirs to move."""
    with database.write() as tx:
        admins.create(tx, username="here", password_hash="x", is_sudo=True, telegram_id=70, now=clock.now())
    learn(
        database,
        {"by": admin("one", 71), "user": {"admin": admin("Two", 72)}},
        {"by": admin("here", 99), "user": {"admin": admin("named", 98)}},
    )
    endpoint = load(database, bot)
    assert [chat_of(endpoint, name) for name in ("one", "two", "here", "Named", "nobody")] == [
        "71",
        "72",
        "70",
        "9",
        "5",
    ]
    learn(database, {"by": {"username": "one"}}, {"by": None, "user": {"admin": None}}, {})
    assert load(database, bot).revision == endpoint.revision
    learn(database, {"by": admin("one", 73)}, {"user": {"admin": admin("two", None)}})
    moved = load(database, bot)
    assert [chat_of(moved, name) for name in ("one", "two")] == ["73", "5"]
    assert moved.revision > endpoint.revision


def test_strange_ids_are_none(database: Database, clock: FakeClock, bot: int) -> None:
    """A panel's event may hold anything."""
    strange = (True, -5, 1 << 60, "7", 1.5, [], {"x": 1})
    learn(database, *({"by": {"username": f"a{n}", "telegram_id": one}} for n, one in enumerate(strange)))
    learn(database, {"by": {"username": 5, "telegram_id": 5}}, {"by": [1], "user": "x"})
    assert load(database, bot).own_chats == {}
    learn(database, *({"by": admin(f"many{n}", n + 1)} for n in range(telegram_ids.MAX_TOLD + 50)))
    assert len(load(database, bot).own_chats) == telegram_ids.MAX_TOLD


def test_what_nobody_asks_for_is_not_kept(database: Database, clock: FakeClock) -> None:
    """Without an endpoint that writes to own chats, a panel's telegram_ids are forgotten, and events go to all's chat."""
    plain = made(database, clock, chats={"shop1": 7})
    learn(database, {"by": admin("one", 71)})
    with database.read() as conn:
        assert conn.execute(schema.meta.select().where(schema.meta.c.key == "telegram_ids")).first() is None
    assert chat_of(load(database, plain), "one") == "5"


def test_own_chats_are_asked_for_in_one_way() -> None:
    """`*` stands for every admin, and for his own chat alone."""
    assert Telegram.checked_options({"chat": 5, "chats": {**OWN, "a": "7"}})["chats"] == {**OWN, "a": 7}
    for chats in ({"*": 7, "a": "telegram_id"}, {"a": "telegram_id"}):
        with pytest.raises(InvalidError):
            Telegram.checked_options({"chat": 5, "chats": chats})
    assert parsers.chats_of_admins("*=telegram_id, shop1=7") == {**OWN, "shop1": 7}
    for text in ("*=7x", "shop1=telegram_id", "*"):
        with pytest.raises(ValueError, match="admin=chat"):
            parsers.chats_of_admins(text)
