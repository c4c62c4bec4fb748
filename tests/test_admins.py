from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import sqlalchemy as sa
from argon2 import PasswordHasher

from marzhook.errors import ConflictError, InvalidUserError, NotFoundError, StoreBusyError
from marzhook.store import admins, schema
from marzhook.store.database import Database
from marzhook.testing import FakeClock

if TYPE_CHECKING:
    from api_client import Api

pytest_plugins = ["api_client"]


def test_ensure_sudo_makes_and_keeps(database: Database, clock: FakeClock) -> None:
    """The environment's admin is made once; the same password later changes nothing, so his tokens stay good."""
    for _ in range(2):
        with database.write() as tx:
            admins.ensure_sudo(tx, "root", "secret", clock.now())
        clock.advance(60)

    admin = admins.authenticate(database, "root", "secret")

    assert admin is not None
    assert admin.is_sudo
    assert admin.password_reset_at is None


def test_ensure_sudo_changes(database: Database, clock: FakeClock) -> None:
    """A new password in the settings replaces the old one, and makes whoever had the name sudo."""
    with database.write() as tx:
        hash_ = admins.hash_password("old")
        admins.create(tx, username="root", password_hash=hash_, is_sudo=False, now=clock.now())
        admins.ensure_sudo(tx, "root", "new", clock.now())

    assert admins.authenticate(database, "root", "old") is None
    admin = admins.authenticate(database, "root", "new")
    assert admin is not None
    assert admin.is_sudo
    assert admin.password_reset_at == clock.now()


def test_ensure_first(database: Database, clock: FakeClock) -> None:
    """Where nobody is, an admin with a readable random password is made, once."""
    with database.write() as tx:
        made = admins.ensure_first(tx, clock.now())
        again = admins.ensure_first(tx, clock.now())

    assert made is not None
    assert again is None
    assert not set(made[1]) & set("0O1lI")
    assert admins.authenticate(database, *made) is not None


def test_passwords_are_hashed(database: Database, clock: FakeClock) -> None:
    """The database holds Argon2id hashes, never a password."""
    with database.write() as tx:
        admins.ensure_sudo(tx, "root", "plain as day", clock.now())
        row = tx.conn.execute(sa.select(schema.admins)).one()
    assert row.password_hash.startswith("$argon2id$")
    assert "plain as day" not in str(row)


def test_an_old_hash_is_renewed_and_tokens_stay_valid(database: Database, clock: FakeClock) -> None:
    """Who has been here for long is told yes or no as fast as a stranger, from the first sign-in or start on."""
    old = PasswordHasher(time_cost=3, memory_cost=8 * 1024, parallelism=2)
    now = clock.now()
    with database.write() as tx:
        admins.create(tx, username="root", password_hash=old.hash("secret word"), is_sudo=True, now=now)
        admins.create(tx, username="anna", password_hash=old.hash("secret word"), is_sudo=False, now=now)
    assert admins.authenticate(database, "anna", "another word") is None
    before = hashes(database)
    admin = admins.authenticate(database, "anna", "secret word")
    with database.write() as tx:
        admins.ensure_sudo(tx, "root", "secret word", now)
    after = hashes(database)
    assert admin is not None
    assert all(after[name] != before[name] and "m=19456,t=2,p=1" in after[name] for name in ("anna", "root"))
    assert admins.authenticate(database, "anna", "secret word") == admin
    assert admins.authenticate(database, "root", "secret word") is not None
    assert hashes(database) == after


def hashes(database: Database) -> dict[str, str]:
    with database.read() as conn:
        return {row.username: row.password_hash for row in conn.execute(sa.select(schema.admins))}


def test_burst_of_logins(database: Database, clock: FakeClock) -> None:
    """A burst of logins is turned away in part, and takes no more threads than a few; later ones get in again."""
    with database.write() as tx:
        admins.ensure_sudo(tx, "root", "secret", clock.now())
    together = threading.Barrier(32)

    def log_in() -> str:
        together.wait()
        try:
            return "in" if admins.authenticate(database, "root", "secret") else "refused"
        except StoreBusyError as error:
            return error.code

    with ThreadPoolExecutor(32) as pool:
        outcomes = {future.result() for future in [pool.submit(log_in) for _ in range(32)]}

    assert outcomes == {"in", "too_many_logins"}
    assert admins.authenticate(database, "root", "secret") is not None


def test_hashes_are_made_on_threads_of_their_own(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library keeps the memory of a hash for each thread that ever made one: not for each of the API's."""
    threads: set[int] = set()

    class Watched(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Any:
            threads.add(threading.get_ident())
            return super().verify(hash, password)

    monkeypatch.setattr(admins, "_hasher", Watched(time_cost=1, memory_cost=8, parallelism=1))
    for _ in range(8):
        asking = threading.Thread(target=admins.authenticate, args=(database, "nobody", "wrong"))
        asking.start()
        asking.join()
        assert asking.ident not in threads
    assert 1 <= len(threads) <= 2


@pytest.mark.parametrize("password", ["", "x" * 1025])
def test_unusable_password(password: str) -> None:
    """An empty password and an endless one are refused before they are hashed."""
    with pytest.raises(InvalidUserError):
        admins.hash_password(password)


@pytest.mark.parametrize("name", ["", "x" * 35, "a\nb", " a", "\ud800"])
def test_unusable_name(database: Database, clock: FakeClock, name: str) -> None:
    """Names are printable and at most as long as the panel has them."""
    with pytest.raises(InvalidUserError), database.write() as tx:
        admins.create(tx, username=name, password_hash="-", is_sudo=False, now=clock.now())


def test_names_differ_by_more_than_case(database: Database, clock: FakeClock) -> None:
    """Root and root would be one admin to everybody but the database."""
    with database.write() as tx:
        admins.create(tx, username="Root", password_hash="-", is_sudo=False, now=clock.now())
        with pytest.raises(ConflictError):
            admins.create(tx, username="root", password_hash="-", is_sudo=False, now=clock.now())


def test_delete_keeps_his_users(database: Database, clock: FakeClock) -> None:
    """Deleting an admin leaves his users, without an owner."""
    u = schema.users
    with database.write() as tx:
        for name in ("root", "shop"):
            admins.create(tx, username=name, password_hash="-", is_sudo=True, now=clock.now())
        tx.conn.execute(
            sa.insert(u).values(
                username="alice", username_key="alice", status="active", proxies="{}", inbounds="{}",
                excluded_inbounds="{}", links="[]", subscription_url="", data_limit_reset_strategy="no_reset",
                admin_id=admins.get(tx.conn, "shop").id, created_at=0.0,
            )
        )  # fmt: skip
        admins.delete(tx, "shop")
        assert tx.conn.execute(sa.select(u.c.username, u.c.admin_id)).one() == ("alice", None)
        with pytest.raises(NotFoundError):
            admins.get(tx.conn, "shop")


def test_last_sudo_admin_stays(database: Database, clock: FakeClock) -> None:
    """The last sudo admin can be neither deleted nor demoted."""
    with database.write() as tx:
        admins.create(tx, username="root", password_hash="-", is_sudo=True, now=clock.now())
        for attempt in (
            lambda: admins.delete(tx, "root"),
            lambda: admins.change(tx, "root", {"is_sudo": False}, now=clock.now()),
        ):
            with pytest.raises(ConflictError) as raised:
                attempt()
            assert raised.value.code == "last_sudo_admin"


def test_tokens_of_another_key_or_algorithm(database: Database, clock: FakeClock) -> None:
    """A token is only good with this database's key and the algorithm that we use."""
    with database.write() as tx:
        admin = admins.create(tx, username="root", password_hash="-", is_sudo=True, now=clock.now())
    key = ""
    with database.read() as conn:
        key = database.meta(conn, "token_key") or ""
        good = admins.issue_token(admin, key, now=clock.now(), minutes=1)
        forged = [
            admins.issue_token(admin, "0" * 64, now=clock.now(), minutes=1),
            jwt.encode({"sub": "root", "iat": clock.now().timestamp()}, None, algorithm="none"),
            jwt.encode({"sub": "root"}, key, algorithm="HS256"),
            jwt.encode({"sub": "root", "iat": "soon"}, key, algorithm="HS256"),
            jwt.encode({"sub": "nobody", "iat": clock.now().timestamp()}, key, algorithm="HS256"),
        ]
        assert admins.admin_of_token(conn, good, now=clock.now()) == admin
        assert [admins.admin_of_token(conn, token, now=clock.now()) for token in forged] == [None] * 5


def test_token_claims(database: Database, clock: FakeClock) -> None:
    """The claims are the panel's: sub, access, iat and exp."""
    with database.write() as tx:
        admin = admins.create(tx, username="shop", password_hash="-", is_sudo=False, now=clock.now())
    token = admins.issue_token(admin, "k" * 64, now=clock.now(), minutes=60)
    claims = jwt.decode(token, options={"verify_signature": False})
    now = int(clock.now().timestamp())
    assert claims == {"sub": "shop", "access": "admin", "iat": now, "exp": now + 3600}


def test_admins_over_the_api(api: Api) -> None:
    """Sudo admins make, change, list and delete admins, in the panel's shapes."""
    body = {"username": "shop", "password": "x", "is_sudo": False, "telegram_id": 5, "discord_webhook": None}
    made = api.post("/api/admin", json=body)
    shape = {"username": "shop", "is_sudo": False, "telegram_id": 5, "discord_webhook": None, "users_usage": 0}

    assert (made.status_code, made.json()) == (200, shape)
    assert api.post("/api/admin", json=body).json()["detail"] == "Admin already exists"
    assert api.call("PUT", "/api/admin/shop", json={"is_sudo": True, "telegram_id": 0}).json() == shape | {
        "is_sudo": True,
        "telegram_id": None,
    }
    assert [a["username"] for a in api.get("/api/admins").json()] == ["boss", "shop"]
    assert [a["username"] for a in api.get("/api/admins?offset=1&limit=1").json()] == ["shop"]
    assert [a["username"] for a in api.get("/api/admins?username=SHO").json()] == ["shop"]
    assert api.call("DELETE", "/api/admin/shop").status_code == 200
    assert api.call("DELETE", "/api/admin/shop").json()["detail"] == "Admin not found"


def test_usage_of_an_admin(api: Api) -> None:
    """What an admin's users have used is counted, shown, and can be counted anew."""
    with api.services.database.write() as tx:
        admins.change(tx, "boss", {"users_usage": 5}, now=api.clock.now())

    assert api.get("/api/admin/usage/boss").json() == 5
    assert api.post("/api/admin/usage/reset/boss").json()["users_usage"] == 0
    assert api.get("/api/admin/usage/boss").json() == 0
    assert api.get("/api/admin/usage/nobody").json()["detail"] == "Admin not found"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/admin", {"username": "x", "password": "x"}),
        ("PUT", "/api/admin/boss", {}),
        ("DELETE", "/api/admin/boss", None),
        ("GET", "/api/admins", None),
        ("GET", "/api/admin/usage/boss", None),
        ("POST", "/api/admin/usage/reset/boss", None),
    ],
)
def test_admins_need_sudo(api: Api, method: str, path: str, body: Any) -> None:
    """An admin without sudo manages no admins."""
    clerk = api.admin("clerk", is_sudo=False)
    answered = api.call(method, path, json=body, headers=clerk)
    assert (answered.status_code, answered.json()["detail"]) == (403, "You're not allowed")


@pytest.mark.parametrize("body", [{"username": "x"}, {"password": "x"}, {"username": "", "password": "x"}])
def test_bad_admin(api: Api, body: Any) -> None:
    """What is wrong is told field by field."""
    answered = api.post("/api/admin", json=body)
    assert answered.status_code == 422
    assert isinstance(answered.json()["detail"], dict)
