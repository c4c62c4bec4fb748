"""`marzhook send`: publish one event by hand, through the database."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marzhook.cli import output
from marzhook.cli.deliveries import warn_when_nobody_sends
from marzhook.cli.open import opened
from marzhook.errors import SettingError
from marzhook.event import WIRE_KEYS, NewEvent, check_action, check_username

if TYPE_CHECKING:
    from marzhook.store.database import Transaction


def send(
    action: Annotated[str, typer.Argument(help="Such as user_updated.")],
    username: Annotated[str, typer.Argument(help="Whom it is about.")],
    data: Annotated[
        str | None, typer.Option(metavar="JSON", help="An object that follows the documented keys: '{\"by\": null}'.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Publish an event. A running service delivers it within a second; else the next one does."""
    event = NewEvent(check_action(action), check_username(username), parsed(data))
    with opened() as o:
        o.sync_endpoints()

        def publish(tx: Transaction) -> tuple[int, list[int]]:
            [event_id] = o.outbox.publish(tx, [event], now=o.clock.now())
            return event_id, _owed_to(tx.conn, event_id)

        event_id, owed = o.database.transact(publish)
        holder = o.database.holder()
    if as_json:
        output.json_document({"event_id": event_id, "endpoints": owed, "service": holder})
    else:
        owed_to = output.counted(len(owed), "endpoint")
        output.line(f"Published event {event_id} ({event.action} of {event.username}), owed to {owed_to}.")
    if not owed:
        output.note("No endpoint wants it, so it goes nowhere: set WEBHOOK_ADDRESS in .env, then start `make run`.")
    else:
        warn_when_nobody_sends(holder)


def parsed(data: str | None) -> dict[str, Any]:
    """The fields behind the documented keys. Raises SettingError, saying where the JSON is broken."""
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except json.JSONDecodeError as error:
        where = f"character {error.colno}" if error.lineno == 1 else f"line {error.lineno}, character {error.colno}"
        raise SettingError(f"--data is not JSON: {error.msg} at {where}", code="usage") from None
    except (RecursionError, ValueError) as error:
        raise SettingError(f"--data cannot be read: {error}", code="usage") from None
    if not isinstance(value, dict):
        raise SettingError('--data must be an object such as {"reason": "test"}', code="usage")
    own = sorted(WIRE_KEYS & value.keys())
    if own:
        raise SettingError(
            f"--data may not hold {', '.join(own)}: Marzhook writes these itself; leave them out", code="usage"
        )
    return value


def _owed_to(conn: Any, event_id: int) -> list[int]:
    import sqlalchemy as sa

    from marzhook.store import schema

    # By the key (endpoint, event): a search by event alone would walk the whole backlog.
    pending = schema.pending.c
    query = sa.select(pending.endpoint_id).where(
        pending.endpoint_id.in_(sa.select(schema.endpoints.c.id)), pending.event_id == event_id
    )
    return sorted(conn.execute(query).scalars())
