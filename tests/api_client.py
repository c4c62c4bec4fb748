"""The API over a real database, without a network: fixtures for the tests named test_api_*.

A test module asks for them with `pytest_plugins = ["api_client"]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from marzhook import settings
from marzhook.api.app import create_app
from marzhook.runtime import Services, build_services
from marzhook.store import admins, api_keys, endpoints
from marzhook.testing import FakeClock
from settling import settlement

PASSWORD = "correct horse"


@dataclass
class Api:
    """A client that is logged in as the sudo admin `boss`, and what stands behind the API."""

    client: TestClient
    services: Services
    clock: FakeClock

    def call(self, method: str, path: str, **values: Any) -> httpx2.Response:
        answered: httpx2.Response = self.client.request(method, path, **values)
        return answered

    def get(self, path: str, **values: Any) -> httpx2.Response:
        return self.call("GET", path, **values)

    def post(self, path: str, **values: Any) -> httpx2.Response:
        return self.call("POST", path, **values)

    def over(self, services: Services) -> Api:
        """The same login, over other services on the same database."""
        return Api(TestClient(create_app(services), headers=dict(self.client.headers)), services, self.clock)

    def key(self, *scopes: str) -> dict[str, str]:
        """Headers with a new API key that has these scopes."""
        with self.services.database.write() as tx:
            _, text = api_keys.create(tx, name="test", scopes=scopes, now=self.clock.now())
        return {"Authorization": f"Bearer {text}"}

    def admin(self, username: str, *, is_sudo: bool) -> dict[str, str]:
        """Headers with the token of a new admin."""
        with self.services.database.write() as tx:
            made = admins.create(tx, username=username, password_hash="-", is_sudo=is_sudo, now=self.clock.now())
            key = self.services.database.meta(tx.conn, "token_key")
        assert key is not None
        token = admins.issue_token(made, key, now=self.clock.now(), minutes=0)
        return {"Authorization": f"Bearer {token}"}

    def endpoint(self, url: str = "https://shop.example/hook", **values: Any) -> int:
        """A new endpoint's id."""
        with self.services.database.write() as tx:
            made = endpoints.create(tx, now=self.clock.now(), kind="webhook", url=url, **values)
        return made.id

    def publish(self, action: str = "user_updated", username: str = "alice", **detail: Any) -> int:
        """A new event's id."""
        answered = self.post("/api/v1/events", json={"action": action, "username": username, **detail})
        assert answered.status_code == 202, answered.text
        return int(answered.json()["events"][0]["id"])

    def settle(self, endpoint_id: int, event_id: int, state: str, status: int = 503) -> None:
        """One try of a pending delivery has been made; `state` is what became of it."""
        [delivery] = self.services.outbox.load(endpoint_id, [event_id])
        self.services.outbox.settle([settlement(delivery, state, status, self.clock)], now=self.clock.now())


@pytest.fixture
def services(database_settings: dict[str, str], clock: FakeClock) -> Iterator[Services]:
    services = build_services(settings.load(database_settings, env_file=None), clock=clock)
    yield services
    services.database.close()


@pytest.fixture
def api(services: Services, clock: FakeClock) -> Iterator[Api]:
    with TestClient(create_app(services)) as client:
        api = Api(client, services, clock)
        client.headers.update(api.admin("boss", is_sudo=True))
        yield api
