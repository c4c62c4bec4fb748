"""The panel's admins on disk, their passwords (Argon2id) and their tokens (JWT, HS256)."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache, lru_cache
from typing import Any

import jwt
import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from marzhook.admin import MAX_NAME, MAX_PASSWORD, Admin
from marzhook.clock import from_unix
from marzhook.errors import ConflictError, InvalidUserError, NotFoundError, StoreBusyError
from marzhook.store import driver, schema, telegram_ids, users
from marzhook.store.database import Database, Transaction
from marzhook.store.vault import Vault, vault_of

_t, _users = schema.admins, schema.users

MIN_PASSWORD = 1
_ALL = "admins"
"""Who changes admins locks this name: whether a name is free, or one is the last sudo admin, is a matter of all of them."""

# What every API call asks.
_TOKEN_KEY = "SELECT value FROM meta WHERE key = 'token_key'"
_VOID = "SELECT 1 FROM void_tokens WHERE token_hash = ?"
_BY_NAME = f"SELECT {', '.join(_t.c.keys())} FROM admins WHERE username = ?"  # noqa: S608 - our own names

# Argon2id as OWASP's password storage cheat sheet has it for servers with little memory. Some bots log in before every call,
# on the core that delivers: the library's own choice (64 MiB, 4 lanes) takes eight times as much of it.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# One hash takes 19 MiB and some 25 ms of a core on purpose: a burst of logins must wait, not eat the machine. On threads of
# its own, for the C library keeps those 19 MiB for each thread that ever hashed, and the API has forty.
_hashing = ThreadPoolExecutor(2, thread_name_prefix="hashing")
# And it must not hold every thread of the API either: further logins are turned away, others' calls go on.
_logins = threading.BoundedSemaphore(8)

# Without 0/O, 1/l/i: the password is read off a terminal.
_READABLE = "abcdefghjkmnpqrstuvwxyz23456789"


# -- reading


def get(conn: sa.Connection, username: str) -> Admin:
    """Raises NotFoundError."""
    row = driver.first(conn, _BY_NAME, (username,))
    if row is None:
        raise NotFoundError("Admin not found", code="admin_not_found")
    return _read(row)


def find(
    conn: sa.Connection, *, username: str | None = None, offset: int = 0, limit: int | None = None
) -> Sequence[Admin]:
    """Admins whose name contains `username`, by id."""
    query = sa.select(_t).order_by(_t.c.id).offset(offset).limit(limit)
    if username:
        query = query.where(_t.c.username.icontains(username, autoescape=True))
    return [_read(row) for row in conn.execute(query).mappings()]


def authenticate(database: Database, username: str, password: str) -> Admin | None:
    """The admin with this name and password. Slow on purpose (tens of ms): keep it off the event loop.

    Raises StoreBusyError (`too_many_logins`) when more are being checked than may wait.
    """
    if not _logins.acquire(blocking=False):
        raise StoreBusyError("too many logins at once; try again in a second", code="too_many_logins")
    try:
        row = database.look(lambda conn: driver.first(conn, _BY_NAME, (username,)))
        # Outside the transaction: nobody's checkpoint has to wait for a hash.
        right = _verifies(_nobody() if row is None else row["password_hash"], password)
        if row is None or not right:
            return None
        if _hasher.check_needs_rehash(row["password_hash"]):
            _renew(database, row, password)
        return _read(row)
    finally:
        _logins.release()


# -- changing


def hash_password(password: str) -> str:
    """Slow on purpose: call it before the write transaction. Raises InvalidUserError for an unusable password."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidUserError({"password": f"must have {MIN_PASSWORD} to {MAX_PASSWORD} characters"})
    return _hashed(password)


def create(
    tx: Transaction,
    *,
    username: str,
    password_hash: str,
    is_sudo: bool,
    now: datetime,
    telegram_id: int | None = None,
    discord_webhook: str | None = None,
) -> Admin:
    """Raises ConflictError when the name is taken (also in other letters' case), InvalidUserError when it is no name."""
    if not 1 <= len(username) <= MAX_NAME or not username.isprintable() or username != username.strip():
        raise InvalidUserError({"username": f"must have 1 to {MAX_NAME} printable characters, no spaces around them"})
    tx.lock(_ALL)
    taken = sa.select(_t.c.id).where(sa.func.lower(_t.c.username) == username.lower())
    if tx.conn.execute(taken).first() is not None:
        raise ConflictError("Admin already exists", code="admin_exists")
    tx.conn.execute(
        sa.insert(_t).values(
            username=username, password_hash=password_hash, is_sudo=is_sudo, telegram_id=telegram_id,
            discord_webhook=discord_webhook, created_at=now.timestamp(),
        )
    )  # fmt: skip
    if telegram_id is not None:
        telegram_ids.changed(tx)
    return get(tx.conn, username)


def change(tx: Transaction, username: str, values: Mapping[str, Any], *, now: datetime) -> Admin:
    """Change columns; a new `password_hash` voids the tokens issued before. Raises NotFoundError, ConflictError."""
    tx.lock(_ALL)
    before = get(tx.conn, username)
    if before.is_sudo and values.get("is_sudo") is False:
        _spare_last_sudo(tx, before)
    columns = dict(values)
    if "password_hash" in columns:
        columns["password_reset_at"] = now.timestamp()
    if columns:
        tx.conn.execute(sa.update(_t).where(_t.c.id == before.id).values(columns))
    if columns.get("telegram_id", before.telegram_id) != before.telegram_id:
        telegram_ids.changed(tx)
    return get(tx.conn, username)


def delete(tx: Transaction, username: str) -> None:
    """His users stay, without an owner. Raises NotFoundError; ConflictError for the last sudo admin."""
    tx.lock(_ALL)
    admin = get(tx.conn, username)
    if admin.is_sudo:
        _spare_last_sudo(tx, admin)
    # First his users, then himself, as a traffic report does.
    users.hold_owned(tx, admin.id)
    tx.conn.execute(sa.select(_t.c.id).where(_t.c.id == admin.id).with_for_update())
    tx.conn.execute(sa.update(_users).where(_users.c.admin_id == admin.id).values(admin_id=None))
    tx.conn.execute(sa.delete(_t).where(_t.c.id == admin.id))
    if admin.telegram_id is not None:
        telegram_ids.changed(tx)


def ensure_sudo(tx: Transaction, username: str, password: str, now: datetime) -> None:
    """Make the environment's admin what the settings say. His tokens stay valid unless the password changed."""
    tx.lock(_ALL)
    row = driver.first(tx.conn, _BY_NAME, (username,))
    if row is None:
        create(tx, username=username, password_hash=hash_password(password), is_sudo=True, now=now)
        return
    values: dict[str, Any] = {}
    if not row["is_sudo"]:
        values["is_sudo"] = True
    if not _verifies(row["password_hash"], password):
        values["password_hash"] = hash_password(password)
    elif _hasher.check_needs_rehash(row["password_hash"]):
        renewed = hash_password(password)
        tx.conn.execute(sa.update(_t).where(_t.c.id == row["id"]).values(password_hash=renewed))
    change(tx, username, values, now=now)


def ensure_first(tx: Transaction, now: datetime, *, username: str = "admin") -> tuple[str, str] | None:
    """Where there is no admin at all, make one; return his name and password, which nobody can be told a second time."""
    tx.lock(_ALL)
    if tx.conn.execute(sa.select(_t.c.id).limit(1)).first() is not None:
        return None
    password = "-".join("".join(secrets.choice(_READABLE) for _ in range(5)) for _ in range(4))
    create(tx, username=username, password_hash=hash_password(password), is_sudo=True, now=now)
    return username, password


def _spare_last_sudo(tx: Transaction, admin: Admin) -> None:
    others = sa.select(_t.c.id).where(_t.c.is_sudo, _t.c.id != admin.id).limit(1)
    if tx.conn.execute(others).first() is None:
        raise ConflictError(
            f"{admin.username} is the last sudo admin; make another one first, or nobody could manage this panel",
            code="last_sudo_admin",
        )


# -- tokens


def issue_token(admin: Admin, key: str, *, now: datetime, minutes: int) -> str:
    """A token for the panel's API, valid for `minutes` (0: it does not expire)."""
    claims: dict[str, Any] = {
        "sub": admin.username,
        "access": "sudo" if admin.is_sudo else "admin",
        # Not cut to seconds: a token issued in the very second of a password change must not count as older than it.
        "iat": now.timestamp(),
    }
    if minutes > 0:
        claims["exp"] = int((now + timedelta(minutes=minutes)).timestamp())
    return jwt.encode(claims, key, algorithm="HS256")


def admin_of_token(conn: sa.Connection, token: str, *, now: datetime) -> Admin | None:
    """The admin to whom this token was issued, if it is genuine and not expired, and he is still here."""
    [stored] = driver.execute(conn, _TOKEN_KEY).fetchone()
    try:
        username, issued_at, expires_at = _claims(token, stored, vault_of(conn))
    except (jwt.InvalidTokenError, TypeError, ValueError):
        return None
    row = driver.first(conn, _BY_NAME, (username,))
    if row is None or expires_at <= now.timestamp():
        return None
    if issued_at < max(row["password_reset_at"] or 0.0, row["created_at"]):
        return None
    if driver.first(conn, _VOID, (_digest(token),)) is not None:
        return None
    return _read(row)


def void_token(tx: Transaction, token: str, *, now: datetime) -> None:
    """The token of an admin who signs out is good for nothing any more; it must be one that `admin_of_token` takes."""
    [stored] = driver.execute(tx.conn, _TOKEN_KEY).fetchone()
    *_, expires_at = _claims(token, stored, vault_of(tx.conn))
    t = schema.void_tokens
    tx.conn.execute(sa.delete(t).where(t.c.expires_at <= now.timestamp()))
    # Signed out twice at once, it is void all the same.
    tx.lock("void_tokens")
    if driver.first(tx.conn, _VOID, (_digest(token),)) is None:
        ends = None if expires_at == float("inf") else expires_at
        tx.conn.execute(sa.insert(t).values(token_hash=_digest(token), expires_at=ends))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


@lru_cache(maxsize=256)
def _claims(token: str, sealed_key: str, vault: Vault) -> tuple[str, float, float]:
    """Name, and when it was issued and expires (Unix seconds), of a genuine token; kept, because a client shows the same
    one with every call, and to check it costs more than to look up its admin. What is refused raises and is not kept."""
    # The times are ours to check: PyJWT would ask the machine's clock, not the one that was passed in.
    claims = jwt.decode(
        token, vault.reveal(sealed_key), algorithms=["HS256"],
        options={"require": ["sub", "iat"], "verify_exp": False, "verify_iat": False, "verify_nbf": False},
    )  # fmt: skip
    return str(claims["sub"]), float(claims["iat"]), float(claims.get("exp", "inf"))


@cache
def _nobody() -> str:
    """Verified against when the name is unknown, so that the time of the answer does not tell which names exist."""
    return _hashed(secrets.token_hex(16))


def _renew(database: Database, row: driver.Row, password: str) -> None:
    """Hash it as it is done today, or the time of an answer would tell who has been here for long. His tokens stay valid."""
    renewed = _hashed(password)
    same = (_t.c.id == row["id"], _t.c.password_hash == row["password_hash"])
    # Where the database is busy just now, the next sign-in does it: this one need not wait for it.
    with suppress(StoreBusyError), database.write() as tx:
        tx.conn.execute(sa.update(_t).where(*same).values(password_hash=renewed))


def _hashed(password: str) -> str:
    return _hashing.submit(_hasher.hash, _bytes(password)).result()


def _verifies(password_hash: str, password: str) -> bool:
    if len(password) > MAX_PASSWORD:
        return False
    try:
        return _hashing.submit(_hasher.verify, password_hash, _bytes(password)).result()
    except (VerificationError, InvalidHashError):
        return False


def _bytes(password: str) -> bytes:
    # A lone surrogate (JSON can bring one) is no reason for a traceback.
    return password.encode("utf-8", "surrogatepass")


def _read(row: driver.Row) -> Admin:
    reset_at = row["password_reset_at"]
    return Admin(
        row["id"], row["username"], bool(row["is_sudo"]), row["telegram_id"], row["discord_webhook"],
        row["users_usage"], None if reset_at is None else from_unix(reset_at),
    )  # fmt: skip
