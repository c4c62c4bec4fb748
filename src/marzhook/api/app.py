"""The HTTP API: the panel's routes, Marzhook's own, and health."""

from __future__ import annotations

from fastapi import FastAPI

from marzhook import __version__
from marzhook.api import (
    admins,
    deliveries,
    docs,
    endpoints,
    errors,
    events,
    health,
    ingest,
    keys,
    marzban_users,
    replay,
    tracing,
    usage,
    workers,
)
from marzhook.runtime import Services

DESCRIPTION = """\
Delivers a panel's user events to webhooks, and loses none.

`/api/user…` and `/api/admin…` speak the panel's own API; `/api/v1/…` is Marzhook's. Both take
`Authorization: Bearer <token>`: a token from `POST /api/admin/token`, or for `/api/v1` an API key (`mzk_…`).
Errors are `{"detail": …, "code": …}`.
"""


def create_app(services: Services) -> FastAPI:
    """The application over these services, which somebody else starts and stops."""
    app = FastAPI(title="Marzhook", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None)
    app.state.services = services
    errors.install(app)
    app.add_middleware(tracing.Traced)
    for face in (admins, marzban_users, events, usage, endpoints, deliveries, replay, workers, keys, ingest, health):
        # Not `include_router`, which would make every route anew: half of a start, and of most tests.
        app.router.routes.extend(face.router.routes)
    docs.install(app)
    return app
