"""Endpoints on disk. Every change raises `revision`, which is how a dispatcher, also of another process, notices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from marzhook import signing
from marzhook.clock import from_unix
from marzhook.endpoint import REMOVED, Endpoint, masked_url
from marzhook.errors import ConflictError, NotFoundError
from marzhook.store import driver, schema, telegram_ids
from marzhook.store.database import Transaction
from marzhook.store.outbox import LEAVING
from marzhook.store.outbox_sql import CANCEL_ALL
from marzhook.store.vault import SEALED, Vault, vault_of

ROTATION_OVERLAP = timedelta(hours=24)
"""How long requests carry the signatures of both secrets after a rotation."""

_t = schema.endpoints
_alive = _t.c.deleted_at.is_(None)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An endpoint that the environment names."""

    kind: str
    url: str = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)
    """Further columns: format, secret, secret_mode, detail, concurrency, options."""

    @property
    def address(self) -> tuple[str, ...]:
        """As `Endpoint.address`."""
        return self.kind, self.url, str(self.values.get("options", {}).get("chat", ""))


def all_endpoints(conn: sa.Connection) -> list[Endpoint]:
    """Every endpoint that was not deleted, by id."""
    vault = vault_of(conn)
    found = [_read(row, vault) for row in conn.execute(sa.select(_t).where(_alive).order_by(_t.c.id))]
    return [_with_chats(conn, endpoint) for endpoint in found]


def enabled_ids(conn: sa.Connection) -> set[int]:
    """Those that are sent to."""
    return set(conn.execute(sa.select(_t.c.id).where(_alive, _t.c.enabled)).scalars())


def any_full(conn: sa.Connection) -> bool:
    """Whether one of them gets credentials."""
    return conn.execute(sa.select(_t.c.id).where(_alive, _t.c.detail == "full").limit(1)).first() is not None


def get(conn: sa.Connection, endpoint_id: int, *, held: bool = False) -> Endpoint:
    """`held`: as it stays until the transaction's end, unless that changes it. Raises NotFoundError."""
    query = sa.select(_t).where(_t.c.id == endpoint_id, _alive)
    # Writers take turns on SQLite, which knows no FOR UPDATE, and SQLAlchemy leaves it out there.
    row = conn.execute(query.with_for_update(key_share=True) if held else query).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no endpoint {endpoint_id}", code="endpoint_not_found")
    return _with_chats(conn, _read(row, vault_of(conn)))


def create(tx: Transaction, *, now: datetime, kind: str, url: str, source: str = "api", **values: Any) -> Endpoint:
    """A new endpoint with a fresh signing secret. It is owed every event from now on that it wants."""
    values = dict(values)
    if values.get("signatures", "v1") != "v1":
        values["signing_key"] = signing.new_private_key()
    row = {
        "name": masked_url(url), "format": "event", "secret": None, "secret_mode": "auto", "detail": "safe", "ordered": True,
        "concurrency": 32, "enabled": True, "signing_secret": signing.new_secret(), **_columns(values),
        "kind": kind, "url": url, "source": source, "revision": 1, "created_at": now.timestamp(),
    }  # fmt: skip
    tx.announce()
    new_id = tx.conn.execute(sa.insert(_t).values(_sealed(row, vault_of(tx.conn))).returning(_t.c.id)).scalar_one()
    return get(tx.conn, new_id)


def update(tx: Transaction, endpoint_id: int, **values: Any) -> Endpoint:
    """Change columns. What was learned of the receiver is forgotten when what it was learned about changes."""
    if values.keys() & {"url", "secret", "secret_mode"}:
        values.setdefault("learned_mode", None)
    if "url" in values or values.get("enabled"):
        # Another address, or somebody says that it works again: it is not judged by what was.
        values |= {"probe_at": None, "probes": 0}
    if values.get("signatures", "v1") != "v1" and get(tx.conn, endpoint_id, held=True).signing_key is None:
        values["signing_key"] = signing.new_private_key()
    columns = _sealed(_columns(values), vault_of(tx.conn))
    result = tx.conn.execute(
        sa.update(_t).where(_t.c.id == endpoint_id, _alive).values(revision=_t.c.revision + 1, **columns)
    )
    tx.announce()
    if result.rowcount == 0:
        raise NotFoundError(f"there is no endpoint {endpoint_id}", code="endpoint_not_found")
    return get(tx.conn, endpoint_id)


def enable(tx: Transaction, endpoint_id: int, *, now: datetime) -> Endpoint:
    well = {"failing_since": None, "failing_stage": 0, "judged_from": now}
    return update(tx, endpoint_id, enabled=True, disabled_reason=None, **well)


def disable(tx: Transaction, endpoint_id: int, reason: str) -> Endpoint:
    """Stop sending. Its deliveries stay owed, and what is published meanwhile is kept for it."""
    return update(tx, endpoint_id, enabled=False, disabled_reason=reason)


def rotate_secret(tx: Transaction, endpoint_id: int, *, now: datetime) -> Endpoint:
    """A new signing secret, and key where there is one; for ROTATION_OVERLAP requests carry the signatures of both."""
    old = get(tx.conn, endpoint_id, held=True)
    return update(
        tx,
        endpoint_id,
        signing_secret=signing.new_secret(),
        previous_signing_secret=old.signing_secret,
        signing_key=signing.new_private_key() if old.signing_key else None,
        previous_signing_key=old.signing_key,
        previous_expires_at=now + ROTATION_OVERLAP,
    )


def delete(tx: Transaction, endpoint_id: int, *, now: datetime) -> None:
    """Cancel what is owed to it and take it off the list. Raises NotFoundError; ConflictError for the environment's."""
    endpoint = get(tx.conn, endpoint_id, held=True)
    if endpoint.source == "environment" and endpoint.disabled_reason != REMOVED:
        raise ConflictError(
            f"endpoint {endpoint_id} comes from the settings; take it out of {endpoint.settings.split(', ')[0]} instead",
            code="endpoint_from_environment",
        )
    tx.lock(LEAVING)
    cancel_all(tx, endpoint_id, now=now)
    update(tx, endpoint_id, enabled=False, disabled_reason="deleted")
    tx.conn.execute(sa.update(_t).where(_t.c.id == endpoint_id).values(deleted_at=now.timestamp()))


def cancel_all(tx: Transaction, endpoint_id: int, *, now: datetime) -> None:
    """Owe it nothing that it was owed until now; all of it can be replayed."""
    for statement in CANCEL_ALL:
        driver.execute(tx.conn, statement, {"endpoint": endpoint_id, "now": now.timestamp()})


def sync_environment(tx: Transaction, wanted: list[Wanted], *, now: datetime) -> None:
    """Make the environment's endpoints what the settings say. One that is gone from them is disabled, and keeps what it
    is owed; when it comes back, it goes on from there."""
    tx.conn.execute(sa.select(_t.c.id).order_by(_t.c.id).with_for_update(key_share=True))
    tx.lock(LEAVING)
    known = {endpoint.address: endpoint for endpoint in all_endpoints(tx.conn) if endpoint.source == "environment"}
    # Each once: a second one of the same address would be taken for new at every start.
    for one in {one.address: one for one in wanted}.values():
        endpoint = known.pop(one.address, None)
        if endpoint is None:
            create(tx, now=now, kind=one.kind, url=one.url, source="environment", **one.values)
            continue
        changed = {key: value for key, value in one.values.items() if getattr(endpoint, key) != value}
        if endpoint.disabled_reason == REMOVED:
            changed |= {"enabled": True, "disabled_reason": None, "judged_from": now}
        if changed:
            update(tx, endpoint.id, **changed)
    for endpoint in known.values():
        if endpoint.disabled_reason != REMOVED:
            disable(tx, endpoint.id, REMOVED)


def still(conn: sa.Connection, endpoint: Endpoint) -> bool:
    """Whether it has the address and secret that it had when it was read, and keeps them until the transaction's end: what was
    found out about one address may not hold for another. The revision alone moves with every replay, too."""
    query = sa.select(_t.c.revision).where(_t.c.id == endpoint.id, _alive).with_for_update(key_share=True)
    revision = conn.execute(query).scalar()
    if revision is None or revision == endpoint.revision:
        return revision is not None
    current = get(conn, endpoint.id)
    return all(getattr(current, name) == getattr(endpoint, name) for name in _ADDRESSED)


_ADDRESSED = ("kind", "url", "enabled", "secret", "secret_mode", "options")


def _with_chats(conn: sa.Connection, endpoint: Endpoint) -> Endpoint:
    if endpoint.kind != "telegram" or not telegram_ids.wants(endpoint.options):
        return endpoint
    return replace(endpoint, own_chats=telegram_ids.known(conn))


def _columns(values: Mapping[str, Any]) -> dict[str, Any]:
    columns = dict(values)
    for name in ("actions", "admins"):
        if columns.get(name) is not None:
            columns[name] = json.dumps(sorted(columns[name]))
    if columns.get("usernames") is not None:
        columns["usernames"] = json.dumps(columns["usernames"])
    if "options" in columns:
        columns["options"] = json.dumps(columns["options"]) if columns["options"] else None
    for name in ("previous_expires_at", "failing_since", "judged_from"):
        if columns.get(name) is not None:
            columns[name] = columns[name].timestamp()
    return columns


def _sealed(columns: dict[str, Any], vault: Vault) -> dict[str, Any]:
    return {k: vault.seal(v) if k in SEALED and v is not None else v for k, v in columns.items()}


def _read(row: sa.Row[Any], vault: Vault) -> Endpoint:
    values = dict(row._mapping)
    for name in ("deleted_at", "probe_at", "probes"):
        del values[name]
    for name in SEALED:
        if values[name] is not None:
            values[name] = vault.reveal(values[name])
    for name, kind in (("actions", frozenset), ("admins", frozenset), ("usernames", tuple)):
        if values[name] is not None:
            values[name] = kind(json.loads(values[name]))
    values["options"] = json.loads(values["options"]) if values["options"] else {}
    for name in ("previous_expires_at", "created_at", "failing_since", "hastened_at", "judged_from"):
        if values[name] is not None:
            values[name] = from_unix(values[name])
    return Endpoint(**values)
