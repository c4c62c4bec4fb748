"""`marzhook users`: the users of the built-in registry, by hand. Each change emits its events, as over the API."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marzhook.cli import output
from marzhook.cli.open import choice_options, opened, time_option
from marzhook.errors import SettingError

if TYPE_CHECKING:
    from marzhook.user import User

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Users of the built-in registry.")

Name = Annotated[str, typer.Argument(metavar="USERNAME")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?) ?(B|[KMGT]I?B?)?", re.IGNORECASE)
_SPAN = re.compile(r"([0-9]{1,6}) ?([smhd])", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option(help="active, disabled, limited, expired or on_hold.")] = None,
    search: Annotated[str | None, typer.Option(help="Part of the username or of the note.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 100,
    offset: Annotated[int, typer.Option(min=0, max=2**62)] = 0,
    as_json: AsJson = False,
) -> None:
    """List users."""
    from marzhook.store.user_lists import UserQuery
    from marzhook.user import STATUSES

    choice_options("--status", [status] if status else None, STATUSES)
    query = UserQuery(offset=offset, limit=limit, search=search, status=status)
    with opened() as o:
        found, total = o.registry().list(query, None)
    if as_json:
        output.json_document({"users": [shown(user) for user in found], "total": total})
        return
    if not found:
        output.line("No users match." if total == 0 else f"There are {total:,} only; lower --offset.")
        return
    output.table(
        ("username", "status", "used", "limit", "expires", "owner"),
        [
            (
                user.username, user.status, output.size(user.used_traffic), output.size(user.data_limit), _expiry(user),
                user.admin.username if user.admin else None,
            )
            for user in found
        ],
        right=("used", "limit"),
        fold=("username", "owner"),
    )  # fmt: skip
    if total > len(found):
        output.note(f"{offset + 1:,} to {offset + len(found):,} of {total:,}; --offset {offset + len(found)} goes on.")


@app.command()
def show(username: Name, as_json: AsJson = False) -> None:
    """Show one user."""
    with opened() as o:
        user = o.registry().get(username, None)
    _print(user, as_json)


@app.command()
def create(
    username: Name,
    data_limit: Annotated[str | None, typer.Option(help="Such as 10GB (powers of 1024); default unlimited.")] = None,
    expire: Annotated[str | None, typer.Option(help="When, or how long from now: 2027-01-31, 30d, 12h.")] = None,
    note: Annotated[str | None, typer.Option()] = None,
    as_json: AsJson = False,
) -> None:
    """Create a user."""
    fields = {"username": username, "data_limit": parsed_size(data_limit), "note": note}
    with opened() as o:
        fields["expire"] = parsed_expiry(expire, o.clock.now())
        user = o.registry().create(fields, o.by())
    _print(user, as_json)


@app.command()
def disable(username: Name, as_json: AsJson = False) -> None:
    """Disable a user."""
    _modify(username, "disabled", as_json)


@app.command()
def enable(username: Name, as_json: AsJson = False) -> None:
    """Make a user active again."""
    _modify(username, "active", as_json)


@app.command()
def delete(username: Name, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Delete a user."""
    with opened() as o:
        registry = o.registry()
        user = registry.get(username, None)
        if not yes and not typer.confirm(f"Delete {output.clean(user.username)} ({user.status})?", err=True):
            raise typer.Exit(1)
        registry.delete(username, o.by())
    output.line(f"Deleted {user.username}.")


def _modify(username: str, status: str, as_json: bool) -> None:
    with opened() as o:
        user = o.registry().modify(username, {"status": status}, o.by())
    _print(user, as_json)


def _print(user: User, as_json: bool) -> None:
    if as_json:
        output.json_document(shown(user))
        return
    output.facts(
        (
            ("username", user.username),
            ("status", user.status),
            ("used", f"{output.size(user.used_traffic)} of {output.size(user.data_limit)}"),
            ("used ever", output.size(user.lifetime_used_traffic)),
            ("expires", _expiry(user)),
            ("reset", user.data_limit_reset_strategy),
            ("online", user.online_at),
            ("owner", user.admin.username if user.admin else None),
            ("note", user.note),
            ("created", user.created_at),
        )
    )


def shown(user: User) -> dict[str, Any]:
    """As the panel's API shows a user, without what gives access: no proxies, no links, no subscription address."""
    return {
        name: value for name, value in user.shown().items() if name not in ("proxies", "links", "subscription_url")
    } | {"admin": user.admin.username if user.admin else None}


def _expiry(user: User) -> str:
    if user.expire is None:
        return "never" if user.status != "on_hold" else "on hold"
    return output.local_time(datetime.fromtimestamp(user.expire, UTC))


def parsed_size(text: str | None) -> int | None:
    """Bytes of `10GB`, `512 MiB` or `1048576`; units are powers of 1024, as in the panel. Raises SettingError."""
    if text is None:
        return None
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise SettingError(
            f"--data-limit {ascii(text)[:60]} is not an amount; write 10GB, 512MB or bytes", code="usage"
        )
    power = "BKMGT".index((match[2] or "B")[0].upper())
    return int(float(match[1]) * 1024**power) if power else int(float(match[1]))


def parsed_expiry(text: str | None, now: datetime) -> int | None:
    """Unix seconds of a time, or of a span from now (30d, 12h, 5m, 10s). Raises SettingError."""
    if text is None:
        return None
    span = _SPAN.fullmatch(text.strip())
    if span:
        return int(now.timestamp()) + int(span[1]) * _SECONDS[span[2].lower()]
    at = time_option("--expire", text)
    assert at is not None
    return int(at.timestamp())
