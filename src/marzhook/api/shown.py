"""How answers show events, deliveries and endpoints: what is secret stays out."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from marzhook.api.auth import Caller
from marzhook.api.context import iso
from marzhook.delivery import Attempt
from marzhook.destinations.kinds import problem
from marzhook.endpoint import SECRET_URLS, Endpoint, masked_url
from marzhook.event import Event
from marzhook.operations import name_shown
from marzhook.runtime import Services
from marzhook.signing import public_part
from marzhook.store.history import DeliveryRow


def event_shown(event: Event, instance: str, level: str | None = None) -> dict[str, Any]:
    """An event as answers show it. `level` as WEBHOOK_DETAIL; None: only what it is and whose."""
    shown: dict[str, Any] = {
        "id": event.id,
        "webhook_id": f"msg_{instance}_{event.id}",
        "action": event.action,
        "username": event.username,
    }
    if level is not None:
        text = event.detail_at(level)
        shown |= {
            "enqueued_at": event.enqueued_at,
            "detail": json.loads(text) if text else {},
            "traceparent": event.traceparent.partition(" ")[0] or None,
        }
    return shown


def detail_level(caller: Caller) -> str:
    """A key that may only read learns no user's credentials."""
    return "full" if caller.may("admin") else "safe"


def instance_of(services: Services, conn: sa.Connection) -> str:
    """The prefix of this database's message ids."""
    return services.database.meta(conn, "instance") or ""


def delivery_shown(
    row: DeliveryRow, instance: str, *, with_event: bool = True, level: str | None = None
) -> dict[str, Any]:
    """A delivery as answers show it."""
    shown: dict[str, Any] = {
        "endpoint_id": row.endpoint_id,
        "endpoint_name": name_shown(row.endpoint_name),
        "event_id": row.event.id,
    }
    if with_event:
        shown["event"] = event_shown(row.event, instance, level)
    return shown | {
        "state": row.state,
        "tries": row.tries,
        "attempts": row.attempts,
        "due_at": iso(row.due_at),
        "settled_at": iso(row.settled_at),
        "last_attempt": None
        if row.last_at is None
        else {
            "at": iso(row.last_at),
            "duration": row.last_duration,
            "status": row.last_status,
            "error": row.last_error,
            "message": row.last_message,
        },
    }


def attempt_shown(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "at": iso(attempt.at),
        "duration": attempt.duration,
        "status": attempt.status,
        "error": attempt.error,
        "message": attempt.message,
        "response": attempt.response,
        "schedule": attempt.schedule,
        "phases": attempt.phases and attempt.phases._asdict(),
        "head": attempt.head,
    }


def endpoint_shown(endpoint: Endpoint, *, full: bool) -> dict[str, Any]:
    """An endpoint as answers show it; `full`: with its whole URL and its template."""
    return {
        "id": endpoint.id,
        "name": endpoint.name if full else name_shown(endpoint.name),
        "kind": endpoint.kind,
        "url": endpoint.url if full and endpoint.kind not in SECRET_URLS else masked_url(endpoint.url),
        "format": endpoint.format,
        "has_secret": endpoint.secret is not None,
        "secret_mode": endpoint.secret_mode,
        "learned_mode": endpoint.learned_mode,
        "signatures": endpoint.signatures,
        "public_key": public_part(endpoint.signing_key) if endpoint.signing_key else None,
        "detail": endpoint.detail,
        "actions": None if endpoint.actions is None else sorted(endpoint.actions),
        "admins": None if endpoint.admins is None else sorted(endpoint.admins),
        "usernames": endpoint.usernames,
        "condition": endpoint.condition,
        "has_template": endpoint.template is not None,
        "template": endpoint.template if full else None,
        "ordered": endpoint.ordered,
        "concurrency": endpoint.concurrency,
        "rate_limit": endpoint.rate_limit,
        "options": endpoint.options if full else {},
        "enabled": endpoint.enabled,
        "disabled_reason": endpoint.disabled_reason,
        "problem": problem(endpoint),
        "failing_since": iso(endpoint.failing_since),
        "source": endpoint.source,
        "previous_secret_expires_at": iso(endpoint.previous_expires_at),
        "created_at": iso(endpoint.created_at),
    }
