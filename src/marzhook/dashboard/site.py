"""The dashboard as a whole: what its pages share, and how it becomes part of the application."""

from __future__ import annotations

import threading
from functools import cache, cached_property
from http import HTTPStatus

from fastapi import FastAPI
from jinja2 import Environment
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from marzhook.dashboard import (
    chart,
    config,
    endpoints,
    events,
    inbox,
    live,
    overview,
    replay,
    sign_in,
    static,
    users,
)
from marzhook.dashboard.languages import NAMES, Language, load
from marzhook.dashboard.rendering import environment
from marzhook.dashboard.visit import not_there, routes
from marzhook.runtime import Services


class Site:
    """The pages over these services, which somebody else starts and stops. `close` it before the server stops."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.languages, self.assets, self.templates = _furniture()
        self.names = NAMES
        self.inbox = inbox.Inbox(services.clock)
        self.pulse = live.Pulse(services.database, also=lambda: (self.inbox.count, self.replays.running))
        self.figures = overview.Figures(services)
        self.histories = chart.Histories(services)
        self.replays = replay.Replays(services)
        self.refused = set[str]()
        """Keys of forms that have changed nothing, where that could not be noted (`once.py`)."""
        self._pages: list[Route] = []
        self._prepared = False

    @cached_property
    def instance(self) -> str:
        """What this database's requests are told from others' by. It never changes."""
        with self.services.database.read() as conn:
            return self.services.database.meta(conn, "instance") or ""

    def routes(self) -> list[Route]:
        modules = (sign_in, overview, endpoints, events, replay, users, config, inbox)
        self._pages = routes(self, [page for module in modules for page in module.pages.all])
        return [
            *self._pages,
            Route("/inbox/{token}", inbox.receiver(self), methods=["POST"]),
            Route("/live", live.stream(self)),
            Route("/static/{name}", self.assets.serve),
        ]

    def page_above(self, path: str) -> str:
        """The nearest page above this path, or at it, that can be opened, and not only be sent a form."""
        while path and not any("GET" in (page.methods or ()) and page.path_regex.match(path) for page in self._pages):
            path = path.rpartition("/")[0]
        return path or "/"

    def prepare(self) -> None:
        """Compile the templates of the pages that come next while somebody looks at the first one. Who never looks at any
        pays nothing."""
        if not self._prepared:
            self._prepared = True
            threading.Thread(target=_compiled, name="templates", daemon=True).start()

    def close(self) -> None:
        """End the open pages' streams and a replay that is running: a stop need not wait for them."""
        self.pulse.close()
        self.replays.close()


@cache
def _furniture() -> tuple[dict[str, Language], static.Assets, dict[str, Environment]]:
    """What all sites of a process have in common, because it depends on the package's files alone."""
    languages, assets = load(), static.Assets()
    templates = {code: environment(language) for code, language in languages.items()}
    for each in templates.values():
        each.globals["asset"] = assets.url
    return languages, assets, templates


@cache
def _compiled() -> None:
    """All templates, in one language: the others have it from there."""
    _languages, _assets, templates = _furniture()
    some = next(iter(templates.values()))
    for name in some.list_templates():
        some.get_template(name)


def install(app: FastAPI, services: Services) -> Site:
    """Add the dashboard to the application, from `/` on."""
    site = Site(services)
    app.router.routes.extend(site.routes())
    as_json = app.exception_handlers[HTTPException]

    async def answered(request: Request, error: Exception) -> Response:
        """What is not there, as a page to browsers and as JSON to programs. An address that only takes forms leads to the
        page above it: browsers show it after a form was refused."""
        assert isinstance(error, HTTPException)
        if not _is_page(request):
            return await as_json(request, error)  # type: ignore[no-any-return, misc]
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            return RedirectResponse(site.page_above(request.url.path), HTTPStatus.SEE_OTHER)
        return await run_in_threadpool(not_there, site, request, error.status_code)

    app.add_exception_handler(HTTPException, answered)
    return site


def _is_page(request: Request) -> bool:
    """Whether a person asks, with a browser."""
    asked = request.method in ("GET", "HEAD") and "text/html" in request.headers.get("accept", "")
    return asked and not request.url.path.startswith(("/api/", "/ingest/", "/static/"))
