"""What operators do with endpoints and deliveries, whichever face they do it through; the rules are here, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from math import ceil
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from marzhook import preflight
from marzhook.clock import Clock
from marzhook.condition import check_condition
from marzhook.delivery import DELIVERED, PENDING, SETTLED_STATES
from marzhook.destinations.exec import argv_of
from marzhook.destinations.kinds import KINDS as DESTINATIONS
from marzhook.destinations.template import ONLY_WEBHOOKS, check_template
from marzhook.endpoint import (
    DETAILS,
    FORMATS,
    KINDS,
    LOCAL_KINDS,
    REMOVED,
    SECRET_MODES,
    SIGNATURES,
    Endpoint,
    check_choice,
    masked_url,
)
from marzhook.errors import ConflictError, ForbiddenError, InvalidError, ThrottledError, UnauthorizedError
from marzhook.event import TEST_ACTION, Event, NewEvent, check_action, check_username
from marzhook.filter import check_actions, check_admins, check_usernames
from marzhook.runtime import Services, programs
from marzhook.settings import Settings
from marzhook.store import admins, endpoints, history, search
from marzhook.store.database import Database, Transaction
from marzhook.store.outbox import DeliveryFilter, Outbox
from marzhook.store.search import Counted
from marzhook.transport.commands import Programs
from marzhook.transport.guard import Guard

T = TypeVar("T")

MAX_NAME: Final = 200
MAX_SECRET: Final = 1024
TEST_USERNAME: Final = "marzhook_test"

REPLAY_CHUNK: Final = 5000
"""Deliveries moved in one transaction: publishing waits for no longer than one of these takes."""


CHOICES: Final = {"format": FORMATS, "secret_mode": SECRET_MODES, "detail": DETAILS, "signatures": SIGNATURES}
CHECKS: Final[Mapping[str, Callable[[object], Any]]] = {
    "actions": check_actions,
    "admins": check_admins,
    "usernames": check_usernames,
    "condition": check_condition,
    "template": check_template,
}
"""What an endpoint's filter and template have to pass."""
MAY_BE_NONE: Final = frozenset({"name", "secret", "rate_limit", *CHECKS})


class Works(Protocol):
    """What these need of a service, or of a command beside one."""

    @property
    def settings(self) -> Settings: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def database(self) -> Database: ...
    @property
    def outbox(self) -> Outbox: ...


# -- admins


def sign_in(services: Services, username: str, password: str, *, address: str) -> str:
    """A token for who comes from `address`. Slow on purpose: keep it off the event loop.

    Raises UnauthorizedError; ThrottledError after too many failures; StoreBusyError."""
    throttle = services.throttle
    _let_pass(throttle.wait(address, username))
    admin = admins.authenticate(services.database, username, password)
    _let_pass((throttle.succeeded if admin else throttle.failed)(address, username))
    if admin is None:
        raise UnauthorizedError("Incorrect username or password", code="wrong_password")
    key = services.database.look(lambda conn: services.database.meta(conn, "token_key"))
    assert key is not None
    return admins.issue_token(admin, key, now=services.clock.now(), minutes=services.settings.token_minutes)


def _let_pass(wait: float) -> None:
    if wait:
        seconds = ceil(wait)
        raise ThrottledError(
            f"too many failed sign-ins; try again in {seconds} seconds", code="too_many_sign_ins", seconds=seconds
        )


# -- endpoints


def checked(kind: str, values: Mapping[str, Any], *, before: Endpoint | None = None) -> dict[str, Any]:
    """Columns of an endpoint of this kind as a person gave them, to be stored, `before` being the one that they are to change.
    Raises InvalidError for the first wrong one.

    None means something as one of MAY_BE_NONE; elsewhere it is the same as missing.
    """
    check_choice("kind", kind, KINDS)
    found = {k: v for k, v in values.items() if v is not None or k in MAY_BE_NONE}
    spoken = DESTINATIONS[kind]
    if "url" in found:
        found["url"] = spoken.checked_url(found["url"])
    if "options" in found:
        found["options"] = spoken.checked_options(found["options"], before.options if before else {})
    for name, choices in CHOICES.items():
        if name in found:
            check_choice(name, found[name], choices)
    if found.get("name") is not None:
        if not 1 <= len(found["name"]) <= MAX_NAME or not found["name"].isprintable():
            raise InvalidError(f"name must have 1 to {MAX_NAME} printable characters", code="invalid_name")
        # Names go to logs and metrics, which anybody may read; URLs may hold tokens.
        found["name"] = name_shown(found["name"])
    secret = found.get("secret")
    if secret is not None and not (1 <= len(secret) <= MAX_SECRET and secret.isascii() and secret.isprintable()):
        raise InvalidError(
            f"secret must have 1 to {MAX_SECRET} printable ASCII characters: it travels in a header",
            code="invalid_secret",
        )
    for name, check in CHECKS.items():
        if found.get(name) is not None:
            found[name] = check(found[name])
    return found


def _check_templated(kind: str, columns: Mapping[str, Any]) -> None:
    if columns.get("template") is not None and kind != "webhook":
        told = f"template is for the kind webhook, not {kind}"
        raise InvalidError(told, code="invalid_template", reason=ONLY_WEBHOOKS)


def _permit(services: Works, kind: str, values: Mapping[str, Any], *, by_operator: bool) -> None:
    """What opens sockets by itself or runs programs is for those to make who own the machine, unless they allow more."""
    if kind in LOCAL_KINDS and not by_operator and kind not in services.settings.api_kinds:
        raise ForbiddenError(
            f"endpoints of the kind {kind} are the operator's: in the settings, with `marzhook endpoints create`, or where"
            f" MARZHOOK_API_KINDS names {kind}",
            code="kind_not_allowed",
        )
    if kind == "exec" and "url" in values:
        program = argv_of(values["url"])[0]
        if not Programs(programs(services.settings)).permit(program):
            raise ForbiddenError(
                f"{program} may not be run; MARZHOOK_EXEC_ALLOW names programs and folders", code="program_not_allowed"
            )


def _permit_address(services: Works, kind: str, url: str) -> None:
    """What the guard would never let a request out to is not taken either, nor what Apprise does not understand: a failed try
    is late to hear of it."""
    preflight.check(kind, url)
    host = "" if kind in LOCAL_KINDS else urlsplit(url).hostname or ""
    if reason := Guard(services.settings.allow_addresses).refusal(host):
        raise InvalidError(f"nothing is sent to {host}: {reason}", code="address_not_allowed", reason=reason)


def create_endpoint(
    services: Works, *, kind: str, url: str | None, enabled: bool, values: Mapping[str, Any], by_operator: bool = False
) -> Endpoint:
    """From now on it is owed every event that it wants. `values` are further columns. `by_operator`: by who owns the machine.
    Raises InvalidError; ForbiddenError for a kind, or a program, that the caller may not use."""
    columns = checked(kind, {"options": {}, **values, "url": url or ""}) | {"enabled": enabled}
    _permit(services, kind, columns, by_operator=by_operator)
    address = columns.pop("url")
    _permit_address(services, kind, address)
    _check_templated(kind, columns)
    if columns.get("name") is None:
        columns["name"] = masked_url(address)
    columns.setdefault("concurrency", services.settings.endpoint_concurrency)
    if not enabled:
        columns["disabled_reason"] = "made disabled"
    return _changed(
        services, lambda tx: endpoints.create(tx, now=services.clock.now(), kind=kind, url=address, **columns)
    )


def _changed(services: Works, work: Callable[[Transaction], T], *, repeatable: bool = False) -> T:
    """What `work` returns, which changes endpoints: whoever sends to them is told. As `Database.transact`."""

    def told(tx: Transaction) -> T:
        result = work(tx)
        tx.after_commit(services.outbox.wake)
        return result

    return services.database.transact(told, repeatable=repeatable)


UNSET: Final = frozenset({"actions", "admins", "usernames", "condition", "template", "rate_limit"})
"""What the settings say of no endpoint. Not for the API: bodies of one's own would reach addresses within the network."""


def change_endpoint(
    services: Works, endpoint_id: int, values: Mapping[str, Any], *, by_operator: bool = False
) -> Endpoint:
    """Change columns. Raises as `create_endpoint`, and NotFoundError; ConflictError for an endpoint of the settings, of which
    who owns the machine may change what is UNSET there."""
    before = services.database.look(lambda conn: endpoints.get(conn, endpoint_id))
    kind = before.kind  # it never changes
    columns = checked(kind, values, before=before)
    _permit(services, kind, columns, by_operator=by_operator)
    if before.guarded and columns.get("url", before.url) != before.url:
        _permit_address(services, kind, columns["url"])

    def change(tx: Transaction) -> Endpoint:
        before = endpoints.get(tx.conn, endpoint_id)
        if before.source == "environment" and not (by_operator and columns.keys() <= UNSET):
            raise ConflictError(
                f"endpoint {endpoint_id} comes from the settings; change {before.settings} and restart Marzhook",
                code="endpoint_from_environment",
            )
        _check_templated(before.kind, columns)
        named: dict[str, Any] = {}
        # One that is called by its address stays so.
        if columns.get("name", None if before.name == masked_url(before.url) else before.name) is None:
            named["name"] = masked_url(columns.get("url", before.url))
        if columns.get("url", before.url) != before.url:
            named["judged_from"] = services.clock.now()
        return endpoints.update(tx, endpoint_id, **{**columns, **named}) if columns else before

    return _changed(services, change)


def delete_endpoint(services: Services, endpoint_id: int) -> None:
    """Cancel what it is owed and take it off the list. Raises as `endpoints.delete`."""
    _changed(services, lambda tx: endpoints.delete(tx, endpoint_id, now=services.clock.now()))


def enable_endpoint(services: Services, endpoint_id: int, *, skip_backlog: bool = False) -> Endpoint:
    """Send again, what was kept for it first; `skip_backlog` cancels that. ConflictError where the settings dropped it."""

    def enable(tx: Transaction) -> Endpoint:
        before = endpoints.get(tx.conn, endpoint_id)
        if before.disabled_reason == REMOVED:
            setting = before.settings.split(", ")[0]
            raise ConflictError(
                f"the settings name endpoint {endpoint_id} no longer; put it back into {setting}",
                code="endpoint_from_environment",
            )
        now = services.clock.now()
        after = before if before.enabled else endpoints.enable(tx, endpoint_id, now=now)
        if skip_backlog and not before.enabled:
            endpoints.cancel_all(tx, endpoint_id, now=now)
        return after

    # One that is enabled, or disabled, already stays as it is.
    return _changed(services, enable, repeatable=True)


def disable_endpoint(services: Services, endpoint_id: int, reason: str) -> Endpoint:
    """Stop sending; what is owed, and what comes meanwhile, is kept for it."""

    def disable(tx: Transaction) -> Endpoint:
        before = endpoints.get(tx.conn, endpoint_id)
        # One that is disabled keeps its reason: "no longer in the settings" must not become "over the API".
        return endpoints.disable(tx, endpoint_id, reason) if before.enabled else before

    return _changed(services, disable, repeatable=True)


def rotate_secret(services: Services, endpoint_id: int) -> Endpoint:
    """A new signing secret; for 24 hours requests carry the signatures of both."""
    return _changed(services, lambda tx: endpoints.rotate_secret(tx, endpoint_id, now=services.clock.now()))


def test_endpoint(services: Services, endpoint_id: int) -> Event:
    """Publish a `marzhook_test` to this endpoint alone, whatever its filter. ConflictError where it is disabled."""

    def publish(tx: Transaction) -> Event:
        endpoint = endpoints.get(tx.conn, endpoint_id)
        if not endpoint.enabled:
            raise ConflictError(
                f"endpoint {endpoint_id} is disabled ({endpoint.disabled_reason}); enable it first",
                code="endpoint_disabled",
            )
        new = NewEvent(TEST_ACTION, TEST_USERNAME)
        [event_id] = services.outbox.publish(tx, [new], now=services.clock.now(), only_to=endpoint_id)
        return history.event(tx.conn, event_id)

    return services.database.transact(publish)


def name_shown(name: str) -> str:
    """Names that are URLs are masked like URLs."""
    try:
        return masked_url(name) if name.startswith(("http://", "https://")) else name
    except ValueError:
        return "…"  # no URL that we understand, so nobody knows what in it is secret


# -- deliveries


def retry(services: Works, endpoint_id: int, event_id: int, *, force: bool = False) -> None:
    """Tried at once, whatever a pause or an outage says; where it was settled, owed again. ConflictError where it was
    delivered and not `force`."""

    def owe(tx: Transaction) -> None:
        state = history.delivery(tx.conn, endpoint_id, event_id).state
        if state == DELIVERED and not force:
            raise ConflictError(
                "this was delivered already; add ?force=true to send it a second time", code="already_delivered"
            )
        now = services.clock.now()
        if state != PENDING:
            services.outbox.replay(tx, DeliveryFilter(endpoint_id, event_id, (state,)), now=now)
        if not services.outbox.hasten(tx, DeliveryFilter(endpoint_id, event_id), now=now):
            raise ConflictError(
                f"endpoint {endpoint_id} was deleted; nothing can be sent to it", code="endpoint_deleted"
            )

    services.database.transact(owe)


def cancel(services: Services, endpoint_id: int, event_id: int) -> None:
    """Owe it no longer; one that is on its way may still arrive. ConflictError where it is not pending."""

    def let_go(tx: Transaction) -> None:
        state = history.delivery(tx.conn, endpoint_id, event_id).state
        if state != PENDING:
            raise ConflictError(f"only a pending delivery can be cancelled; this one is {state}", code="not_pending")
        services.outbox.cancel(tx, DeliveryFilter(endpoint_id, event_id), now=services.clock.now())

    services.database.transact(let_go)


def replay_filter(
    *,
    endpoint_id: int | None = None,
    states: tuple[str, ...],
    actions: tuple[str, ...] | None = None,
    username: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> DeliveryFilter:
    """Which settled deliveries are meant; None means any. Raises InvalidError."""
    chosen = DeliveryFilter(
        endpoint_id=endpoint_id,
        states=tuple(check_choice("state", state, SETTLED_STATES) for state in states),
        actions=None if actions is None else tuple(check_action(action) for action in actions),
        username=None if username is None else check_username(username),
        since=since,
        until=until,
        alive=True,
    )
    if not chosen.states or chosen.actions == ():
        raise InvalidError("states and actions must not be empty; leave them out to mean any", code="invalid_filter")
    return chosen


def replayable(services: Services, which: DeliveryFilter) -> int:
    """How many deliveries a replay would take. Raises NotFoundError for an endpoint that does not exist."""
    with services.database.read() as conn:
        if which.endpoint_id is not None:
            endpoints.get(conn, which.endpoint_id)
        return history.count_settled(conn, which)


def replayable_within(services: Services, which: DeliveryFilter, seconds: float) -> Counted:
    """As `replayable`, as far as can be counted in this time: of ten million deliveries not all can in a moment."""
    with services.database.read() as conn:
        if which.endpoint_id is not None:
            endpoints.get(conn, which.endpoint_id)
        return search.count(conn, which, seconds=seconds, monotonic=services.clock.monotonic)


def replay(services: Services, which: DeliveryFilter) -> Iterator[int]:
    """Owe them again, a chunk at each step; yields how many each moved. Where it is left off, the rest stays as it was."""
    if which.endpoint_id is not None:
        with services.database.read() as conn:
            endpoints.get(conn, which.endpoint_id)
    began = services.clock.now()
    again = partial(services.outbox.replay, which=which, now=began, settled_before=began, limit=REPLAY_CHUNK)
    while True:
        count = services.database.transact(again)
        yield count
        if count < REPLAY_CHUNK:
            return
