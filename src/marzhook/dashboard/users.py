"""Users: the list, one user with his events, and what an admin does with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Final

from starlette.responses import Response

from marzhook.clock import from_unix
from marzhook.dashboard import words
from marzhook.dashboard.visit import SIGNED_IN, Pages, Visit, for_field, moment, number, one_of
from marzhook.errors import InvalidError, InvalidUserError, MarzhookError, http_status
from marzhook.event import check_username
from marzhook.sources.user_fields import MAX_BYTES
from marzhook.store import history, outcomes, user_lists
from marzhook.user import STATUSES, User

pages = Pages()

PAGE: Final = 50
GIB: Final = 1024**3
EVENTS: Final = 20


@pages.get("/users", who=SIGNED_IN)
def list_(visit: Visit) -> Response:
    with visit.services.database.read() as conn:
        found = user_lists.page(
            conn,
            begins=visit.understood("search", check_username) or "",
            after=visit.understood("after", check_username) or "",
            status=visit.understood("status", one_of(STATUSES)),
            admin_id=None if visit.who.is_sudo else visit.who.id,
            limit=PAGE,
        )
    following = found[-1].username if len(found) == PAGE else None
    statuses = [(status, words.status(visit.language, status)) for status in STATUSES]
    return visit.page("users.html", 422 if visit.wrong else 200, users=found, following=following, statuses=statuses)


@pages.get("/users/new", who=SIGNED_IN)
def new(visit: Visit) -> Response:
    return _form(visit, None, {})


@pages.post("/users/new", who=SIGNED_IN)
def create(visit: Visit) -> Response:
    try:
        fields = _fields(visit, _READ) | {"username": visit.given("username")}
        made = visit.services.registry.create({k: v for k, v in fields.items() if v is not None}, visit.who)
    except MarzhookError as error:
        return _form(visit, None, _as_written(visit), error)
    return visit.to(f"/user/{made.username}")


@pages.get("/user/{username}", who=SIGNED_IN)
def show(visit: Visit) -> Response:
    return _page(visit)


@pages.get("/user/{username}/edit", who=SIGNED_IN)
def edit(visit: Visit) -> Response:
    user = _get(visit)
    return _form(visit, user, _fields_of(visit, user))


@pages.post("/user/{username}/edit", who=SIGNED_IN)
def change(visit: Visit) -> Response:
    user = _get(visit)
    try:
        fields = _fields(visit, visit.changed(_as_written(visit)))
        # What is empty here means unlimited; to the registry that is 0, and null is "as it was".
        fields = {k: 0 if v is None and k in ("data_limit", "expire") else v for k, v in fields.items()}
        visit.services.registry.modify(user.username, fields, visit.who)
    except MarzhookError as error:
        return _form(visit, user, _as_written(visit), error)
    return visit.to(f"/user/{user.username}")


@pages.post("/user/{username}/charge")
def charge(visit: Visit) -> Response:
    user = _get(visit)
    try:
        if (amount := _bytes(visit, "amount")) is None:
            raise InvalidError("an amount is missing", code="invalid_number", field="amount")
        visit.services.registry.charge([(user.username, amount)])
    except InvalidError as error:
        return _page(visit, error)
    return visit.to(f"/user/{user.username}")


@pages.post("/user/{username}/disable", who=SIGNED_IN)
def disable(visit: Visit) -> Response:
    visit.services.registry.modify(_get(visit).username, {"status": "disabled"}, visit.who)
    return _back(visit)


@pages.post("/user/{username}/enable", who=SIGNED_IN)
def enable(visit: Visit) -> Response:
    visit.services.registry.modify(_get(visit).username, {"status": "active"}, visit.who)
    return _back(visit)


@pages.post("/user/{username}/reset", who=SIGNED_IN)
def reset(visit: Visit) -> Response:
    visit.services.registry.reset(_get(visit).username, visit.who)
    return _back(visit)


@pages.post("/user/{username}/delete", who=SIGNED_IN)
def delete(visit: Visit) -> Response:
    visit.services.registry.delete(_get(visit).username, visit.who)
    return visit.to("/users")


# -- parts of the above


def _get(visit: Visit) -> User:
    return visit.services.registry.get(visit.request.path_params["username"], visit.who)


def _back(visit: Visit) -> Response:
    return visit.to(f"/user/{visit.request.path_params['username']}")


def _page(visit: Visit, error: MarzhookError | None = None) -> Response:
    user = _get(visit)
    events: list[Any] = []
    # A name may have been somebody else's user before: events are for those who may see all.
    if visit.who.is_sudo:
        with visit.services.database.read() as conn:
            found = history.events(conn, username=user.username, limit=EVENTS)
            states = outcomes.states_of(conn, [event.id for event in found])
        events = [(event, states[event.id]) for event in found]
    return visit.page(
        "user.html",
        http_status(error) if error else 200,
        user=user,
        events=events,
        problem=visit.problem(error) if error else None,
    )


def _form(visit: Visit, user: User | None, fields: dict[str, Any], error: MarzhookError | None = None) -> Response:
    wrong = _wrong(visit, error) if error else {}
    blank = {"username": "", "data_limit": "", "expire": "", "note": "", "data_limit_reset_strategy": "no_reset"}
    return visit.page(
        "user_form.html",
        http_status(error) if error else 200,
        user=user,
        fields=blank | fields,
        wrong=wrong,
        problem=visit.problem(error) if error and not wrong else None,
    )


def _wrong(visit: Visit, error: MarzhookError) -> dict[str, str]:
    """What is wrong with which field, in the reader's language; with one that the form does not have: told above it."""
    named = "username" if error.code == "user_exists" else getattr(error, "field", "")
    if named:
        return {named: visit.problem(error)[0]}
    fields = error.fields if isinstance(error, InvalidUserError) else {}
    return {name: text for name, said in fields.items() if (text := words.field(visit.language, name, said))}


def _as_written(visit: Visit) -> dict[str, Any]:
    names = ("username", "data_limit", "expire", "note", "data_limit_reset_strategy")
    return {name: visit.given(name) for name in names} | {"expire": for_field(visit.given("expire"))}


def _bytes(visit: Visit, name: str) -> int | None:
    """A field in GiB, or in the unit that is written there, as bytes; None: left empty. Raises InvalidError, also for what
    would be less than a byte: 0 may mean something else."""
    text, unit = visit.language.measured(visit.given(name), "GiB")
    if (amount := number(text, field=name)) is None:
        return None
    if amount and not 1 <= amount * unit <= MAX_BYTES:
        raise InvalidError(f"expected 0, or 1 byte to {MAX_BYTES // GIB} GiB", code="number_out_of_range", field=name)
    return round(amount * unit)


def _expire(visit: Visit) -> int | None:
    until = moment(visit.given("expire"), field="expire")
    return None if until is None else int(until.timestamp())


_READ: Final[Mapping[str, Callable[[Visit], Any]]] = {
    "data_limit": partial(_bytes, name="data_limit"),
    "expire": _expire,
    "note": lambda visit: visit.given("note"),
    "data_limit_reset_strategy": lambda visit: visit.given("data_limit_reset_strategy") or "no_reset",
}


def _fields(visit: Visit, names: Collection[str]) -> dict[str, Any]:
    """These fields of the form as the registry takes them; None: left empty. Raises InvalidError."""
    return {name: read(visit) for name, read in _READ.items() if name in names}


def _in_gib(visit: Visit, size: int | None) -> str:
    """As a field holds it; what is too little to be read in GiB, in bytes."""
    text = "" if size is None else f"{size / GIB:.10g}"
    return f"{size} {visit.language.gettext('B')}" if "e" in text else text


def _fields_of(visit: Visit, user: User) -> dict[str, Any]:
    return {
        "username": user.username,
        "data_limit": _in_gib(visit, user.data_limit),
        "expire": "" if user.expire is None else for_field(from_unix(user.expire).isoformat()),
        "note": user.note or "",
        "data_limit_reset_strategy": user.data_limit_reset_strategy,
    }
