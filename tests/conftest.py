from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from dispatching import House
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.testing import FakeClock
from receivers import Receiver

# How fast an example is made or passes says something about the machine, and nothing about the product.
# CI decides about a change, so it looks at the same examples each time; new ones are searched for on people's machines.
settings.register_profile(
    "here", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("here")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/marzhook.db")
    database.upgrade()
    yield database
    database.close()


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database)


@pytest.fixture
def house(database: Database, outbox: Outbox) -> House:
    return House(database, outbox)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver
