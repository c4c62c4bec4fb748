"""`Idempotency-Key`: doing a call's work once, however often it is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import Header

from marzhook.api.auth import Caller
from marzhook.runtime import Services
from marzhook.store import idempotency
from marzhook.store.database import Transaction

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="up to 255 characters, kept for 24 hours: the same key and body get the first answer again",
    ),
]


def once(
    services: Services,
    caller: Caller,
    key: str | None,
    path: str,
    raw: bytes,
    work: Callable[[Transaction], str],
) -> tuple[str, Mapping[str, str] | None]:
    """Do `work` in a write transaction and return its answer (JSON text), or the stored one with the header that says so.

    Raises ConflictError when the caller used the key for another body.
    """
    if key is not None:
        idempotency.check_key(key)
    request_hash = hashlib.sha256(path.encode() + b"\n" + raw).digest() if key is not None else b""

    def at_most_once(tx: Transaction) -> tuple[str, Mapping[str, str] | None]:
        if key is None:
            return work(tx), None
        now = services.clock.now()
        stored = idempotency.recall(tx, caller.owner, key, request_hash, now=now)
        if stored is not None:
            return stored, {"Idempotency-Replayed": "true"}
        text = work(tx)
        idempotency.remember(tx, caller.owner, key, request_hash, text, now=now)
        return text, None

    return services.database.transact(at_most_once, repeatable=key is not None)
