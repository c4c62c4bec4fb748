"""Endpoints: the list, one endpoint's page, and making and changing one, with the request that it will get."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.responses import Response

from marzhook import operations
from marzhook.dashboard import options, session, words
from marzhook.dashboard.chart import AGAIN
from marzhook.dashboard.events import called
from marzhook.dashboard.overview import percentile
from marzhook.dashboard.preview import Shown, joined, preview, troubled
from marzhook.dashboard.visit import Pages, Visit, number
from marzhook.destinations.kinds import KINDS as DESTINATIONS
from marzhook.endpoint import (
    DETAILS,
    FORMATS,
    KINDS,
    LOCAL_KINDS,
    REMOVED,
    SECRET_MODES,
    SECRET_URLS,
    SIGNATURES,
    Endpoint,
    masked_url,
)
from marzhook.errors import ForbiddenError, InvalidError, MarzhookError, http_status
from marzhook.event import PANEL_ACTIONS
from marzhook.signing import public_part
from marzhook.store import endpoints, history, inbox, outcomes
from marzhook.store.database import Transaction
from marzhook.store.outbox import DeliveryFilter

pages = Pages()

HIDDEN = (*SECRET_URLS, "discord", "telegram")
"""Kinds whose address is a password: a form does not show it, and leaves it as it is where none is written."""
OF_WEBHOOKS: Final = ("format", "secret_mode", "signatures", "template")
"""Fields that no other kind has: what stands in them says nothing where one was chosen since."""
SHOWN = 20
"""An endpoint's newest deliveries on its page."""
_BETWEEN: Final = re.compile("[,،，、;؛；\n]")
"""What stands between the names of a list, as each language's keyboard has it."""


@pages.get("/endpoints")
def list_(visit: Visit) -> Response:
    with visit.services.database.read() as conn:
        owed = outcomes.owed(conn)
        found = [
            (
                one,
                words.health(visit.language, one, outcomes.last_tries(conn, one.id)),
                owed.get(one.id, outcomes.Owed()),
            )
            for one in endpoints.all_endpoints(conn)
        ]
        inbox_used = inbox.address(visit.services.database, conn) is not None
    names = called(visit.language, (row[0] for row in found))
    return visit.page("endpoints.html", rows=found, names=names, inbox_used=inbox_used)


@pages.get("/endpoints/{endpoint_id:int}")
def show(visit: Visit) -> Response:
    given = visit.request.cookies.get(session.ONCE, "")
    response = _page(visit, visit.id("endpoint_id"), given)
    if given:
        response.delete_cookie(session.ONCE, path=visit.request.url.path, httponly=True, samesite="lax")
    return response


@pages.get("/endpoints/new")
def new(visit: Visit) -> Response:
    return _form(visit, None, _blank(visit))


@pages.post("/endpoints/new")
def create(visit: Visit) -> Response:
    try:
        made = operations.create_endpoint(
            visit.services, kind=visit.given("kind"), url=visit.given("url"), enabled=True, values=_values(visit, None)
        )
    except (InvalidError, ForbiddenError) as error:
        return _form(visit, None, _as_written(visit), error)
    return _with_secret(visit, made)


@pages.get("/endpoints/{endpoint_id:int}/edit")
def edit(visit: Visit) -> Response:
    endpoint = _get(visit)
    if endpoint.source != "api":  # its own page says so, and shows no way here
        return visit.to(f"/endpoints/{endpoint.id}")
    return _form(visit, endpoint, _fields_of(endpoint))


@pages.post("/endpoints/{endpoint_id:int}/edit")
def change(visit: Visit) -> Response:
    endpoint = _get(visit)
    try:
        operations.change_endpoint(visit.services, endpoint.id, _values(visit, endpoint))
    except (InvalidError, ForbiddenError) as error:
        return _form(visit, endpoint, _as_written(visit), error)
    return visit.to(f"/endpoints/{endpoint.id}")


@pages.post("/endpoints/preview", acts=False)
def preview_fragment(visit: Visit) -> Response:
    """What the form that is being filled in would send: a part of a page, for the script."""
    return visit.page("preview.html", shown=_preview_of(visit, visit.given("kind"), _as_written(visit)))


@pages.post("/endpoints/{endpoint_id:int}/pause")
def pause(visit: Visit) -> Response:
    operations.disable_endpoint(visit.services, visit.id("endpoint_id"), "on the dashboard")
    return visit.to(f"/endpoints/{visit.id('endpoint_id')}")


@pages.post("/endpoints/{endpoint_id:int}/resume")
def resume(visit: Visit) -> Response:
    skip = visit.given("backlog") == "skip"
    operations.enable_endpoint(visit.services, visit.id("endpoint_id"), skip_backlog=skip)
    return visit.to(f"/endpoints/{visit.id('endpoint_id')}")


@pages.post("/endpoints/{endpoint_id:int}/rotate")
def rotate(visit: Visit) -> Response:
    return _with_secret(visit, operations.rotate_secret(visit.services, visit.id("endpoint_id")))


@pages.post("/endpoints/{endpoint_id:int}/test")
def send_test(visit: Visit) -> Response:
    event = operations.test_endpoint(visit.services, visit.id("endpoint_id"))
    return visit.to(f"/events/{event.id}")


@pages.post("/endpoints/{endpoint_id:int}/delete")
def delete(visit: Visit) -> Response:
    services = visit.services
    endpoint = _get(visit)

    def out_of_use(tx: Transaction) -> None:
        if endpoint.url == inbox.address(services.database, tx.conn):
            # It is no setting's: taken out of use here, it may go.
            inbox.remember(services.database, tx, "")
            endpoints.disable(tx, endpoint.id, REMOVED)

    services.database.transact(out_of_use)
    operations.delete_endpoint(services, endpoint.id)
    return visit.to("/endpoints")


# -- parts of the above


def _get(visit: Visit) -> Endpoint:
    with visit.services.database.read() as conn:
        return endpoints.get(conn, visit.id("endpoint_id"))


def _with_secret(visit: Visit, endpoint: Endpoint) -> Response:
    """Go on to the endpoint's page, which shows its signing secret once; sent again, the form would make another one."""
    path = f"/endpoints/{endpoint.id}"
    response = visit.to(path)
    until = int(visit.services.clock.now().timestamp()) + session.ONCE_SECONDS
    value = session.once(endpoint.signing_secret, visit.bound_to, until)
    session.set_cookie(response, visit.request, session.ONCE, value, seconds=session.ONCE_SECONDS, path=path)
    return response


def _page(visit: Visit, endpoint_id: int, once: str) -> Response:
    database, now = visit.services.database, visit.services.clock.now().timestamp()
    with database.read() as conn:
        endpoint = endpoints.get(conn, endpoint_id)
        tries = outcomes.last_tries(conn, endpoint_id)
        owed = outcomes.owed(conn, endpoint_id).get(endpoint_id, outcomes.Owed())
        rows = history.deliveries(conn, DeliveryFilter(endpoint_id=endpoint_id), limit=SHOWN)
        is_inbox = endpoint.url == inbox.address(database, conn)
        chart = visit.site.histories.get(conn, endpoint_id)
        latencies = outcomes.latencies(conn, endpoint_id)
    is_new = session.is_once(once, endpoint.signing_secret, visit.bound_to, now)
    return visit.page(
        "endpoint.html",
        chart=chart,
        again=visit.site.pulse.worth(AGAIN),
        latencies=latencies,
        percentile=percentile,
        endpoint=endpoint,
        health=words.health(visit.language, endpoint, tries),
        trouble=troubled(visit, endpoint.kind, endpoint.url),
        tries=tries[:100],
        owed=owed,
        rows=rows,
        secret=endpoint.signing_secret if is_new and endpoint.kind == "webhook" else None,
        is_inbox=is_inbox,
        overlapping=endpoint.previous_expires_at is not None and now < endpoint.previous_expires_at.timestamp(),
        public_key=public_part(endpoint.signing_key) if endpoint.signing_key else None,
        shown=preview(visit, endpoint),
    )


def _form(
    visit: Visit, endpoint: Endpoint | None, fields: dict[str, Any], error: MarzhookError | None = None
) -> Response:
    kind = endpoint.kind if endpoint else fields["kind"]
    return visit.page(
        "endpoint_form.html",
        http_status(error) if error else 200,
        endpoint=endpoint,
        masked=masked_url(endpoint.url) if endpoint and _is_secret(endpoint) else "",
        fields=fields,
        before=visit.shown({**fields, **fields["options"]}),
        problem=visit.problem(error) if error else None,
        wrong=options.place(kind, error) if error else "",
        kinds=[kind for kind in KINDS if kind not in LOCAL_KINDS or kind in visit.services.settings.api_kinds],
        actions=_choices(endpoint),
        # Asked for until nothing else is wrong; then once by itself, and whoever saves that form wants none.
        lost=bool(error and kind == "webhook" and error.code != "lost_secret")
        and bool(visit.given("secret") or visit.given("lost_secret")),
        options=options.FIELDS,
        shown=_preview_of(visit, kind, fields),
    )


def _is_secret(endpoint: Endpoint) -> bool:
    """A form does not show its address, or not whole, and leaves it as it is where none is written."""
    parts = urlsplit(endpoint.url)
    return endpoint.kind in HIDDEN or bool(parts.query or "@" in parts.netloc)


def _choices(endpoint: Endpoint | None) -> list[str]:
    """The actions that a form offers: also such as no panel knows, where the endpoint has them."""
    others = (endpoint.actions or frozenset()) - set(PANEL_ACTIONS) if endpoint else frozenset[str]()
    return [*PANEL_ACTIONS, *sorted(others)]


def _blank(visit: Visit) -> dict[str, Any]:
    return {
        "kind": "webhook", "url": "", "name": "", "format": "event", "secret_mode": "auto", "signatures": "v1",
        "detail": "safe",
        "all_actions": True, "actions": [], "ordered": True, "rate_limit": "",
        "concurrency": str(visit.services.settings.endpoint_concurrency), "secret": "", "has_secret": False,
        "admins": "", "usernames": "", "condition": "", "template": "",
        "options": options.written({}),
    }  # fmt: skip


def _fields_of(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "kind": endpoint.kind, "url": "" if _is_secret(endpoint) else endpoint.url,
        "name": "" if endpoint.name == masked_url(endpoint.url) else endpoint.name, "format": endpoint.format,
        "secret_mode": endpoint.secret_mode, "signatures": endpoint.signatures, "detail": endpoint.detail,
        "all_actions": endpoint.actions is None,
        "actions": [action for action in _choices(endpoint) if action in (endpoint.actions or ())],
        "ordered": endpoint.ordered,
        "rate_limit": "" if endpoint.rate_limit is None else f"{endpoint.rate_limit:.10g}",
        "concurrency": str(endpoint.concurrency), "secret": "", "has_secret": endpoint.secret is not None,
        "admins": ", ".join(sorted(endpoint.admins or ())), "usernames": ", ".join(endpoint.usernames or ()),
        "condition": endpoint.condition or "", "template": endpoint.template or "",
        "options": options.written(endpoint.options),
    }  # fmt: skip


def _as_written(visit: Visit) -> dict[str, Any]:
    """The form as it was sent, to be shown again. A secret does not come back."""
    names = (
        "kind", "url", "name", "format", "secret_mode", "signatures", "detail", "rate_limit", "concurrency", "admins",
        "usernames", "condition", "template",
    )  # fmt: skip
    return {name: visit.given(name) for name in names} | {
        "all_actions": _means_all(visit),
        "actions": visit.given_all("actions"),
        "ordered": visit.given("ordered") == "yes",
        "options": {name: visit.given(name) for name in options.NAMES},
        "secret": "",
        "has_secret": bool(visit.given("secret")) or visit.given("keep_secret") == "yes",
    }


def _means_all(visit: Visit) -> bool:
    """Whether all actions are chosen, and none was ticked besides. Ticks that the form had already are left from before."""
    ticked = visit.given_all("actions")
    return visit.given("which") != "some" and not (ticked and visit.changed({"actions": ticked}))


def _of_kind(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Without what only webhooks have, where it is none."""
    return fields if kind == "webhook" else fields | dict.fromkeys(OF_WEBHOOKS, "") | {"has_secret": False}


def _values(visit: Visit, endpoint: Endpoint | None) -> dict[str, Any]:
    """The form as columns: those that somebody has written something else in. Raises InvalidError."""
    if visit.given("which") == "all" and not _means_all(visit):
        raise InvalidError("all actions are chosen, and some of them", code="both_actions", field="actions")
    kind = endpoint.kind if endpoint else visit.given("kind")
    fields = _of_kind(kind, _as_written(visit))
    changed = visit.changed({**fields, **fields["options"]})
    if "all_actions" in changed:
        changed.add("actions")
    values = {name: read(fields) for name, read in _READ.items() if name in changed}
    if "url" in changed and endpoint and (fields["url"] or not _is_secret(endpoint)):
        values["url"] = fields["url"]
    if changed.intersection(options.NAMES):
        values["options"] = options.read(kind, visit.given, endpoint.options if endpoint else {}, changed)
    if kind != "webhook":
        return values
    if visit.given("lost_secret") and not visit.given("secret"):
        raise InvalidError("the secret did not come back with the form", code="lost_secret", field="secret")
    if visit.given("secret") or ("has_secret" in changed and visit.given("keep_secret") != "yes"):
        values["secret"] = visit.given("secret") or None
    return values


def _text(fields: dict[str, Any], name: str) -> str | None:
    return fields[name].strip() or None


def _listed(fields: dict[str, Any], name: str) -> list[str] | None:
    parts = [part.strip() for part in _BETWEEN.split(fields[name]) if part.strip()]
    if any(len(part.split()) > 1 for part in parts):
        raise InvalidError(f"{name}: a comma is missing, or a name has a space", code="spaced_names", field=name)
    return parts or None


def _concurrency(fields: dict[str, Any]) -> int | None:
    value = number(fields["concurrency"], field="concurrency")
    if value is not None and (not 1 <= value <= 1000 or value % 1):
        reason = words.N_("a whole number from 1 to 1000 is expected")
        code = "invalid_number" if value % 1 else "number_out_of_range"
        raise InvalidError(reason, code=code, field="concurrency", reason=reason)
    return None if value is None else int(value)


def _rate_limit(fields: dict[str, Any]) -> float | None:
    value = number(fields["rate_limit"], field="rate_limit")
    if value is not None and not 0 < value <= 100_000:
        reason = words.N_("a number of more than 0 is expected, at most 100000")
        raise InvalidError(reason, code="number_out_of_range", field="rate_limit", reason=reason)
    return value


_NARROWING: Final[Mapping[str, Callable[[dict[str, Any]], Any]]] = {
    "admins": partial(_listed, name="admins"),
    "usernames": partial(_listed, name="usernames"),
    "condition": partial(_text, name="condition"),
    "template": partial(_text, name="template"),
}
"""What of a filter is written as text, and the template, as columns."""
_READ: Final[Mapping[str, Callable[[dict[str, Any]], Any]]] = {
    **_NARROWING,
    **{name: partial(_text, name=name) for name in ("name", "format", "secret_mode", "signatures", "detail")},
    "actions": lambda fields: None if fields["all_actions"] else fields["actions"],
    "ordered": lambda fields: fields["ordered"],
    "concurrency": _concurrency,
    "rate_limit": _rate_limit,
}


def _preview_of(visit: Visit, kind: str, fields: dict[str, Any]) -> Any:
    """The request that these fields lead to, as far as they make sense already; or what is wrong with what is written."""
    kind = kind if kind in KINDS else "webhook"
    fields = _of_kind(kind, fields)
    try:
        narrowing = operations.checked(kind, {name: read(fields) for name, read in _NARROWING.items()})
        chosen = options.read(kind, fields["options"].__getitem__, {})
        if any(fields["options"].values()):
            chosen = DESTINATIONS[kind].checked_options(chosen)
    except InvalidError as error:
        return Shown(problem=visit.problem(error))
    shown = preview(
        visit,
        Endpoint(
            options=chosen,
            id=0,
            name="",
            kind=kind,
            url=fields["url"] or ("…" if kind in LOCAL_KINDS else "https://…"),
            format=fields["format"] if fields["format"] in FORMATS else "event",
            secret="…" if fields["has_secret"] else None,
            secret_mode=fields["secret_mode"] if fields["secret_mode"] in SECRET_MODES else "auto",
            signatures=fields["signatures"] if fields["signatures"] in SIGNATURES else "v1",
            detail=fields["detail"] if fields["detail"] in DETAILS else "safe",
            **narrowing,
            actions=None if fields["all_actions"] else frozenset(fields["actions"]) & set(PANEL_ACTIONS),
        ),
    )
    if shown.problem or not fields["url"]:
        return shown
    return replace(shown, note=joined(troubled(visit, kind, fields["url"]), shown.note))
