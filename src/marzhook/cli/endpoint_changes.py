"""`marzhook endpoints create | edit | try`: what an endpoint gets, and what that comes to for an event."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from marzhook.cli import output
from marzhook.cli.open import Opened, choice_options, opened
from marzhook.endpoint import KINDS, Endpoint, masked_url
from marzhook.errors import ConditionError, RenderError, SettingError

if TYPE_CHECKING:
    from marzhook.event import Event
    from marzhook.preflight import Trouble

CLEARED: Final = ("name", "secret", "actions", "admins", "usernames", "condition", "template", "rate_limit")
"""What `--clear` takes away."""
STDIN: Final = "-"

Id = Annotated[int, typer.Argument(metavar="ID", min=1, max=2**62, help="The endpoint's number, as `list` shows it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str | None, typer.Option(help="What it is called in lists and logs. [default: its address]")]
Format = Annotated[str | None, typer.Option(metavar="event|list|standard", help="What its requests look like.")]
Detail = Annotated[str | None, typer.Option(metavar="none|safe|full", help="What follows the documented keys.")]
Secret = Annotated[str | None, typer.Option(metavar="TEXT", help="Sent in x-webhook-secret.")]
Actions = Annotated[list[str] | None, typer.Option("--action", help="Only this action; repeat for more.")]
Admins = Annotated[
    list[str] | None, typer.Option("--admin", help="Only this admin's users, and what this admin did; repeat for more.")
]
Usernames = Annotated[
    list[str] | None,
    typer.Option("--user", metavar="PATTERN", help="Only users like vip_*; '!test_*' leaves out; repeat for more."),
]
Condition = Annotated[
    str | None, typer.Option(metavar="JMESPATH", help="Only where this is true: \"user.status == 'active'\".")
]
Template = Annotated[
    str | None, typer.Option(metavar="FILE", help="Jinja that makes a webhook's JSON of each event; -: from stdin.")
]
Options = Annotated[
    str | None, typer.Option(metavar="JSON", help="What else the kind takes, all of it anew: '{\"chat\": -100123}'.")
]
RateLimit = Annotated[float | None, typer.Option(min=0.001, max=100_000, help="Requests a second, at the most.")]


def create(
    url: Annotated[str, typer.Argument(help="Its address; of a Telegram bot: the token; of exec: the command line.")],
    kind: Annotated[str, typer.Option(help=", ".join(KINDS) + ".")] = "webhook",
    name: Name = None,
    format: Format = None,
    detail: Detail = None,
    secret: Secret = None,
    action: Actions = None,
    admin: Admins = None,
    user: Usernames = None,
    condition: Condition = None,
    template: Template = None,
    rate_limit: RateLimit = None,
    options: Options = None,
    as_json: AsJson = False,
) -> None:
    """Make an endpoint. It is owed every event from now on that its filter lets pass."""
    from marzhook import operations
    from marzhook.cli.endpoints import shown

    values = _given(name, format, detail, secret, action, admin, user, condition, template, rate_limit, options)
    with opened() as o:
        made = operations.create_endpoint(o, kind=kind, url=url, enabled=True, values=values, by_operator=True)
        found = _trouble(o, made)
    if as_json:
        output.json_document(shown(made) | {"warning": found and found.told, "signing_secret": made.signing_secret})
        return
    output.line(f"Endpoint {made.id} is made: {masked_url(made.url)}")
    _warn(found)
    if made.kind == "webhook":
        output.line(f"Its signing secret, shown this once: {made.signing_secret}")


def edit(
    endpoint_id: Id,
    url: Annotated[str | None, typer.Option(help="Another address.")] = None,
    name: Name = None,
    format: Format = None,
    detail: Detail = None,
    secret: Secret = None,
    action: Actions = None,
    admin: Admins = None,
    user: Usernames = None,
    condition: Condition = None,
    template: Template = None,
    rate_limit: RateLimit = None,
    options: Options = None,
    clear: Annotated[
        list[str] | None, typer.Option(metavar="|".join(CLEARED), help="Take this away; repeat for more.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change what is given; a new filter holds for events from now on."""
    from marzhook import operations
    from marzhook.cli.endpoints import shown

    values = _given(name, format, detail, secret, action, admin, user, condition, template, rate_limit, options)
    cleared = choice_options("--clear", clear, CLEARED) or ()
    both = sorted(values.keys() & set(cleared))
    if both:
        raise SettingError(f"--clear {both[0]} and a new value for it exclude each other", code="usage")
    values |= dict.fromkeys(cleared) | ({} if url is None else {"url": url})
    if not values:
        raise SettingError("nothing is to be changed; see `marzhook endpoints edit --help`", code="usage")
    with opened() as o:
        after = operations.change_endpoint(o, endpoint_id, values, by_operator=True)
        found = _trouble(o, after)
    if as_json:
        output.json_document(shown(after) | {"warning": found and found.told})
        return
    output.line(f"Endpoint {endpoint_id} is changed: {', '.join(sorted(values))}.")
    _warn(found)


def try_(
    endpoint_id: Id,
    event_id: Annotated[int, typer.Option("--event", metavar="ID", min=1, max=2**62, help="Of what happened already.")],
    as_json: AsJson = False,
) -> None:
    """Say whether the endpoint would be owed an event, and show the body that it would get. Nothing is sent."""
    from marzhook.store import endpoints, history

    with opened() as o:
        with o.database.read() as conn:
            endpoint, event = endpoints.get(conn, endpoint_id), history.event(conn, event_id)
            instance = o.database.meta(conn, "instance") or ""
        owed, reason = _verdict(endpoint, event)
        body, problem = _body(o, endpoint, event, instance)
    if as_json:
        output.json_document(
            {
                "endpoint_id": endpoint_id,
                "event_id": event_id,
                "owed": owed,
                "reason": reason,
                "body": body,
                "problem": problem,
            }
        )
    else:
        output.line(
            f"Event {event_id} ({event.action} of {event.username}) is {'' if owed else 'not '}for endpoint {endpoint_id}."
        )
        if reason is not None:
            output.line(reason)
        output.line(f"No body can be made: {problem}" if body is None else f"\n{body}")
    if problem is not None:
        raise typer.Exit(1)


def _given(
    name: str | None,
    format: str | None,
    detail: str | None,
    secret: str | None,
    action: list[str] | None,
    admin: list[str] | None,
    user: list[str] | None,
    condition: str | None,
    template: str | None,
    rate_limit: float | None,
    options: str | None,
) -> dict[str, Any]:
    """The options that were given, as an endpoint's columns."""
    values = {
        "name": name, "format": format, "detail": detail, "secret": secret, "actions": action or None,
        "admins": admin or None, "usernames": user or None, "condition": condition,
        "template": None if template is None else _read(template), "rate_limit": rate_limit,
        "options": None if options is None else _object(options),
    }  # fmt: skip
    return {key: value for key, value in values.items() if value is not None}


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise SettingError(f"--options {ascii(text)[:60]} is no JSON object", code="usage")
    return value


def _read(template: str) -> str:
    if template == STDIN:
        return sys.stdin.read()
    try:
        return Path(template).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise SettingError(f"--template {ascii(template)[:200]} cannot be read: {reason}", code="usage") from None


def _trouble(o: Opened, endpoint: Endpoint) -> Trouble | None:
    from marzhook.preflight import trouble
    from marzhook.runtime import programs

    return trouble(endpoint.kind, endpoint.url, programs(o.settings))


def _warn(found: Trouble | None) -> None:
    if found is not None:
        output.line(f"Nothing can be sent to it from this machine: {found.told}. {found.mend}".strip())


def _verdict(endpoint: Endpoint, event: Event) -> tuple[bool, str | None]:
    from marzhook.event import NewEvent
    from marzhook.filter import Offered

    one = Offered(NewEvent(event.action, event.username, event.detail), event.enqueued_at, event.detail_json)
    try:
        part = endpoint.filter.refused_by(one)
    except ConditionError as error:
        return True, f"Its condition cannot be evaluated, so it is delivered all the same: {error}."
    return part is None, None if part is None else f"Its filter does not let it pass: {part}."


def _body(o: Opened, endpoint: Endpoint, event: Event, instance: str) -> tuple[str | None, str | None]:
    """As on the dashboard without credentials, which an endpoint with the detail `full` is sent."""
    from marzhook.delivery import Delivery
    from marzhook.destinations.kinds import destination
    from marzhook.request import Request

    target, now = destination(endpoint, instance=instance), o.clock.now()
    try:
        item, request = target.made(Delivery(endpoint.id, event._replace(full_json="")), now)
    except RenderError as error:
        return None, str(error)
    return request.body.decode() if isinstance(request, Request) else item, None
