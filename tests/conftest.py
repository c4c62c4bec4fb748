from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from selenium.webdriver.remote.webdriver import WebDriver

from chromium import chromium
from command_line import made
from dispatching import House
from lending import Lender
from marzhook.store.database import Database
from marzhook.store.outbox import Outbox
from marzhook.testing import FakeClock
from postgresql import Server
from receivers import Receiver
from workers import Start, WorkerProcess

# How fast an example is made or passes says something about the machine, and nothing about the product.
# CI decides about a change, so it looks at the same examples each time; new ones are searched for on people's machines.
settings.register_profile(
    "here", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("here")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """More than cores: a test waits, for a process to start or a receiver to hang up, as long as it works."""
    return len(os.sched_getaffinity(0)) + 2


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


BACKENDS = ("sqlite", "postgresql")
SECRET_KEY = base64.b64encode(bytes(32)).decode()


def pytest_configure(config: pytest.Config) -> None:
    for backend in BACKENDS:
        config.addinivalue_line("markers", f"{backend}: about this one itself; other tests of the store run on both")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        alone = [name for name in BACKENDS if metafunc.definition.get_closest_marker(name)]
        metafunc.parametrize("backend", alone or BACKENDS)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A server for the whole run."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def template(postgresql: Server) -> Iterator[str]:
    """The name of a database that was migrated, to be copied."""
    with postgresql.database() as name:
        database = Database.open(postgresql.url(name), secret_keys=[SECRET_KEY])
        database.upgrade()
        database.close()
        yield name


@pytest.fixture(scope="session")
def lender(postgresql: Server, template: str) -> Lender:
    return Lender(postgresql, template)


@pytest.fixture
def database_settings(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """What a service's environment says of a database of the test's own, which is at the newest schema."""
    if backend == "sqlite":
        made(tmp_path)
        yield {"MARZHOOK_DATABASE_URL": f"sqlite:///{tmp_path}/marzhook.db"}
        return
    server: Server = request.getfixturevalue("postgresql")
    lender: Lender = request.getfixturevalue("lender")
    with lender.lent() as name:
        yield {"MARZHOOK_DATABASE_URL": server.url(name), "MARZHOOK_SECRET_KEY": SECRET_KEY}


@pytest.fixture
def reopen(database_settings: dict[str, str]) -> Iterator[Callable[..., Database]]:
    """Open the test's database once more, as another process would."""
    opened: list[Database] = []

    def reopen(**values: float) -> Database:
        keys = [SECRET_KEY] if "MARZHOOK_SECRET_KEY" in database_settings else []
        opened.append(Database.open(database_settings["MARZHOOK_DATABASE_URL"], secret_keys=keys, **values))
        return opened[-1]

    yield reopen
    for database in opened:
        database.close()


@pytest.fixture
def database(reopen: Callable[..., Database]) -> Database:
    database = reopen()
    database.upgrade()
    return database


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database)


@pytest.fixture
def house(database: Database, outbox: Outbox) -> House:
    return House(database, outbox)


@pytest.fixture(scope="module")
def page() -> Iterator[WebDriver]:
    """A browser for all tests of a module."""
    with chromium() as page:
        yield page


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def start(tmp_path: Path, database_settings: dict[str, str]) -> Iterator[Start]:
    """Starts a worker on the test's database, or on another one."""
    with ExitStack() as stack:

        def start(*arguments: str, through: Sequence[str] = (), **settings: str) -> WorkerProcess:
            worker = WorkerProcess(tmp_path, database_settings | settings, *arguments, through=through)
            stack.callback(worker.log.close)
            stack.callback(worker.end)
            return worker

        yield start
