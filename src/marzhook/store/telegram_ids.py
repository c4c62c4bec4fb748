"""Admins' own chats at Telegram, by their `telegram_id`: of the admins here, and of those whom panels' events name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import sqlalchemy as sa

from marzhook.endpoint import EACH, OWN_CHAT
from marzhook.store import schema
from marzhook.store.database import Transaction

_KEY: Final = "telegram_ids"
"""In `meta`: what panels have told, as JSON. There are as many as a panel has admins."""
MAX_TOLD: Final = 1000
_HIGHEST: Final = (1 << 52) - 1
"""Telegram's ids have at most 52 bits (Bot API, `User.id`)."""
_endpoints, _admins, _meta = schema.endpoints, schema.admins, schema.meta


def wanted(conn: sa.Connection) -> bool:
    """Whether an endpoint writes to admins' own chats; else what panels say of them is not kept."""
    query = sa.select(_endpoints.c.options).where(_endpoints.c.kind == "telegram", _endpoints.c.deleted_at.is_(None))
    return any(wants(json.loads(options)) for options in conn.execute(query).scalars() if options)


def wants(options: Mapping[str, Any]) -> bool:
    """Whether a Telegram endpoint's options ask for them."""
    return (options.get("chats") or {}).get(EACH) == OWN_CHAT


def known(conn: sa.Connection) -> dict[str, int]:
    """Chats by admins' names, in small letters. Whom this database knows as an admin is believed before the panels."""
    query = sa.select(_admins.c.username, _admins.c.telegram_id).where(_admins.c.telegram_id.is_not(None))
    return _told(conn) | {name.casefold(): chat for name, chat in conn.execute(query)}


def learn(tx: Transaction, details: Iterable[Mapping[str, Any]]) -> None:
    """Keep what these events of a panel say of its admins, where an endpoint wants it."""
    if not wanted(tx.conn):
        return
    tx.lock(_KEY)
    before = _told(tx.conn)
    after = dict(before)
    for detail in details:
        user = detail.get("user")
        for admin in (detail.get("by"), user.get("admin") if isinstance(user, dict) else None):
            if not isinstance(admin, dict) or not isinstance(admin.get("username"), str) or "telegram_id" not in admin:
                continue
            name, chat = admin["username"].casefold(), admin["telegram_id"]
            if type(chat) is int and 0 < chat <= _HIGHEST:
                if name in after or len(after) < MAX_TOLD:
                    after[name] = chat
            else:
                after.pop(name, None)
    if after == before:
        return
    text = "INSERT INTO meta (key, value) VALUES (:k, :v) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    tx.conn.execute(sa.text(text), {"k": _KEY, "v": json.dumps(after)})
    changed(tx)


def changed(tx: Transaction) -> None:
    """Let those who send to Telegram read the chats anew."""
    alive = (_endpoints.c.kind == "telegram", _endpoints.c.deleted_at.is_(None))
    tx.conn.execute(sa.update(_endpoints).where(*alive).values(revision=_endpoints.c.revision + 1))
    tx.announce()


def _told(conn: sa.Connection) -> dict[str, int]:
    text = conn.execute(sa.select(_meta.c.value).where(_meta.c.key == _KEY)).scalar()
    return json.loads(text) if text else {}
