"""The request that an endpoint gets for an event, as people look at it and copy it: without what is secret."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from markupsafe import Markup

from marzhook import trace_context
from marzhook.dashboard import words
from marzhook.dashboard.characters import unseen
from marzhook.dashboard.example import example
from marzhook.dashboard.visit import Visit
from marzhook.delivery import Delivery
from marzhook.destinations.kinds import destination
from marzhook.endpoint import Endpoint, masked_url
from marzhook.errors import InvalidError, RenderError
from marzhook.event import Event
from marzhook.preflight import trouble
from marzhook.request import Job
from marzhook.runtime import programs
from marzhook.signing import new_private_key, new_secret

SECRET_HEADERS: Final = frozenset({"x-webhook-secret", "webhook-signature"})
MASKED: Final = "***"
_ALGORITHMS: Final = {"v1": "HMAC-SHA256", "v1a": "ed25519"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A request without its secrets; or why there is none, in the reader's words and the program's."""

    message: str = ""
    """What people read where it arrives; empty: it is for programs."""
    first_line: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    curl: str = ""
    problem: tuple[str, str] | None = None
    masked: bool = False
    """Something in it is kept back, and has to be put in by who sends it."""
    note: str = ""
    """Why an event like this one would not be sent, or what is odd in what would be; empty: nothing."""


def preview(
    visit: Visit,
    endpoint: Endpoint,
    event: Event | None = None,
    tries: int = 0,
    at: datetime | None = None,
    *,
    number: int = 1,
) -> Shown:
    """What goes out for the event at a time (None: now), as the try of this `number`. The URL is masked as everywhere. Without
    an event: for one that could happen and is let pass, where it can be made.

    An event's credentials, which an endpoint with the detail `full` is sent, are left out all the same.
    """
    if event is None:
        event, part = example(endpoint, visit.who)
        shown = _shown(visit, endpoint, event, tries, at, number)
        return replace(shown, note=joined(words.unsent(visit.language, part), shown.note))
    return _shown(visit, endpoint, event._replace(full_json=""), tries, at, number)


def _shown(visit: Visit, endpoint: Endpoint, event: Event, tries: int, at: datetime | None, number: int) -> Shown:
    # Never the real secrets: what is not put in cannot come out.
    masked = replace(
        endpoint,
        secret=MASKED if endpoint.secret else None,
        signing_secret=new_secret(),
        previous_signing_secret=None,
        signing_key=None if endpoint.signatures == "v1" else new_private_key(),
        previous_signing_key=None,
    )
    now = at or visit.services.clock.now()
    try:
        target = destination(masked, instance=visit.site.instance)
        item, request = target.made(Delivery(endpoint.id, event, tries), now)
    except (RenderError, InvalidError) as error:
        # An address that is half typed is not the template's fault.
        told = error.__cause__ if isinstance(error.__cause__, InvalidError) else error
        return Shown(problem=visit.problem(told))
    message = target.readable(item)
    if isinstance(request, Job):
        # An alert is what Apprise makes of the message: nothing more is known.
        body = json.dumps(json.loads(item), ensure_ascii=False, indent=2) if endpoint.kind == "sql" else item
        return Shown(message) if message else Shown("", _masked(endpoint.url, web=False), body=body)
    if text := event.traceparent:
        own = trace_context.span_id(text, endpoint.id, event.id, number) if visit.services.spans else ""
        request = request._replace(lines=(*request.lines, *trace_context.lines(text, own)))
    headers = tuple((name, _form(value) if name in SECRET_HEADERS else value) for name, value in request.headers)
    url = _masked(endpoint.url, web=True)
    body = _seen(request.body.decode())
    kept_back = url != endpoint.url or any(name in SECRET_HEADERS for name, _ in headers)
    # Whatever a template names that is not there is null, as long as that is JSON.
    note = visit.language.gettext(words.NOTHING_MADE) if endpoint.template and item == "null" else ""
    return Shown(message, f"POST {url}", headers, body, _curl(url, headers, body), masked=kept_back, note=note)


def joined(*notes: str) -> Markup:
    """Several notes as one, without those that say nothing."""
    return Markup(" ").join(note for note in notes if note)


def troubled(visit: Visit, kind: str, url: str) -> str:
    """Why nothing could be sent there from this machine as it is now; "": nothing is known."""
    return words.obstacle(visit.language, trouble(kind, url, programs(visit.services.settings)))


def _form(value: str) -> str:
    """What a header that is secret looks like: the secret itself, masked already; what is made with one, as what it is."""
    if value == MASKED:
        return value
    schemes = [one.partition(",")[0] for one in value.split(" ") if "," in one]
    return " ".join(f"{one},<base64 {_ALGORITHMS[one]}>" for one in schemes) or "<hex HMAC-SHA256>"


def _masked(url: str, *, web: bool) -> str:
    """The address as people may see it; an ellipsis while it is half typed."""
    unknown = "https://…" if web else "…"
    try:
        return masked_url(url) if not web or urlsplit(url).hostname else unknown
    except ValueError:
        return unknown


def _seen(body: str) -> str:
    """The same JSON, to be copied from a page, which shows some characters by their number. They can only be in its strings,
    where JSON has another way to write them; but for the line's end of two characters, which is one here."""
    return "".join(json.dumps(c)[1:-1] if unseen(c) else c for c in body.replace("\r", ""))


def _curl(url: str, headers: tuple[tuple[str, str], ...], body: str) -> str:
    parts = ["curl -i -g", shlex.quote(url)]
    parts += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers]
    return " \\\n  ".join([*parts, f"--data-raw {shlex.quote(body)}"])
