"""Signing in and out, and how a visitor likes the pages: language and colours."""

from __future__ import annotations

from starlette.responses import Response

from marzhook import operations
from marzhook.dashboard import session
from marzhook.dashboard.languages import NAMES
from marzhook.dashboard.visit import ANYONE, SIGNED_IN, THEMES, Pages, Visit, local_path
from marzhook.errors import StoreBusyError, ThrottledError, UnauthorizedError, http_status
from marzhook.store import admins

pages = Pages()


@pages.get("/sign-in", who=ANYONE)
def form(visit: Visit) -> Response:
    if visit.admin:
        return visit.to(_going(visit))
    return visit.page("sign_in.html", username="", problem=None)


@pages.post("/sign-in", who=ANYONE, acts=False)
def sign_in(visit: Visit) -> Response:
    username = visit.given("username")
    # Not stripped: spaces may be part of a password.
    password = visit.form.get("password")
    try:
        token = operations.sign_in(
            visit.services,
            username,
            password if isinstance(password, str) else "",
            address=visit.request.client.host if visit.request.client else "",
        )
    except (UnauthorizedError, ThrottledError, StoreBusyError) as error:
        return visit.page("sign_in.html", http_status(error), username=username, problem=visit.problem(error)[0])
    response = visit.to(_going(visit))
    minutes = visit.services.settings.token_minutes
    session.set_cookie(response, visit.request, session.SESSION, token, seconds=minutes * 60 if minutes else None)
    return response


@pages.post("/sign-out", who=SIGNED_IN, acts=False)
def sign_out(visit: Visit) -> Response:
    services = visit.services
    # Whoever has read the cookie meanwhile cannot go on with it.
    services.database.transact(
        lambda tx: admins.void_token(tx, visit.bound_to, now=services.clock.now()), repeatable=True
    )
    response = visit.to("/sign-in")
    response.delete_cookie(session.SESSION, httponly=True, samesite="lax")
    return response


@pages.get("/look", who=ANYONE)
def look(visit: Visit) -> Response:
    """Takes `language` and `theme`, and goes back to where the visitor was. Harms nobody, so it needs no token."""
    response = visit.to(_going(visit))
    for name, choices in (("language", NAMES), ("theme", THEMES)):
        if visit.asked(name) in choices:
            session.set_cookie(response, visit.request, f"marzhook_{name}", visit.asked(name), seconds=session.YEAR)
    return response


def _going(visit: Visit) -> str:
    """Where the visitor was on his way to. It is in the address, also of the form, so that it is kept in another language and
    at a reload."""
    return local_path(visit.asked("next") or "/")
