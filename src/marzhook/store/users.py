"""Users on disk: rows to `User` and back, the panel's list, and what the review asks for.

Rows that many calls touch at once go to the driver's own `executemany` and to set-based statements.

Who reads a user in order to write him holds him first (`hold`, and the functions that take a transaction), which on
PostgreSQL means to lock his row of `counters`. Every change of a user goes that way, so what was read is what there is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from marzhook.admin import Admin
from marzhook.clock import from_unix
from marzhook.errors import ConflictError
from marzhook.event import JSON
from marzhook.store import driver, schema
from marzhook.store.database import Transaction
from marzhook.store.driver import Row, is_postgresql
from marzhook.store.statements import Many, delete_many, insert_many, off_index, text, update_many
from marzhook.user import NextPlan, Thresholds, User, next_review_at, next_review_traffic

_t, _admins, _counters = schema.users, schema.admins, schema.counters

_TIMES: Final = (
    "created_at", "sub_updated_at", "on_hold_timeout", "edited_at", "status_changed_at", "traffic_reset_at",
    "sub_revoked_at", "plan_changed_at",
)  # fmt: skip
_PLAIN: Final = (
    "username", "status", "subscription_url", "expire", "data_limit", "data_limit_reset_strategy", "note",
    "sub_last_user_agent", "on_hold_expire_duration", "auto_delete_in_days", "announced_days_left",
)  # fmt: skip
_OBJECTS: Final = ("proxies", "inbounds", "excluded_inbounds")
_COUNTERS: Final = ("used_traffic", "lifetime_used_traffic", "online_at")
_AS_STORED: Final = (*_PLAIN, "used_traffic", "lifetime_used_traffic")
_ADMIN: Final = ("id", "username", "is_sudo", "telegram_id", "discord_webhook", "users_usage")

_ATTRIBUTES: Final = (*_PLAIN, *_TIMES, *_OBJECTS, "links", "next_plan", "admin")
"""What of a `User` is kept in `users`, without what is in `counters`."""
_values_of = attrgetter(*_ATTRIBUTES)
_WRITTEN: Final[Mapping[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(_TIMES, datetime.timestamp),
    **dict.fromkeys((*_OBJECTS, "links"), json.dumps),
    "next_plan": lambda plan: json.dumps(plan.shown()),
    "admin": attrgetter("id"),
}
"""How a column has an attribute's value, where not as it is."""
_COLUMN: Final = {name: name for name in _ATTRIBUTES} | {"admin": "admin_id"}

_COLUMNS: Final = (*_COLUMN.values(), "username_key", "review_at")
_INSERT = (
    f"INSERT INTO users ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - our own names
    " ON CONFLICT (username_key) DO NOTHING RETURNING id"
)
_INSERT_COUNTERS = insert_many(
    _counters, "used_traffic", "lifetime_used_traffic", "online_at", "review_traffic", "user_id"
)
# Only where something differs: most changes leave the counters alone, and then their page stays clean. A threshold that
# moves up, ahead of the traffic, is left, too: traffic that reaches the old one brings the user here again.
_UPDATE_COUNTERS = Many(
    """
    UPDATE counters SET used_traffic = ?1, lifetime_used_traffic = ?2, online_at = ?3, review_traffic = ?4
    WHERE user_id = ?5 AND (
        (used_traffic, lifetime_used_traffic, online_at) IS NOT (?1, ?2, ?3)
        OR review_traffic IS NOT ?4 AND NOT (coalesce(review_traffic, -1) > ?1 AND coalesce(?4 > review_traffic, TRUE)))""",
    """
    UPDATE counters c
    SET used_traffic = g.used, lifetime_used_traffic = g.lifetime, online_at = g.at, review_traffic = g.review
    FROM unnest(
        CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS float8[]), CAST(? AS bigint[]), CAST(? AS bigint[])
    ) AS g (used, lifetime, at, review, id)
    WHERE c.user_id = g.id AND (
        (c.used_traffic, c.lifetime_used_traffic, c.online_at) IS DISTINCT FROM (g.used, g.lifetime, g.at)
        OR c.review_traffic IS DISTINCT FROM g.review AND NOT (
            coalesce(c.review_traffic, -1) > g.used AND coalesce(g.review > c.review_traffic, TRUE)))""",
)
_UPDATE_REVIEW_AT = update_many(_t, ("review_at",), ("id",))
_UPDATE_REVIEW_TRAFFIC = update_many(_counters, ("review_traffic",), ("user_id",))
_DELETE = delete_many(_t, ("id",))

SELECT = sa.select(
    _t, *(_counters.c[name] for name in _COUNTERS), *(_admins.c[name].label(f"admin__{name}") for name in _ADMIN)
).select_from(
    # Every user has counters. Outer all the same: so nothing tempts the planner to begin there.
    _t.outerjoin(_counters, _counters.c.user_id == _t.c.id).outerjoin(_admins, _admins.c.id == _t.c.admin_id)
)

# What API calls ask all the time.
_BY_NAME = f"{SELECT.compile()} WHERE users.username_key = ?"

DUE = (
    SELECT.where(_t.c.review_at <= sa.bindparam("now", 0.0))
    .order_by(_t.c.review_at)
    .limit(sa.bindparam("limit", 0, sa.Integer))
)
_AMONG = text("users.id IN (SELECT value FROM json_each(:ids))", "users.id = ANY (CAST(:ids AS bigint[]))", "ids")
_HOLD = sa.text("SELECT 1 FROM counters WHERE user_id = (SELECT id FROM users WHERE username_key = :name) FOR UPDATE")
NEXT_REVIEW = sa.text("SELECT min(review_at) FROM users WHERE review_at IS NOT NULL")


# -- reading


def get(conn: sa.Connection, username: str) -> User | None:
    """The user of this name, in any case of its letters."""
    row = driver.first(conn, _BY_NAME, (username.lower(),))
    return None if row is None else read(row)


def identify(conn: sa.Connection, username: str) -> User | None:
    """As `get`, but only id, name, and owner: works for a row whose JSON is broken, too."""
    row = driver.first(conn, _BY_NAME, (username.lower(),))
    return None if row is None else read_identity(row)


def after(
    tx: Transaction, last_id: int, limit: int, *, statuses: Sequence[str] = (), admin_id: int | None = None
) -> Sequence[Row]:
    """Rows behind `last_id`, by id: how bulk work walks through all users in chunks."""
    query = SELECT.where(_t.c.id > last_id).order_by(_t.c.id).limit(limit)
    if statuses:
        # By id: an index on status would have to be sorted for every chunk.
        query = query.where(off_index(tx.conn, _t.c.status).in_(statuses))
    if admin_id is not None:
        query = query.where(_t.c.admin_id == admin_id)
    return _held(tx, query)


def ended(conn: sa.Connection, *, since: float | None, until: float, admin_id: int | None) -> Sequence[Row]:
    """Rows of users who are limited or expired and whose `expire` (Unix seconds) lies in [since, until], by id."""
    return conn.execute(_ended(since, until, admin_id)).mappings().all()


def ended_held(
    tx: Transaction, limit: int, *, since: float | None, until: float, admin_id: int | None
) -> Sequence[Row]:
    """The first `limit` of `ended`, to be written."""
    return _held(tx, _ended(since, until, admin_id).limit(limit))


def _ended(since: float | None, until: float, admin_id: int | None) -> sa.Select[Any]:
    query = SELECT.where(_t.c.status.in_(("expired", "limited")), _t.c.expire <= until).order_by(_t.c.id)
    if since is not None:
        query = query.where(_t.c.expire >= since)
    if admin_id is not None:
        query = query.where(_t.c.admin_id == admin_id)
    return query


def due(tx: Transaction, now: datetime, limit: int) -> Sequence[Row]:
    """Rows of users whom time has changed, the longest due first. `read` them one by one: a row can be broken."""
    return _held(tx, DUE, {"now": now.timestamp(), "limit": limit})


def next_due(conn: sa.Connection) -> datetime | None:
    """When time changes somebody next."""
    at = conn.execute(NEXT_REVIEW).scalar()
    return None if at is None else from_unix(at)


def by_ids(conn: sa.Connection, ids: Sequence[int]) -> Sequence[Row]:
    return conn.execute(SELECT.where(_AMONG), {"ids": ids}).mappings().all()


def read(row: Row) -> User:
    """A row as a User. Raises ValueError or TypeError when the row is broken."""
    values: dict[str, Any] = {name: row[name] for name in _AS_STORED}
    for name in (*_TIMES, "online_at"):
        at = row[name]
        values[name] = None if at is None else from_unix(at)
    for name in _OBJECTS:
        values[name] = _object(name, row[name])
    if row["next_plan"] is not None:
        values["next_plan"] = NextPlan(**_object("next_plan", row["next_plan"]))
    return User(id=row["id"], links=tuple(json.loads(row["links"])), admin=_owner(row), **values)


def read_identity(row: Row) -> User:
    """Id, name, status and owner of a row, which may be broken otherwise."""
    return User(row["username"], from_unix(row["created_at"]), id=row["id"], status=row["status"], admin=_owner(row))


# -- writing


def hold(tx: Transaction, username: str) -> None:
    """Nobody else changes this user until the transaction's end. What is read of him from here on is what there is."""
    if is_postgresql(tx.conn):
        tx.conn.execute(_HOLD, {"name": username.lower()})


def hold_owned(tx: Transaction, admin_id: int) -> None:
    """As `hold`, all users of an admin."""
    if is_postgresql(tx.conn):
        tx.conn.execute(_hold(sa.select(_t.c.id).where(_t.c.admin_id == admin_id)))


def _held(tx: Transaction, query: sa.Select[Any], values: Mapping[str, Any] | None = None) -> Sequence[Row]:
    """The rows of a query that begins with `SELECT`, of users who are held."""
    if not is_postgresql(tx.conn):
        return tx.conn.execute(query, values).mappings().all()
    ids = tx.conn.execute(_hold(query.with_only_columns(_t.c.id)), values).scalars().all()
    # Asked again: while this waited for them, others may have made them such as are not meant any more.
    return tx.conn.execute(query.where(_AMONG), {**(values or {}), "ids": ids}).mappings().all()


def _hold(ids: sa.Select[Any]) -> sa.Select[Any]:
    # By id everywhere, or two could wait for each other.
    found = sa.select(_counters.c.user_id).where(_counters.c.user_id.in_(ids))
    return found.order_by(_counters.c.user_id).with_for_update()


def insert(tx: Transaction, user: User, thresholds: Thresholds) -> int:
    """Return the new user's id. Raises ConflictError when there is one of this name."""
    new = driver.first(tx.conn, _INSERT, _row(user, thresholds))
    if new is None:
        raise ConflictError("User already exists", code="user_exists")
    new_id: int = new["id"]
    _INSERT_COUNTERS(tx.conn, [(*_counted(user, thresholds), new_id)])
    return new_id


def update(tx: Transaction, made: Sequence[tuple[User, User]], thresholds: Thresholds) -> None:
    """Write what differs between users as they are on disk and as they shall be, and when they need looking at next.

    What does not differ is left out of the statement: for each column in it, its indexes are written anew, changed or not.
    """
    rows: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for before, after in made:
        pairs = zip(_ATTRIBUTES, _values_of(before), _values_of(after), strict=True)
        # Compared as they are written: to Python, {"a": 1} is {"a": true}.
        changed = {
            name: written
            for name, old, new in pairs
            if new is not old and (written := _written(name, new)) != _written(name, old)
        }
        rows.setdefault(tuple(changed), []).append(
            (*changed.values(), _unix(next_review_at(after, thresholds)), after.id)
        )
    for names, group in rows.items():
        update_many(_t, (*(_COLUMN[name] for name in names), "review_at"), ("id",))(tx.conn, group)
    _UPDATE_COUNTERS(tx.conn, [(*_counted(user, thresholds), user.id) for _, user in made])


def refresh_reviews(tx: Transaction, users: Sequence[User], thresholds: Thresholds) -> None:
    """Compute anew when these users need looking at."""
    _UPDATE_REVIEW_AT(tx.conn, [(_unix(next_review_at(user, thresholds)), user.id) for user in users])
    _UPDATE_REVIEW_TRAFFIC(tx.conn, [(next_review_traffic(user, thresholds), user.id) for user in users])


def postpone(tx: Transaction, user_id: int, until: datetime) -> None:
    """Look at this user, whose row is broken, not before `until`, whatever traffic he has."""
    tx.conn.execute(sa.update(_t).where(_t.c.id == user_id).values(review_at=until.timestamp()))
    tx.conn.execute(sa.update(_counters).where(_counters.c.user_id == user_id).values(review_traffic=None))


def delete(tx: Transaction, ids: Sequence[int]) -> None:
    """With their counters and traffic, which the schema takes along."""
    _DELETE(tx.conn, [(user_id,) for user_id in ids])


# -- parts of the above


def _row(user: User, thresholds: Thresholds) -> tuple[Any, ...]:
    return (
        *map(_written, _ATTRIBUTES, _values_of(user)),
        user.username.lower(),
        _unix(next_review_at(user, thresholds)),
    )


def _written(name: str, value: Any) -> Any:
    write = _WRITTEN.get(name)
    return value if write is None or value is None else write(value)


def _counted(user: User, thresholds: Thresholds) -> tuple[Any, ...]:
    traffic = next_review_traffic(user, thresholds)
    return user.used_traffic, user.lifetime_used_traffic, _unix(user.online_at), traffic


def _owner(row: Row) -> Admin | None:
    if row["admin__id"] is None:
        return None
    id_, username, is_sudo, *others = (row[f"admin__{name}"] for name in _ADMIN)
    return Admin(id_, username, bool(is_sudo), *others)


def _unix(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


def _object(name: str, text: str) -> dict[str, JSON]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not a JSON object")
    return value
