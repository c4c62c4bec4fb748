"""A panel's users out of its SQLite file (Marzban's `db.sqlite3`), as its API would show them.

The file does not say what the panel computes from its configuration: `links`, `subscription_url` and `inbounds` are left out.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from marzhook.errors import PanelError
from marzhook.event import JSON

PAGE: Final = 500
_NEEDED: Final = frozenset({"id", "username", "status", "used_traffic"})
_COLUMNS: Final = (
    "username", "status", "used_traffic", "expire", "data_limit", "data_limit_reset_strategy", "note", "created_at",
    "sub_updated_at", "sub_last_user_agent", "online_at", "on_hold_expire_duration", "on_hold_timeout", "auto_delete_in_days",
)  # fmt: skip
_PLAN: Final = ("data_limit", "expire", "add_remaining_traffic", "fire_on_either")


def users_of(path: Path) -> Iterator[tuple[list[dict[str, JSON]], int]]:
    """Pages of users, and how many there are in all. The file is only read, also while the panel runs. Raises PanelError."""
    try:
        # Not by its bare name: that would make the file where there is none.
        connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise PanelError(f"{path} cannot be opened: {error}") from None
    with closing(connection):
        connection.row_factory = sqlite3.Row
        try:
            # One view of the file from the first page to the last.
            connection.execute("BEGIN")
            yield from _pages(connection, path)
        except sqlite3.Error as error:
            raise PanelError(f"{path} cannot be read: {error}; name the panel's db.sqlite3") from None


def _pages(connection: sqlite3.Connection, path: Path) -> Iterator[tuple[list[dict[str, JSON]], int]]:
    columns = _columns(connection, "users")
    if not columns >= _NEEDED or "proxies" in columns or not _columns(connection, "proxies"):
        raise PanelError(f"{path} is not a Marzban panel's database; name its db.sqlite3")
    wanted = [name for name in _COLUMNS if name in columns]
    admins = {row["id"]: row["username"] for row in connection.execute("SELECT id, username FROM admins")}
    total: int = connection.execute("SELECT count(*) FROM users").fetchone()[0]
    last = 0
    while True:
        rows = connection.execute("SELECT * FROM users WHERE id > ? ORDER BY id LIMIT ?", (last, PAGE)).fetchall()
        if not rows:
            return
        span = (rows[0]["id"], rows[-1]["id"])
        proxies, excluded = _proxies(connection, span)
        resets = _resets(connection, span)
        plans = _plans(connection, span)
        page = []
        for row in rows:
            id_, owner = row["id"], row["admin_id"] if "admin_id" in columns else None
            fields: dict[str, JSON] = {name: row[name] for name in wanted}
            fields["used_traffic"] = row["used_traffic"] or 0
            before, reset_at = resets.get(id_, (0, None))
            fields["lifetime_used_traffic"] = fields["used_traffic"] + before
            fields["traffic_reset_at"] = reset_at
            if "last_status_change" in columns:
                fields["status_changed_at"] = row["last_status_change"]
            fields["proxies"], fields["excluded_inbounds"] = proxies[id_], excluded[id_]
            fields["next_plan"] = plans.get(id_)
            fields["admin"] = {"username": admins[owner]} if owner in admins else None
            page.append(fields)
        yield page, total
        last = rows[-1]["id"]


def _proxies(connection: sqlite3.Connection, span: tuple[int, int]) -> tuple[Any, Any]:
    """Of each user in the span: settings by kind, and excluded inbounds by kind."""
    settings: defaultdict[int, dict[str, JSON]] = defaultdict(dict)
    excluded: defaultdict[int, dict[str, list[str]]] = defaultdict(dict)
    of_proxy = {}
    for row in connection.execute(
        "SELECT id, user_id, type, settings FROM proxies WHERE user_id BETWEEN ? AND ?", span
    ):
        # The file has the names of the panel's constants (VLESS), its API their values (vless).
        kind = row["type"].lower()
        try:
            settings[row["user_id"]][kind] = json.loads(row["settings"])
        except (TypeError, ValueError):
            settings[row["user_id"]][kind] = {}
        excluded[row["user_id"]][kind] = []
        of_proxy[row["id"]] = excluded[row["user_id"]][kind]
    if _columns(connection, "exclude_inbounds_association"):
        query = (
            "SELECT e.proxy_id, e.inbound_tag FROM proxies p JOIN exclude_inbounds_association e ON e.proxy_id = p.id"
            " WHERE p.user_id BETWEEN ? AND ?"
        )
        for row in connection.execute(query, span):
            of_proxy[row["proxy_id"]].append(row["inbound_tag"])
    return settings, excluded


def _resets(connection: sqlite3.Connection, span: tuple[int, int]) -> dict[int, tuple[int, str | None]]:
    """Bytes of each user before his last reset, and when that was."""
    if not _columns(connection, "user_usage_logs"):
        return {}
    query = (
        "SELECT user_id, sum(used_traffic_at_reset), max(reset_at) FROM user_usage_logs"
        " WHERE user_id BETWEEN ? AND ? GROUP BY user_id"
    )
    return {row[0]: (row[1] or 0, row[2]) for row in connection.execute(query, span)}


def _plans(connection: sqlite3.Connection, span: tuple[int, int]) -> dict[int, JSON]:
    columns = _columns(connection, "next_plans")
    if not columns:
        return {}
    plans: dict[int, JSON] = {}
    for row in connection.execute("SELECT * FROM next_plans WHERE user_id BETWEEN ? AND ?", span):
        plan = {name: row[name] for name in _PLAN if name in columns}
        for name in ("add_remaining_traffic", "fire_on_either"):
            if plan.get(name) is not None:
                plan[name] = bool(plan[name])
        plans[row["user_id"]] = plan
    return plans


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row["name"] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
