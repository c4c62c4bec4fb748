"""A panel to be followed: our own users API on a real server; a test decides when it fails and what happens meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from marzhook import settings
from marzhook.admin import Admin
from marzhook.api.app import create_app
from marzhook.api.server import Server
from marzhook.runtime import Services, build_services
from marzhook.sources.registry import Registry
from marzhook.store import admins
from marzhook.testing import FakeClock

PASSWORD = "toor-toor"


class PanelServer:
    """`url`; `registry`, to change users; `asked`, the paths so far; `before`, called with each path before it is answered,
    which may return a status to answer instead."""

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        chosen = settings.load({"MARZHOOK_DATABASE_URL": f"sqlite:///{folder}/panel.db"}, None)
        self.services: Services = build_services(chosen, clock=clock)
        with self.services.database.write() as tx:
            admins.ensure_sudo(tx, "root", PASSWORD, self.services.clock.now())
        with self.services.database.read() as conn:
            [self.admin] = admins.find(conn)
        self.asked: list[str] = []
        self.open = 0
        self.most_open = 0
        self.before: Callable[[str], int | None] = lambda path: None
        self._app = create_app(self.services)

        async def serve(scope: Any, receive: Any, send: Any) -> None:
            await self._serve(scope, receive, send)

        self._server = Server(serve, "127.0.0.1", 0)
        self._server.start()
        self.url = self._server.address

    @property
    def registry(self) -> Registry:
        return self.services.registry

    @property
    def root(self) -> Admin:
        return self.admin

    def add(self, *names: str, **fields: Any) -> None:
        for name in names:
            self.registry.create(
                {"username": name, "proxies": {"vless": {"id": f"id-{name}", "flow": ""}}, **fields}, self.root
            )

    def shown(self, username: str) -> dict[str, Any]:
        """As the panel's API and webhook show him."""
        return json.loads(json.dumps(self.registry.get(username, self.root).shown()))  # type: ignore[no-any-return]

    def close(self) -> None:
        self._server.stop()
        self.services.database.close()

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        self.asked.append(path)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            status = self.before(path)
            if status is None:
                await self._app(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/html")]})
            await send({"type": "http.response.body", "body": b"<h1>Sorry</h1>"})
        finally:
            self.open -= 1


@contextmanager
def panel_server(folder: Path, clock: FakeClock) -> Iterator[PanelServer]:
    server = PanelServer(folder, clock)
    try:
        yield server
    finally:
        server.close()


def deleting(panel: PanelServer, *names: str, then: str = "") -> Callable[[str], None]:
    """For `before`: delete these users between the first page and the second, and make one anew."""
    pages = iter((False, True))

    def between(path: str) -> None:
        if path == "/api/users" and next(pages, False):
            for name in names:
                panel.registry.delete(name, panel.root)
            if then:
                panel.add(then)

    return between
