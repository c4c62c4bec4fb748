"""A registry and a review on a real database: fixtures for the tests of sources/.

A test module asks for them with `pytest_plugins = ["registries"]`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from marzhook.admin import Admin
from marzhook.event import PANEL_ACTIONS
from marzhook.sources.registry import Registry
from marzhook.sources.review import Review
from marzhook.store import admins, schema
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.telemetry import Metrics
from marzhook.testing import FakeClock
from marzhook.user import Thresholds, User


@dataclass
class World:
    """A registry, its review, and what they left in the database."""

    database: Database
    outbox: Outbox
    clock: FakeClock
    registry: Registry
    review: Review
    metrics: Metrics

    @property
    def at(self) -> int:
        """Unix seconds."""
        return int(self.clock.now().timestamp())

    def add(self, username: str = "alice", by: Admin | None = None, **fields: Any) -> User:
        return self.registry.create({"username": username, **fields}, by)

    def admin(self, username: str, *, is_sudo: bool = False) -> Admin:
        with self.database.write() as tx:
            return admins.create(tx, username=username, password_hash="-", is_sudo=is_sudo, now=self.clock.now())

    def events(self) -> list[tuple[str, str]]:
        """(action, username) of all events so far."""
        with self.database.read() as conn:
            return [(row.action, row.username) for row in conn.execute(schema.events.select().order_by("id"))]

    def actions(self, username: str = "alice") -> list[str]:
        return [action for action, name in self.events() if name == username]

    def last(self) -> tuple[float, dict[str, Any]]:
        """When the last event happened, and its detail."""
        with self.database.read() as conn:
            row = conn.execute(schema.events.select().order_by(schema.events.c.id.desc()).limit(1)).one()
        return row.enqueued_at, json.loads(row.detail)

    def sql(self, statement: str, *values: Any) -> list[Any]:
        with self.database.write() as tx:
            result = tx.conn.exec_driver_sql(statement, values)
            return list(result.all()) if result.returns_rows else []

    def errors(self) -> float:
        text = self.metrics.render()[0].decode()
        return float(text.split("\nmarzhook_review_errors_total ")[1].split("\n")[0])


def build(database: Database, outbox: Outbox, clock: FakeClock, thresholds: Thresholds | None = None) -> World:
    metrics = Metrics()
    thresholds = thresholds or Thresholds()
    values: dict[str, Any] = {
        "published_actions": frozenset(PANEL_ACTIONS), "thresholds": thresholds, "metrics": metrics,
    }  # fmt: skip
    registry = Registry(database, outbox, clock, **values)
    return World(database, outbox, clock, registry, Review(database, outbox, clock, **values), metrics)


@pytest.fixture
def world(database: Database, outbox: Outbox, clock: FakeClock) -> World:
    return build(database, outbox, clock)
