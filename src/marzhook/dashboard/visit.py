"""One request for a page: who asks, in which language, with which form; and what every answer has in common."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from math import inf, isnan, nan
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from marzhook import errors
from marzhook.admin import Admin
from marzhook.dashboard import session, words
from marzhook.dashboard.languages import Language, choose
from marzhook.dashboard.once import once
from marzhook.runtime import Services
from marzhook.store import admins
from marzhook.store.database import patiently

if TYPE_CHECKING:
    from marzhook.dashboard.site import Site

log = logging.getLogger(__name__)

_T = TypeVar("_T")

MAX_ID: Final = 2**63 - 1
THEMES: Final = ("auto", "light", "dark")
ANYONE, SIGNED_IN, SUDO = "anyone", "signed in", "sudo"
_OWN: Final = ("asks", "form_token", "form_key")
"""Fields that each page's forms have of their own."""

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
        " frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(slots=True)
class Visit:
    """What a page's function gets."""

    site: Site
    request: Request
    language: Language
    theme: str
    admin: Admin | None
    bound_to: str = field(repr=False)
    """The cookie that this visitor's forms are bound to."""
    form: FormData
    wrong: dict[str, str] = field(default_factory=dict)
    """What is wrong with which parameter of the query, in the reader's language."""
    state: str = ""
    """Of what the page is made from, where it is one that follows along; "" where that cannot be said."""
    form_key: str = field(default_factory=session.new_binding)
    """What this page's forms act once with."""

    @property
    def services(self) -> Services:
        return self.site.services

    @property
    def who(self) -> Admin:
        """Who is signed in. Only for pages that nobody else gets to."""
        assert self.admin is not None
        return self.admin

    def id(self, name: str) -> int:
        """A number of the path. Raises NotFoundError for one that no row can have."""
        value = int(self.request.path_params[name])
        if not 1 <= value <= MAX_ID:
            raise errors.NotFoundError("no row has this number")
        return value

    # -- what was sent

    def asked(self, name: str) -> str:
        """A parameter of the query; "" where it is missing."""
        return self.request.query_params.get(name, "").strip()

    def understood(self, name: str, read: Callable[[str], _T], text: str | None = None) -> _T | None:
        """A parameter of the query, or one `text` of several of its name, read; None where it is missing, or makes no sense:
        then `wrong` says so."""
        text = self.asked(name) if text is None else text
        try:
            return read(text) if text else None
        except errors.InvalidError as error:
            self.wrong[name] = self.problem(error)[0]
            return None

    def given(self, name: str) -> str:
        """A field of the form; "" where it is missing. Browsers end lines in two characters; here it is one."""
        value = self.form.get(name)
        return _plain(value) if isinstance(value, str) else ""

    def given_all(self, name: str) -> list[str]:
        return [value for value in self.form.getlist(name) if isinstance(value, str)]

    def changed(self, fields: Mapping[str, Any]) -> set[str]:
        """The names of the fields that somebody has written something else in than the form had shown there, whatever may have
        been stored meanwhile."""
        try:
            shown = json.loads(self.given("shown"))
        except (ValueError, RecursionError):
            shown = None
        shown = shown if isinstance(shown, dict) else {}
        return {name for name, value in fields.items() if name not in shown or shown[name] != value}

    # -- answers

    def shown(self, fields: Mapping[str, Any]) -> str:
        """What the form shows, for `changed`: one that is shown again was not shown anew."""
        texts = {name: _plain(value) if isinstance(value, str) else value for name, value in fields.items()}
        return self.given("shown") or json.dumps(texts)

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """The template, filled in."""
        return HTMLResponse(self.part(template, visit=self, **values), status)

    def part(self, template: str, **values: Any) -> Markup:
        """The template's text; where it is to serve other visits too, it gets nothing of this one."""
        return Markup(self.site.templates[self.language.code].get_template(template).render(**values))  # noqa: S704 - it escapes

    def to(self, path: str, **query: Any) -> Response:
        """Go on there (after a form: with GET)."""
        return RedirectResponse(path + (f"?{urlencode(query, doseq=True)}" if query else ""), HTTPStatus.SEE_OTHER)

    @property
    def form_token(self) -> str:
        return session.form_token(self.bound_to)

    @property
    def asked_for(self) -> str:
        """What was asked for, with its query: where the very form that was sent is sent again."""
        path, query = self.request.url.path, self.request.url.query
        return path + (f"?{query}" if query else "")

    @property
    def here(self) -> str:
        """This page with its query, to come back to; in the answer to a form, the nearest page that is one to come back to,
        with the query that the form was sent with."""
        path, query = self.request.url.path, self.request.url.query
        if self.request.method == "POST":
            path = self.site.page_above(path)
        return path + (f"?{query}" if query else "")

    def query(self, **changed: Any) -> str:
        """This page's query with some parameters changed; None takes one away."""
        kept = [(name, value) for name, value in self.request.query_params.multi_items() if name not in changed]
        return "?" + urlencode([(name, value) for name, value in (*kept, *changed.items()) if value not in (None, "")])

    def problem(self, error: errors.MarzhookError) -> tuple[str, str]:
        return words.problem(self.language, error)


Handler = Callable[[Visit], Response]


@dataclass(frozen=True, slots=True)
class Page:
    path: str
    method: str
    who: str
    handler: Handler
    acts: bool


class Pages:
    """A module's pages, by path and method."""

    def __init__(self) -> None:
        self.all: list[Page] = []

    def get(self, path: str, *, who: str = SUDO) -> Callable[[Handler], Handler]:
        return self._add(path, "GET", who, acts=False)

    def post(self, path: str, *, who: str = SUDO, acts: bool = True) -> Callable[[Handler], Handler]:
        """`acts`: whether it changes anything that must not change twice."""
        return self._add(path, "POST", who, acts=acts)

    def _add(self, path: str, method: str, who: str, *, acts: bool) -> Callable[[Handler], Handler]:
        def added(handler: Handler) -> Handler:
            self.all.append(Page(path, method, who, handler, acts))
            return handler

        return added


def routes(site: Site, found: list[Page]) -> list[Route]:
    """Routes for an application. Pages of one path share a route, so that a wrong method is told from a wrong path."""
    paths: dict[str, dict[str, Page]] = {}
    for page in found:
        paths.setdefault(page.path, {})[page.method] = page
    return [Route(path, _endpoint(site, pages), methods=[*pages]) for path, pages in paths.items()]


def _endpoint(site: Site, pages: Mapping[str, Page]) -> Callable[[Request], Any]:
    async def answered(request: Request) -> Response:
        page = pages["POST" if request.method == "POST" else "GET"]
        form = await request.form(max_files=0, max_fields=200) if request.method == "POST" else FormData()
        return await run_in_threadpool(_answer, site, page, request, form)

    return answered


def _answer(site: Site, page: Page, request: Request, form: FormData) -> Response:
    visit = unknown(site, request, form)
    fresh = False
    try:
        recognise(visit)
        fresh = not visit.bound_to
        if fresh:
            visit.bound_to = session.new_binding()
        response = _handled(visit, page)
    except errors.MarzhookError as error:
        response = error_page(visit, error)
    except Exception:
        log.exception("%s %s failed", request.method, request.url.path)
        response = error_page(visit, errors.MarzhookError("see the log", code="internal"))
    if fresh and page.who == ANYONE:
        session.set_cookie(response, request, session.FORM, visit.bound_to, seconds=None)
    # `no-store`, so that the button "back" of a shared computer shows nothing after signing out.
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers.update(HEADERS)
    visit.site.prepare()
    return response


def _handled(visit: Visit, page: Page) -> Response:
    if page.who != ANYONE and visit.admin is None:
        # Whoever has sent a form comes back to its page, but not to what was typed: that may be anything, and of anybody.
        unsent = {"unsent": "yes"} if page.acts else {}
        return visit.to("/sign-in", **({"next": visit.here} if visit.here != "/" else {}), **unsent)
    # The form to sign in may be older than the session that another tab has begun.
    bound_to = {visit.bound_to, visit.request.cookies.get(session.FORM, "") if page.who == ANYONE else ""}
    if page.method == "POST" and not any(session.is_ours(one, visit.form.get("form_token")) for one in bound_to):
        raise errors.ForbiddenError("the form's token is missing or out of date", code="form_expired")
    if page.who == SUDO and not visit.who.is_sudo:
        if visit.request.url.path == "/":
            return visit.to("/users")
        raise errors.ForbiddenError("only sudo admins may see this page")
    if page.who != ANYONE and visit.who.is_sudo and page.method == "GET":
        visit.state = visit.site.pulse.state
    if page.method == "POST" and (question := visit.given("asks")):
        # The script has not asked it, and taken it out: there was none, or it had not come yet.
        fields = [(n, v) for n, v in visit.form.multi_items() if isinstance(v, str) and n not in _OWN]
        return visit.page("sure.html", question=question, fields=fields)
    act = partial(page.handler, visit)
    if page.acts:
        return once(visit, act)
    # What a form has changed must not be changed a second time because its answer could not be made.
    return act() if page.method == "POST" else patiently(act)


def begin(site: Site, request: Request, form: FormData) -> Visit:
    """The visit, with whom its cookies say that it is. Raises what `recognise` does."""
    visit = unknown(site, request, form)
    recognise(visit)
    return visit


def recognise(visit: Visit) -> None:
    """Whom the cookies say that it is. Raises StoreBusyError, DatabaseError."""
    if token := visit.request.cookies.get(session.SESSION, ""):
        look = partial(admins.admin_of_token, token=token, now=visit.services.clock.now())
        visit.admin = visit.services.database.look(look)
        if visit.admin:
            visit.bound_to = token


def unknown(site: Site, request: Request, form: FormData) -> Visit:
    """The visit of whoever it is."""
    cookies = request.cookies
    code = choose(cookies.get("marzhook_language"), request.headers.get("accept-language", ""))
    theme = cookies.get("marzhook_theme", "")
    return Visit(
        site=site,
        request=request,
        language=site.languages[code],
        theme=theme if theme in THEMES else "auto",
        admin=None,
        bound_to=cookies.get(session.FORM, ""),
        form=form,
    )


def error_page(visit: Visit, error: errors.MarzhookError) -> Response:
    what, detail = visit.problem(error)
    if isinstance(error, errors.StoreBusyError | errors.DatabaseError) and error.code != "database_unreachable":
        log.error("%s: %s", error.code, error)
    return visit.page("error.html", errors.http_status(error), what=what, detail=detail)


def not_there(site: Site, request: Request, status: int) -> Response:
    """The page for an address that is none."""
    visit = unknown(site, request, FormData())
    # Who it is only decides whether there are links to the other pages: what is not there is said without the database, too.
    with suppress(errors.MarzhookError):
        recognise(visit)
    response = error_page(visit, errors.NotFoundError("there is no such page"))
    response.status_code = status
    response.headers["Cache-Control"] = "no-store"
    response.headers.update(HEADERS)
    return response


# -- reading fields


def _plain(text: str) -> str:
    """As it was written; a browser ends the lines of what it sends in two characters."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


_THOUSANDS: Final = re.compile(r"(?<=\d)[٬\s](?=\d{3}(?!\d))")
# In English 1,000 is a thousand, elsewhere it is one. 0,125 can be read in one way only.
_AMBIGUOUS: Final = re.compile(r"[+-]?(?![0٠۰]+,)\d+,\d{3}(?!\d)")


def number(text: str, *, field: str = "") -> float | None:
    """A decimal number, in any script's digits, with a point or a comma, and thousands set off by spaces or `٬`; None: nothing
    was written. Raises InvalidError, which names the `field`."""
    if not text:
        return None
    if _AMBIGUOUS.match(text):
        raise errors.InvalidError(
            f"{ascii(text)[:40]} could mean thousands or a fraction", code="ambiguous_number", field=field
        )
    try:
        value = float(_THOUSANDS.sub("", text).replace("٫", ".").replace(",", "."))
    except ValueError:
        value = nan
    if not 0 <= value < inf:
        code = "invalid_number" if isnan(value) else "number_out_of_range"
        raise errors.InvalidError(f"{ascii(text)[:40]} is not a number of 0 or more", code=code, field=field)
    return value


def moment(text: str, *, field: str = "") -> datetime | None:
    """A date or a time of a date field, which is UTC unless it names its zone; None: nothing was written. Raises InvalidError,
    which names the `field`."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise errors.InvalidError(
            f"{ascii(text)[:40]} is not a date like 2026-01-31", code="invalid_time", field=field
        ) from None


def one_of(choices: Collection[str]) -> Callable[[str], str]:
    """Reads what must be one of these. Raises InvalidError."""

    def read(text: str) -> str:
        if text not in choices:
            raise errors.InvalidError(f"{ascii(text)[:40]} is no choice", code="invalid_choice")
        return text

    return read


def for_field(text: str) -> str:
    """A moment as a date field holds it, which knows no zone: in UTC; what is none stays as it is."""
    try:
        at = moment(text)
    except errors.InvalidError:
        return text
    return at.replace(tzinfo=None).isoformat(timespec="seconds") if at else ""


def local_path(text: str) -> str:
    """A path of this site, to go on to; "/" for anything that could lead elsewhere."""
    safe = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if safe else "/"
