"""The dashboard over a real database file, without a network: fixtures for the tests named test_dashboard_*.

A test module asks for them with `pytest_plugins = ["dashboard_client"]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from api_client import Api
from marzhook.api.app import create_app
from marzhook.dashboard.session import SESSION
from marzhook.dashboard.site import Site, install
from marzhook.runtime import Services
from marzhook.store import admins
from marzhook.testing import FakeClock

PASSWORD = "correct horse"
_TOKEN = re.compile(r'name="form_token" value="([0-9a-f]{64})"')


class Form(HTMLParser):
    """What the page's form that sends a field of this name holds, and would send: lines end in two characters, as browsers
    end them."""

    def __init__(self, page: str, name: str) -> None:
        super().__init__()
        self.fields: dict[str, Any] = {}
        self._name, self._select, self._area, self._done = name, "", "", False
        self.feed(page)
        assert self._done, f"no form sends {name}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = dict(attrs)
        name, value = has.get("name") or "", has.get("value") or ""
        match tag:
            case "form" if not self._done:
                self.fields = {}
            case _ if self._done:
                pass
            case "textarea":
                self._area = name
                self.fields[name] = ""
            case "select":
                self._select = name
            case "option" if "selected" in has or self._select not in self.fields:
                self.fields[self._select] = value
            case "input" if has.get("type") not in ("checkbox", "radio") or "checked" in has:
                self.fields[name] = value

    def handle_data(self, data: str) -> None:
        if self._area and not self._done:
            self.fields[self._area] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea" and not self._done:
            # Right behind the start of the element a line's end is not part of what it holds.
            self.fields[self._area] = self.fields[self._area].removeprefix("\n").replace("\n", "\r\n")
            self._area = ""
        self._done = self._done or (tag == "form" and self._name in self.fields)


@cache
def _hashed() -> str:
    """Once for all: it is slow on purpose."""
    return admins.hash_password(PASSWORD)


@dataclass
class Browser:
    """A browser without JavaScript. Redirects are not followed: where they lead is part of what is tested."""

    client: TestClient
    api: Api
    site: Site

    @property
    def services(self) -> Services:
        return self.api.services

    def get(self, path: str, **headers: str) -> httpx2.Response:
        got: httpx2.Response = self.client.get(path, headers=headers)
        return got

    def page(self, path: str, status: int = 200, **headers: str) -> str:
        """The page's text."""
        got = self.get(path, **headers)
        assert got.status_code == status, got.text
        return got.text

    def token(self, path: str) -> str:
        """What the forms of this page carry."""
        found = _TOKEN.search(self.get(path).text)
        assert found, path
        return found[1]

    def post(self, path: str, fields: Mapping[str, Any] | None = None, *, on: str = "/users") -> httpx2.Response:
        """Send a form that is on the page `on`."""
        data = {"form_token": self.token(on), **(fields or {})}
        got: httpx2.Response = self.client.post(path, data=data)
        return got

    def sends(self, page: str, name: str, action: str, **fields: str) -> Callable[[], httpx2.Response]:
        """The form of this page that sends a field of this name, filled in: each call sends the very same."""
        data = Form(self.page(page).partition("<main")[2], name).fields | fields
        return lambda: self.client.post(action, data=data)

    def sign_in(self, username: str = "root", password: str = PASSWORD) -> httpx2.Response:
        return self.post("/sign-in", {"username": username, "password": password}, on="/sign-in")

    def admin(self, username: str, *, is_sudo: bool) -> None:
        with self.services.database.write() as tx:
            admins.create(tx, username=username, password_hash=_hashed(), is_sudo=is_sudo, now=self.api.clock.now())

    def another(self) -> Browser:
        """Somebody else's browser."""
        return Browser(TestClient(self.client.app, follow_redirects=False), self.api, self.site)


@pytest.fixture
def stranger(services: Services, clock: FakeClock) -> Iterator[Browser]:
    """Nobody is signed in; `root` could."""
    app = create_app(services)
    site = install(app, services)
    with TestClient(app, follow_redirects=False) as client, TestClient(app) as programs:
        api = Api(programs, services, clock)
        api.client.headers.update(api.admin("boss", is_sudo=True))
        browser = Browser(client, api, site)
        browser.admin("root", is_sudo=True)
        yield browser
    site.close()


@pytest.fixture
def browser(stranger: Browser) -> Browser:
    """Signed in as the sudo admin `root`."""
    # Without the form: checking a password is slow on purpose, and most tests are not about it.
    with stranger.services.database.read() as conn:
        admin = admins.get(conn, "root")
        key = stranger.services.database.meta(conn, "token_key")
    assert key is not None
    token = admins.issue_token(admin, key, now=stranger.api.clock.now(), minutes=1440)
    stranger.client.cookies.set(SESSION, token, domain="testserver.local")
    return stranger
