"""Users on disk: rows to `User` and back, the panel's list, and what the review and traffic reports ask for.

Rows that many calls touch at once (review, traffic) go to the driver's own `executemany` and to set-based statements.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa

from marzhook.admin import Admin
from marzhook.clock import from_unix
from marzhook.errors import ConflictError, InvalidError
from marzhook.event import JSON
from marzhook.store import driver, schema
from marzhook.store.database import Transaction
from marzhook.store.driver import Row
from marzhook.user import MAX_TRAFFIC, NextPlan, Thresholds, User, next_review_at, next_review_traffic

_t, _admins, _counters, _traffic = schema.users, schema.admins, schema.counters, schema.traffic

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
    f"INSERT INTO users ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
    " ON CONFLICT (username_key) DO NOTHING RETURNING id"
)

_INSERT_COUNTERS = (
    "INSERT INTO counters (used_traffic, lifetime_used_traffic, online_at, review_traffic, user_id)"
    " VALUES (?, ?, ?, ?, ?)"
)
# Only where something differs: most changes leave the counters alone, and then their page stays clean. A threshold that
# moves up, ahead of the traffic, is left, too: traffic that reaches the old one brings the user here again.
_UPDATE_COUNTERS = """
    UPDATE counters SET used_traffic = ?1, lifetime_used_traffic = ?2, online_at = ?3, review_traffic = ?4
    WHERE user_id = ?5 AND (
        (used_traffic, lifetime_used_traffic, online_at) IS NOT (?1, ?2, ?3)
        OR review_traffic IS NOT ?4 AND NOT (coalesce(review_traffic, -1) > ?1 AND coalesce(?4 > review_traffic, TRUE)))"""

_SELECT = sa.select(
    _t, *(_counters.c[name] for name in _COUNTERS), *(_admins.c[name].label(f"admin__{name}") for name in _ADMIN)
).select_from(
    # Every user has counters. Outer all the same: so nothing tempts the planner to begin there.
    _t.outerjoin(_counters, _counters.c.user_id == _t.c.id).outerjoin(_admins, _admins.c.id == _t.c.admin_id)
)

# What API calls ask all the time.
_BY_NAME = f"{_SELECT.compile()} WHERE users.username_key = ?"

SORTS: Final = ("username", "used_traffic", "data_limit", "expire", "created_at")

# Whom a traffic report is about. CROSS JOIN: each name straight into the index. Names only, in an array: an object with
# their amounts takes json_each twice the time.
NAMED = """
    SELECT u.username_key, u.id, u.admin_id, c.used_traffic, c.review_traffic
    FROM json_each(?) j
    CROSS JOIN users u ON u.username_key = j.value CROSS JOIN counters c ON c.user_id = u.id"""
CHARGE = (
    "UPDATE counters SET used_traffic = min(used_traffic + ?1, ?2),"
    " lifetime_used_traffic = min(lifetime_used_traffic + ?1, ?2), online_at = ?3 WHERE user_id = ?4"
)
_COUNT_TRAFFIC = (
    "INSERT INTO traffic (user_id, hour, bytes) VALUES (?1, ?2, ?3)"
    " ON CONFLICT (user_id, hour) DO UPDATE SET bytes = min(bytes + ?3, ?4)"
)

DUE = (
    _SELECT.where(_t.c.review_at <= sa.bindparam("now", 0.0))
    .order_by(_t.c.review_at)
    .limit(sa.bindparam("limit", 0, sa.Integer))
)
NEXT_REVIEW = sa.text("SELECT min(review_at) FROM users WHERE review_at IS NOT NULL")


@dataclass(frozen=True, slots=True)
class UserQuery:
    """Which users, and in which order; None means any. `sort` is a comma list of [-]name out of SORTS."""

    offset: int | None = None
    limit: int | None = None
    usernames: Sequence[str] | None = None
    search: str | None = None
    """Part of the username or of the note."""
    admins: Sequence[str] | None = None
    status: str | None = None
    sort: str | None = None


# -- reading


def get(conn: sa.Connection, username: str) -> User | None:
    """The user of this name, in any case of its letters."""
    row = driver.first(conn, _BY_NAME, (username.lower(),))
    return None if row is None else read(row)


def identify(conn: sa.Connection, username: str) -> User | None:
    """As `get`, but only id, name, and owner: works for a row whose JSON is broken, too."""
    row = driver.first(conn, _BY_NAME, (username.lower(),))
    return None if row is None else read_identity(row)


def find(conn: sa.Connection, query: UserQuery) -> tuple[list[User], int]:
    """The page that is asked for, and how many there are in all. Raises InvalidError for an unknown sort."""
    conditions = _conditions(query)
    order = _order(query.sort)
    page = _SELECT.where(*conditions).order_by(*order).limit(-1 if query.limit is None else query.limit)
    users = [read(row) for row in conn.execute(page.offset(query.offset or 0)).mappings()]
    if query.limit is None and not query.offset:
        return users, len(users)
    total = conn.execute(sa.select(sa.func.count()).select_from(_t).where(*conditions)).scalar_one()
    return users, total


def after(
    conn: sa.Connection, last_id: int, limit: int, *, statuses: Sequence[str] = (), admin_id: int | None = None
) -> Sequence[Row]:
    """Rows behind `last_id`, by id: how bulk work walks through all users in chunks."""
    query = _SELECT.where(_t.c.id > last_id).order_by(_t.c.id).limit(limit)
    if statuses:
        # The leading + keeps SQLite on the key: an index on status would have to be sorted for every chunk.
        query = query.where(sa.literal_column("+users.status").in_(statuses))
    if admin_id is not None:
        query = query.where(_t.c.admin_id == admin_id)
    return conn.execute(query).mappings().all()


def ended(
    conn: sa.Connection, *, since: float | None, until: float, admin_id: int | None, limit: int = -1
) -> Sequence[Row]:
    """Rows of users who are limited or expired and whose `expire` (Unix seconds) lies in [since, until], by id."""
    query = _SELECT.where(_t.c.status.in_(("expired", "limited")), _t.c.expire <= until).order_by(_t.c.id).limit(limit)
    if since is not None:
        query = query.where(_t.c.expire >= since)
    if admin_id is not None:
        query = query.where(_t.c.admin_id == admin_id)
    return conn.execute(query).mappings().all()


def due(conn: sa.Connection, now: datetime, limit: int) -> Sequence[Row]:
    """Rows of users whom time has changed, the longest due first. `read` them one by one: a row can be broken."""
    return conn.execute(DUE, {"now": now.timestamp(), "limit": limit}).mappings().all()


def next_due(conn: sa.Connection) -> datetime | None:
    """When time changes somebody next."""
    at = conn.execute(NEXT_REVIEW).scalar()
    return None if at is None else from_unix(at)


def by_ids(conn: sa.Connection, ids: Sequence[int]) -> Sequence[Row]:
    wanted = sa.text("SELECT value FROM json_each(:ids)").bindparams(ids=json.dumps(ids)).columns(sa.column("value"))
    return conn.execute(_SELECT.where(_t.c.id.in_(wanted))).mappings().all()


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


def insert(tx: Transaction, user: User, thresholds: Thresholds) -> int:
    """Return the new user's id. Raises ConflictError when there is one of this name."""
    new = driver.first(tx.conn, _INSERT, _row(user, thresholds))
    if new is None:
        raise ConflictError("User already exists", code="user_exists")
    new_id: int = new["id"]
    driver.execute(tx.conn, _INSERT_COUNTERS, (*_counted(user, thresholds), new_id))
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
        setters = ", ".join(f"{column} = ?" for column in (*(_COLUMN[name] for name in names), "review_at"))
        driver.executemany(tx.conn, f"UPDATE users SET {setters} WHERE id = ?", group)  # noqa: S608 - our own names
    if made:
        driver.executemany(tx.conn, _UPDATE_COUNTERS, [(*_counted(user, thresholds), user.id) for _, user in made])


def refresh_reviews(tx: Transaction, users: Sequence[User], thresholds: Thresholds) -> None:
    """Compute anew when these users need looking at."""
    if users:
        times: list[tuple[Any, ...]] = [(_unix(next_review_at(user, thresholds)), user.id) for user in users]
        tx.conn.exec_driver_sql("UPDATE users SET review_at = ? WHERE id = ?", times)
        limits: list[tuple[Any, ...]] = [(next_review_traffic(user, thresholds), user.id) for user in users]
        tx.conn.exec_driver_sql("UPDATE counters SET review_traffic = ? WHERE user_id = ?", limits)


def postpone(tx: Transaction, user_id: int, until: datetime) -> None:
    """Look at this user, whose row is broken, not before `until`, whatever traffic he has."""
    tx.conn.execute(sa.update(_t).where(_t.c.id == user_id).values(review_at=until.timestamp()))
    tx.conn.execute(sa.update(_counters).where(_counters.c.user_id == user_id).values(review_traffic=None))


def delete(tx: Transaction, ids: Sequence[int]) -> None:
    """With their counters and traffic, which the schema takes along."""
    if ids:
        rows: list[tuple[Any, ...]] = [(user_id,) for user_id in ids]
        tx.conn.exec_driver_sql("DELETE FROM users WHERE id = ?", rows)


# -- traffic


def named(conn: sa.Connection, names: Sequence[str]) -> Sequence[Any]:
    """(name, id, admin's id, used_traffic, review_traffic) of the users with these names, which are in lower case; names
    of nobody are missing. Rows as they come: a report has 10,000 of them."""
    return conn.exec_driver_sql(NAMED, (json.dumps(names),)).all()


def charge(tx: Transaction, amounts: Sequence[tuple[int, int]], now: datetime) -> None:
    """Add to the traffic of users: (id, bytes), each id once. Their status is not looked at here."""
    if not amounts:
        return
    at = now.timestamp()
    hour = int(at) // 3600 * 3600
    # In the order of the tables, so that each page is visited once. The driver's executemany: 3.2 µs a row, where one
    # UPDATE … FROM json_each took 4.4 by name, 9.8 by id (each value is parsed out of its pair anew).
    ordered = sorted(amounts)
    charged: list[tuple[Any, ...]] = [(amount, MAX_TRAFFIC, at, id_) for id_, amount in ordered]
    tx.conn.exec_driver_sql(CHARGE, charged)
    counted: list[tuple[Any, ...]] = [(id_, hour, amount, MAX_TRAFFIC) for id_, amount in ordered]
    tx.conn.exec_driver_sql(_COUNT_TRAFFIC, counted)


def charge_admins(tx: Transaction, amounts: Mapping[int, int]) -> None:
    """Add to what admins' users have used: bytes by admin id."""
    if amounts:
        rows: list[tuple[Any, ...]] = [(min(amount, MAX_TRAFFIC), MAX_TRAFFIC, id_) for id_, amount in amounts.items()]
        tx.conn.exec_driver_sql("UPDATE admins SET users_usage = min(users_usage + ?, ?) WHERE id = ?", rows)


def traffic_between(conn: sa.Connection, user_id: int, start: datetime, end: datetime) -> int:
    """Bytes in the hours that touch [start, end]."""
    query = sa.select(sa.func.coalesce(sa.func.sum(_traffic.c.bytes), 0)).where(
        _traffic.c.user_id == user_id,
        _traffic.c.hour.between(int(start.timestamp()) // 3600 * 3600, int(end.timestamp())),
    )
    return int(conn.execute(query).scalar_one())


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


def _conditions(query: UserQuery) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if query.usernames:
        found.append(_t.c.username_key.in_([name.lower() for name in query.usernames]))
    if query.search:
        found.append(
            sa.or_(
                _t.c.username_key.contains(query.search.lower(), autoescape=True),
                _t.c.note.icontains(query.search, autoescape=True),
            )
        )
    if query.admins is not None:
        found.append(_t.c.admin_id.in_(sa.select(_admins.c.id).where(_admins.c.username.in_(query.admins))))
    if query.status:
        found.append(_t.c.status == query.status)
    return found


def _order(sort: str | None) -> list[sa.ColumnElement[Any]]:
    order: list[sa.ColumnElement[Any]] = []
    for option in (part.strip() for part in (sort or "").split(",")):
        if not option:
            continue
        name = option.removeprefix("-")
        if name not in SORTS:
            raise InvalidError(
                f"cannot sort by {option!a}; sort takes a comma list of [-]{', [-]'.join(SORTS)}", code="invalid_sort"
            )
        column = _t.c.username_key if name == "username" else (_counters if name in _COUNTERS else _t).c[name]
        order.append(column.desc() if option.startswith("-") else column.asc())
    # The id last, so that pages do not overlap where values are equal.
    return [*order, _t.c.id.asc()]
