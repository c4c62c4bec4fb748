"""`marzhook deliveries`: what is owed to whom, what became of it, and each try."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from marzhook.cli import output
from marzhook.cli.open import choice_options, opened
from marzhook.delivery import (
    CANCELLED,
    DEAD,
    DELIVERED,
    OUTAGE,
    PENDING,
    REJECTED,
    SPLIT,
    STANDARD,
    STATES,
    Attempt,
)  # fmt: skip
from marzhook.endpoint import masked_url
from marzhook.errors import ConflictError
from marzhook.event import check_action

if TYPE_CHECKING:
    from marzhook.store.database import Transaction
    from marzhook.store.history import DeliveryRow

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Deliveries: one event owed to one endpoint.")

EndpointId = Annotated[int, typer.Argument(metavar="ENDPOINT", min=1, max=2**62, help="The endpoint's number.")]
EventId = Annotated[int, typer.Argument(metavar="EVENT", min=1, max=2**62, help="The event's number.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

MOST = 10_000
"""Deliveries in one list."""


@app.command("list")
def list_(
    endpoint: Annotated[int | None, typer.Option(min=1, max=2**62, help="Of this endpoint only.")] = None,
    state: Annotated[list[str] | None, typer.Option(help=f"{', '.join(STATES)}; repeatable.")] = None,
    action: Annotated[list[str] | None, typer.Option(help="Such as user_limited; repeatable.")] = None,
    username: Annotated[str | None, typer.Option(help="Of this user only.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="At most so many, the newest.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List deliveries, the newest event first."""
    from marzhook.store import endpoints, history
    from marzhook.store.outbox import DeliveryFilter

    which = DeliveryFilter(
        endpoint_id=endpoint,
        states=choice_options("--state", state, STATES),
        actions=tuple(check_action(name) for name in action) if action else None,
        username=username,
    )
    with opened() as o, o.database.read() as conn:
        if endpoint is not None:
            endpoints.get(conn, endpoint)
        rows = history.deliveries(conn, which, limit=limit + 1)
    more = bool(rows[limit:])
    del rows[limit:]
    if as_json:
        output.json_document([shown(row) for row in rows])
        return
    if not rows:
        output.line("No deliveries match.")
        return
    output.table(
        ("to", "event", "time", "action", "username", "state", "tries", "answer"),
        [
            (
                row.endpoint_id, row.event.id, output.brief_time(row.event.time), row.event.action, row.event.username,
                row.state, row.tries, _last(row),
            )
            for row in rows
        ],
        right=("to", "event", "tries"),
        fold=("username", "answer"),
    )  # fmt: skip
    if more:
        output.note(f"The newest {limit} are shown" + ("; --limit shows more." if limit < MOST else "."))


@app.command()
def show(endpoint_id: EndpointId, event_id: EventId, as_json: AsJson = False) -> None:
    """Show one delivery and each try, with what the receiver answered."""
    from marzhook.store import history

    with opened() as o, o.database.read() as conn:
        row = history.delivery(conn, endpoint_id, event_id)
        attempts = history.attempts(conn, endpoint_id, event_id)
    if as_json:
        output.json_document({**shown(row), "attempt_list": [attempt_shown(attempt) for attempt in attempts]})
        return
    output.facts(
        (
            ("endpoint", f"{row.endpoint_id}  {_endpoint_name(row)}"),
            ("event", f"{row.event.id}  {row.event.action}  {row.event.username}"),
            ("time", output.local_time(row.event.time, milliseconds=True)),
            ("state", _state_in_words(row)),
            ("failed tries", row.tries),
            *((("schedule", _schedule_in_words(attempts[-1])),) if attempts and attempts[-1].schedule else ()),
        )
    )
    if not attempts:
        output.line("It has not been tried yet.")
        return
    output.line("")
    output.table(
        ("try", "time", "took", "result", "schedule", "reason"),
        [
            (a.number, output.brief_time(a.at), output.duration(a.duration), a.status or a.error, a.schedule, reason(a))
            for a in attempts
        ],
        right=("try", "took"),
        fold=("reason",),
    )


@app.command()
def retry(endpoint_id: EndpointId, event_id: EventId) -> None:
    """Send it once more: a dead, cancelled or delivered one from its first try, a waiting one at once."""
    from marzhook import operations

    with opened() as o:
        operations.retry(o, endpoint_id, event_id, force=True)
        output.line(f"Event {event_id} is owed to endpoint {endpoint_id} again.")
        warn_when_nobody_sends(o.database.holder())


@app.command()
def cancel(endpoint_id: EndpointId, event_id: EventId) -> None:
    """Owe it no longer: it is not tried any more. `retry` takes that back."""
    from marzhook.store import history
    from marzhook.store.outbox import DeliveryFilter

    with opened() as o:

        def let_go(tx: Transaction) -> int:
            row = history.delivery(tx.conn, endpoint_id, event_id)
            if row.state != PENDING:
                raise ConflictError(f"this delivery is {row.state} already; there is nothing to cancel")
            return o.outbox.cancel(tx, DeliveryFilter(endpoint_id=endpoint_id, event_id=event_id), now=o.clock.now())

        _must_have_moved(o.database.transact(let_go), endpoint_id)
    output.line(f"Event {event_id} is no longer owed to endpoint {endpoint_id}.")


def warn_when_nobody_sends(holder: str | None) -> None:
    """What was made due stays where it is while no service runs; say so."""
    if holder is None:
        output.note("No service is running on this database: it is sent once you start one with `make run`.")


def shown(row: DeliveryRow) -> dict[str, Any]:
    """A delivery as JSON; times in ISO 8601 (UTC), durations in seconds."""
    return {
        "endpoint_id": row.endpoint_id, "endpoint_name": _endpoint_name(row), "event_id": row.event.id,
        "action": row.event.action, "username": row.event.username, "enqueued_at": row.event.enqueued_at,
        "state": row.state, "tries": row.tries, "attempts": row.attempts,
        "due_at": output.iso(row.due_at), "settled_at": output.iso(row.settled_at),
        "last_attempt": None if row.last_at is None else {
            "at": output.iso(row.last_at), "duration": row.last_duration, "status": row.last_status,
            "error": row.last_error, "message": row.last_message,
        },
    }  # fmt: skip


def attempt_shown(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number, "at": output.iso(attempt.at), "duration": attempt.duration, "status": attempt.status,
        "error": attempt.error, "message": attempt.message, "response": attempt.response, "schedule": attempt.schedule,
        "phases": attempt.phases and attempt.phases._asdict(), "head": attempt.head,
    }  # fmt: skip


IN_WORDS: Final = {
    STANDARD: "standard: tried again after a while, then after longer ones (MARZHOOK_RETRY_SCHEDULE)",
    REJECTED: "rejected: the receiver refuses this event and accepts others (MARZHOOK_REJECTED_SCHEDULE)",
    OUTAGE: "outage: its endpoint accepts nothing; it goes out as a probe, and no tries are counted",
    SPLIT: "split: its batch was refused, and is sent again in halves",
}
"""What decided when a failed delivery is tried again."""
UNMADE: Final = "none: no request could be made of this event; mend what the reason names, then replay it"
SHOWN_RESPONSE = 300
"""Characters of a response in a table; --json shows all that was kept."""


def _schedule_in_words(attempt: Attempt) -> str:
    return UNMADE if attempt.error == "render" else IN_WORDS[attempt.schedule or STANDARD]


def reason(attempt: Attempt) -> str:
    """Why it failed: the error in words, else the head of what the receiver answered."""
    text = attempt.message if attempt.error is not None else " ".join(attempt.response.split())
    return text if len(text) <= SHOWN_RESPONSE else text[:SHOWN_RESPONSE] + "… (--json shows all)"


def _last(row: DeliveryRow) -> str:
    if row.last_status is not None:
        return str(row.last_status)
    return row.last_error or ""


def _state_in_words(row: DeliveryRow) -> str:
    if row.state == PENDING:
        return "waiting" + (f", next try at {output.local_time(row.due_at)}" if row.due_at else " to be sent")
    words = {DELIVERED: "delivered", DEAD: "dead: no tries were left", CANCELLED: "cancelled"}[row.state]
    return f"{words} ({output.local_time(row.settled_at)})" if row.settled_at else words


def _endpoint_name(row: DeliveryRow) -> str:
    return masked_url(row.endpoint_name) if "://" in row.endpoint_name else row.endpoint_name


def _must_have_moved(count: int, endpoint_id: int) -> None:
    if count == 0:
        raise ConflictError(f"endpoint {endpoint_id} was deleted; its deliveries are history only")
