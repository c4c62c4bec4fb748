"""Users' traffic on disk: what a report adds, and how much there was."""
# ruff: noqa: S608 - put together of our own names and figures

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from marzhook.store import schema
from marzhook.store.database import Transaction
from marzhook.store.statements import Many, text
from marzhook.user import MAX_TRAFFIC

_traffic = schema.traffic

# Whom a traffic report is about. CROSS JOIN: each name straight into the index. Names only, in an array: an object with
# their amounts takes json_each twice the time.
# PostgreSQL locks here, by id, so that two reports do not wait for each other in a circle; as `users.hold` does.
NAMED = text(
    """
    SELECT u.username_key, u.id, u.admin_id, c.used_traffic, c.review_traffic
    FROM json_each(:names) j
    CROSS JOIN users u ON u.username_key = j.value CROSS JOIN counters c ON c.user_id = u.id""",
    """
    SELECT u.username_key, u.id, u.admin_id, c.used_traffic, c.review_traffic
    FROM users u JOIN counters c ON c.user_id = u.id
    WHERE u.username_key = ANY (CAST(:names AS text[]))
    ORDER BY u.id FOR UPDATE OF c""",
    "names",
)
CHARGE = Many(
    f"UPDATE counters SET used_traffic = min(used_traffic + ?1, {MAX_TRAFFIC}),"
    f" lifetime_used_traffic = min(lifetime_used_traffic + ?1, {MAX_TRAFFIC}), online_at = ?2 WHERE user_id = ?3",
    f"UPDATE counters c SET used_traffic = least(c.used_traffic + amount, {MAX_TRAFFIC}),"
    f" lifetime_used_traffic = least(c.lifetime_used_traffic + amount, {MAX_TRAFFIC}), online_at = given.at"
    " FROM unnest(CAST(? AS bigint[]), CAST(? AS float8[]), CAST(? AS bigint[])) AS given (amount, at, id)"
    " WHERE c.user_id = given.id",
)
_COUNT_TRAFFIC = Many(
    "INSERT INTO traffic (user_id, hour, bytes) VALUES (?1, ?2, ?3)"
    f" ON CONFLICT (user_id, hour) DO UPDATE SET bytes = min(bytes + ?3, {MAX_TRAFFIC})",
    "INSERT INTO traffic AS t (user_id, hour, bytes) SELECT *"
    " FROM unnest(CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS bigint[]))"
    f" ON CONFLICT (user_id, hour) DO UPDATE SET bytes = least(t.bytes + excluded.bytes, {MAX_TRAFFIC})",
)
# PostgreSQL locks them by id, see above.
_CHARGE_ADMINS = Many(
    f"UPDATE admins SET users_usage = min(users_usage + ?, {MAX_TRAFFIC}) WHERE id = ?",
    "WITH given AS (SELECT * FROM unnest(CAST(? AS bigint[]), CAST(? AS bigint[])) AS given (amount, id)),"
    " held AS (SELECT id FROM admins WHERE id IN (SELECT id FROM given) ORDER BY id FOR NO KEY UPDATE)"
    f" UPDATE admins a SET users_usage = least(a.users_usage + amount, {MAX_TRAFFIC})"
    " FROM given JOIN held ON held.id = given.id WHERE a.id = given.id",
)


def named(tx: Transaction, names: Sequence[str]) -> Sequence[Any]:
    """(name, id, admin's id, used_traffic, review_traffic) of the users with these names, which are in lower case; names
    of nobody are missing. Rows as they come: a report has 10,000 of them."""
    return tx.conn.execute(NAMED, {"names": names}).all()


def charge(tx: Transaction, amounts: Sequence[tuple[int, int]], now: datetime) -> None:
    """Add to the traffic of users: (id, bytes), each id once. Their status is not looked at here."""
    at = now.timestamp()
    hour = int(at) // 3600 * 3600
    # In the order of the tables, so that each page is visited once. The driver's executemany: 3.2 µs a row, where one
    # UPDATE … FROM json_each took 4.4 by name, 9.8 by id (each value is parsed out of its pair anew).
    ordered = sorted(amounts)
    CHARGE(tx.conn, [(amount, at, id_) for id_, amount in ordered])
    _COUNT_TRAFFIC(tx.conn, [(id_, hour, amount) for id_, amount in ordered])


def charge_admins(tx: Transaction, amounts: Mapping[int, int]) -> None:
    """Add to what admins' users have used: bytes by admin id."""
    _CHARGE_ADMINS(tx.conn, [(min(amount, MAX_TRAFFIC), id_) for id_, amount in amounts.items()])


def between(conn: sa.Connection, user_id: int, start: datetime, end: datetime) -> int:
    """Bytes in the hours that touch [start, end]."""
    query = sa.select(sa.func.coalesce(sa.func.sum(_traffic.c.bytes), 0)).where(
        _traffic.c.user_id == user_id,
        _traffic.c.hour.between(int(start.timestamp()) // 3600 * 3600, int(end.timestamp())),
    )
    return int(conn.execute(query).scalar_one())
