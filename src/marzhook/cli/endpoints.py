"""`marzhook endpoints`: where events go, and how it stands with that."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from marzhook.cli import endpoint_changes, output
from marzhook.cli.deliveries import warn_when_nobody_sends
from marzhook.cli.open import choice_options, opened
from marzhook.endpoint import REMOVED, Endpoint, masked_url
from marzhook.errors import ConflictError
from marzhook.signing import public_part

if TYPE_CHECKING:
    import sqlalchemy as sa

    from marzhook.store.database import Transaction

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Endpoints: where events go.")

Id = Annotated[int, typer.Argument(metavar="ID", min=1, max=2**62, help="The endpoint's number, as `list` shows it.")]
BACKLOG: Final = ("send", "skip")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app.command()(endpoint_changes.create)
app.command()(endpoint_changes.edit)
app.command("try")(endpoint_changes.try_)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List all endpoints and what is owed to each."""
    from marzhook.store import endpoints

    with opened() as o, o.database.read() as conn:
        rows = [(endpoint, owed(conn, endpoint.id)) for endpoint in endpoints.all_endpoints(conn)]
    if as_json:
        output.json_document([{**shown(endpoint), "pending": pending} for endpoint, pending in rows])
        return
    if not rows:
        output.line("There are no endpoints: set WEBHOOK_ADDRESS in .env and start the service with `make run`.")
        return
    output.table(
        ("id", "address", "format", "state", "owed"),
        [(e.id, masked_url(e.url), e.format if e.kind == "webhook" else e.kind, state(e), n) for e, n in rows],
        right=("id", "owed"),
        fold=("address", "state"),
    )


@app.command()
def show(endpoint_id: Id, as_json: AsJson = False) -> None:
    """Show one endpoint. Its secrets are never shown."""
    from marzhook.store import endpoints

    with opened() as o, o.database.read() as conn:
        endpoint = endpoints.get(conn, endpoint_id)
        pending = owed(conn, endpoint_id)
    if as_json:
        output.json_document({**shown(endpoint), "pending": pending})
        return
    output.facts(
        (
            ("id", endpoint.id),
            ("name", _name(endpoint)),
            ("kind", endpoint.kind),
            ("url", masked_url(endpoint.url)),
            ("state", state(endpoint)),
            ("owed", _deliveries(pending)),
            ("format", endpoint.format),
            ("secret", secret_in_words(endpoint)),
            ("signatures", endpoint.signatures),
            *((("public key", public_part(endpoint.signing_key)),) if endpoint.signing_key else ()),
            ("detail", endpoint.detail),
            ("actions", ", ".join(sorted(endpoint.actions)) if endpoint.actions is not None else "all"),
            ("admins", ", ".join(sorted(endpoint.admins)) if endpoint.admins is not None else "all"),
            ("users", ", ".join(endpoint.usernames) if endpoint.usernames is not None else "all"),
            ("condition", endpoint.condition or "none"),
            ("template", "none" if endpoint.template is None else output.counted(len(endpoint.template), "character")),
            ("ordered", endpoint.ordered),
            ("concurrency", endpoint.concurrency),
            ("comes from", "the settings" if endpoint.source == "environment" else "the API"),
            ("created", endpoint.created_at),
        )
    )


@app.command("test")
def send_test(endpoint_id: Id, as_json: AsJson = False) -> None:
    """Send a test event (marzhook_test) now, outside the queue, and show the answer."""
    from marzhook.cli.check import Sender, answer_shown, answer_words
    from marzhook.store import endpoints

    with opened() as o:
        with o.database.read() as conn:
            endpoint = endpoints.get(conn, endpoint_id)
        with Sender(o) as send:
            result = send(endpoint)
    if as_json:
        output.json_document({"endpoint_id": endpoint_id, **answer_shown(result)})
    else:
        output.line(f"{masked_url(endpoint.url)}: {answer_words(result)}")
    if not result.accepted:
        raise typer.Exit(1)


@app.command()
def enable(
    endpoint_id: Id,
    backlog: Annotated[
        str | None,
        typer.Option(
            metavar="send|skip",
            help="What becomes of what was kept for it: sent first, or cancelled. [default: ask on a terminal, else send]",
        ),
    ] = None,
) -> None:
    """Send to it again, beginning with what was kept for it."""
    from marzhook.store import endpoints

    choice_options("--backlog", [backlog] if backlog else None, BACKLOG)
    with opened() as o:
        with o.database.read() as conn:
            endpoint, waiting = endpoints.get(conn, endpoint_id), owed(conn, endpoint_id)
        if endpoint.disabled_reason == REMOVED:
            raise ConflictError(
                f"endpoint {endpoint_id} is no longer in the settings; put it back into"
                f" {endpoint.settings.split(', ')[0]} and restart the service"
            )
        if endpoint.enabled:
            output.line(f"Endpoint {endpoint_id} is enabled already; {_deliveries(waiting)} owed to it.")
            return
        if backlog is None:
            # Asked before the write: nobody is to wait for an answer.
            backlog = _asked(waiting) if waiting and sys.stdin.isatty() and sys.stdout.isatty() else "send"

        def enabled(tx: Transaction) -> int:
            now = o.clock.now()
            endpoints.enable(tx, endpoint_id, now=now)
            waiting = owed(tx.conn, endpoint_id)
            if backlog == "skip":
                endpoints.cancel_all(tx, endpoint_id, now=now)
            return waiting

        waiting = o.database.transact(enabled)
        holder = o.database.holder()
    if backlog == "skip":
        output.line(f"Endpoint {endpoint_id} is enabled; {_deliveries(waiting)} cancelled.")
        if waiting:
            output.note(f"`marzhook replay --endpoint {endpoint_id} --state cancelled` owes them again.")
        return
    output.line(f"Endpoint {endpoint_id} is enabled; {_deliveries(waiting)} owed to it.")
    if waiting:
        warn_when_nobody_sends(holder)


def _asked(waiting: int) -> str:
    typer.echo(f"{_deliveries(waiting)} {'was' if waiting == 1 else 'were'} kept for it.")
    return "send" if typer.confirm("Send them first? (no: they are cancelled)", default=True) else "skip"


def _deliveries(count: int) -> str:
    return output.counted(count, "delivery", "deliveries")


@app.command()
def disable(
    endpoint_id: Id, reason: Annotated[str, typer.Option(help="Shown wherever the endpoint is.")] = "by the operator"
) -> None:
    """Stop sending to it. What is published meanwhile is kept for it."""
    from marzhook.store import endpoints

    with opened() as o:
        o.database.transact(lambda tx: endpoints.disable(tx, endpoint_id, output.clean(reason)[:200]))
    output.line(
        f"Endpoint {endpoint_id} is disabled. Its events are kept; `marzhook endpoints enable {endpoint_id}` sends them."
    )


def state(endpoint: Endpoint) -> str:
    """How it stands, in words."""
    from marzhook.destinations.kinds import problem

    if endpoint.enabled:
        reason = problem(endpoint)
        return f"cannot be sent to: {reason}" if reason else "on"
    return f"off: {endpoint.disabled_reason}" if endpoint.disabled_reason else "off"


def secret_in_words(endpoint: Endpoint) -> str:
    """Whether a secret is sent, and how; not which."""
    if endpoint.secret is None:
        return "none is sent"
    if endpoint.secret_mode != "auto":
        return f"set, sent as {endpoint.secret_mode}"
    if endpoint.learned_mode is None:
        return "set, sent as the receiver wants it (not known yet)"
    return f"set, sent as the receiver wants it ({endpoint.learned_mode})"


def shown(endpoint: Endpoint) -> dict[str, Any]:
    """As the API shows an endpoint to one who may only read."""
    from marzhook.destinations.kinds import problem

    return {
        "id": endpoint.id, "name": _name(endpoint), "kind": endpoint.kind, "url": masked_url(endpoint.url),
        "format": endpoint.format, "has_secret": endpoint.secret is not None, "secret_mode": endpoint.secret_mode,
        "learned_mode": endpoint.learned_mode, "signatures": endpoint.signatures,
        "public_key": public_part(endpoint.signing_key) if endpoint.signing_key else None, "detail": endpoint.detail,
        "actions": None if endpoint.actions is None else sorted(endpoint.actions),
        "admins": None if endpoint.admins is None else sorted(endpoint.admins), "usernames": endpoint.usernames,
        "condition": endpoint.condition, "has_template": endpoint.template is not None,
        "ordered": endpoint.ordered, "concurrency": endpoint.concurrency, "enabled": endpoint.enabled,
        "disabled_reason": endpoint.disabled_reason, "problem": problem(endpoint), "source": endpoint.source,
        "created_at": output.iso(endpoint.created_at),
    }  # fmt: skip


def owed(conn: sa.Connection, endpoint_id: int) -> int:
    """How many deliveries to it are pending."""
    import sqlalchemy as sa

    from marzhook.store import schema

    query = sa.select(sa.func.count()).select_from(schema.pending).where(schema.pending.c.endpoint_id == endpoint_id)
    return int(conn.execute(query).scalar_one())


def _name(endpoint: Endpoint) -> str:
    return masked_url(endpoint.name) if "://" in endpoint.name else endpoint.name
