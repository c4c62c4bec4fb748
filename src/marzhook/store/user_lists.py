"""Lists of users, as the panel's API and the dashboard page through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from marzhook.errors import InvalidError
from marzhook.store import schema, users
from marzhook.store.driver import is_postgresql
from marzhook.store.statements import off_index
from marzhook.user import User

_t, _admins, _counters = schema.users, schema.admins, schema.counters

SORTS: Final = ("username", "used_traffic", "data_limit", "expire", "created_at")

RARE: Final = 5_000
"""Users that can be sorted for each page."""


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


def find(conn: sa.Connection, query: UserQuery) -> tuple[list[User], int]:
    """The page that is asked for, and how many there are in all. Raises InvalidError for an unknown sort."""
    conditions = _conditions(query)
    order = _order(query.sort)
    page = users.SELECT.where(*conditions).order_by(*order).limit(query.limit)
    found = [users.read(row) for row in conn.execute(page.offset(query.offset or 0)).mappings()]
    if query.limit is None and not query.offset:
        return found, len(found)
    total = conn.execute(sa.select(sa.func.count()).select_from(_t).where(*conditions)).scalar_one()
    return found, total


def page(
    conn: sa.Connection,
    *,
    begins: str = "",
    after: str = "",
    status: str | None = None,
    admin_id: int | None = None,
    limit: int = 50,
) -> list[User]:
    """The next users by name behind the name `after`, of those whose name begins with `begins`: straight from the
    index on names, and so as fast for the last page of a million as for the first."""
    key, after, begins = _t.c.username_key, after.lower(), begins.lower()
    # One bound: of two, SQLite takes the first one for its way in, and reads all names up to the other.
    query = users.SELECT.where(key >= begins if after < begins else key > after)
    if begins:
        query = query.where(key < begins + "\U0010ffff")
    for column, value in ((_t.c.status, status), (_t.c.admin_id, admin_id)):
        if value is not None:
            # By names: any other index would have to be sorted for every page. Unless there are few to be sorted.
            query = query.where((column if _is_rare(conn, column, value) else off_index(conn, column)) == value)
    return [users.read(row) for row in conn.execute(query.order_by(_t.c.username_key).limit(limit)).mappings()]


def _is_rare(conn: sa.Connection, column: sa.Column[Any], value: Any) -> bool:
    """Whether fewer than RARE users have this value; on PostgreSQL the planner knows."""
    if is_postgresql(conn):
        return False
    found = sa.select(sa.literal(1)).select_from(_t).where(column == value).limit(RARE).subquery()
    return conn.execute(sa.select(sa.func.count()).select_from(found)).scalar_one() < RARE


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
        column = _t.c.username_key if name == "username" else (_counters if name in _counters.c else _t).c[name]
        order.append(column.desc() if option.startswith("-") else column.asc())
    # The id last, so that pages do not overlap where values are equal.
    return [*order, _t.c.id.asc()]
