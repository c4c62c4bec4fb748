"""How fast the dashboard's pages answer with a long history: 1,000,000 events, 10,000,000 deliveries, 1,000,000 users.

On the service as it runs, over one connection, signed in. Also what few ask for: last pages, and searches that find little.
"""

from __future__ import annotations

import http.client
import re
import sqlite3
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

from bench.figure import Figure, Measured, Options
from bench.history import ENDPOINTS, OFTEN, RARE, make_history
from bench.service import Service

GOAL = 200.0
"""Milliseconds."""


class Reader:
    """A signed-in admin's browser, on one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._cookies: dict[str, str] = {}
        token = re.search(r'name="form_token" value="(\w+)"', self.ask("/sign-in"))
        assert token
        form = {"form_token": token[1], "username": "root", "password": "only-for-measuring"}
        self.ask("/sign-in", urlencode(form))

    @property
    def cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items())

    def ask(self, path: str, form: str | None = None) -> str:
        """The page. Raises RuntimeError where there is none."""
        headers = {"Cookie": self.cookie}
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        self._connection.request("GET" if form is None else "POST", path, form, headers)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        for cookie in answer.headers.get_all("set-cookie") or ():
            name, _, value = cookie.partition(";")[0].partition("=")
            self._cookies[name] = value
        if answer.status >= 400 or "/sign-in" in (answer.getheader("location") or ""):
            raise RuntimeError(f"{path}: {answer.status} {text[:200]!r}")
        return text

    def close(self) -> None:
        self._connection.close()


def pages(events: int, users: int) -> dict[str, str]:
    """What a person would look at, by what it is called in the table."""
    now = datetime.now(UTC)

    def ago(**time: float) -> str:
        return f"{now - timedelta(**time):%Y-%m-%dT%H:%M}"

    def found(**query: object) -> str:
        return "/events?" + urlencode(query)

    down, deep = ENDPOINTS, events // 1000
    return {
        "overview": "/",
        "endpoints": "/endpoints",
        "an endpoint that is well": "/endpoints/1",
        "an endpoint that is down, and owed a tenth": f"/endpoints/{down}",
        "new endpoint": "/endpoints/new",
        "events": "/events",
        "events, the last page but a few": found(before=deep),
        "an event": f"/events/{events // 2}",
        "events of a user": found(username="user12345"),
        "events of a user of whom many tell": found(username=OFTEN),
        "events of nobody": found(username="nobody"),
        "events of a common action": found(action="user_updated"),
        "events of a rare action": found(action=RARE),
        "events of no action": found(action="no_such_action"),
        "events of three days": found(since=ago(days=10), until=ago(days=7)),
        "events of a rare action in three days": found(action="user_deleted", since=ago(days=10), until=ago(days=7)),
        "events of a user and an action": found(username=OFTEN, action="user_deleted"),
        "deliveries of an endpoint": found(endpoint=1),
        "deliveries of an endpoint, deep": found(endpoint=1, before=f"{deep}-1"),
        "delivered": found(state="delivered"),
        "waiting": found(state="pending"),
        "dead": found(state="dead"),
        "dead of an endpoint, deep": found(state="dead", endpoint=3, before=f"{deep * 20}-3"),
        "cancelled in three days": found(state="cancelled", since=ago(days=10), until=ago(days=7)),
        "waiting of a user": found(state="pending", username=OFTEN),
        "dead of a user": found(state="dead", username=OFTEN),
        "dead of a user of whom few tell": found(state="dead", username="user12345"),
        "delivered of a user to an endpoint": found(state="delivered", username="user12345", endpoint=2),
        "deliveries of a rare action to an endpoint": found(action=RARE, endpoint=1),
        "delivered of a rare action": found(action=RARE, state="delivered"),
        "dead of a rare action": found(action="user_deleted", state="dead"),
        "waiting of a rare action": found(action="user_deleted", state="pending"),
        "waiting, all searched in vain": found(action=RARE, state="pending"),
        "all at once": found(
            username=OFTEN, action="user_created", endpoint=1, state="delivered", since=ago(days=20), until=ago(hours=1)
        ),
        "dead letters": "/dead",
        "dead letters counted": "/dead?count=yes",
        "dead letters of a rare action counted": "/dead?count=yes&action=user_deleted",
        "dead letters of a user counted": f"/dead?count=yes&username={OFTEN}",
        "cancelled and dead counted": "/dead?count=yes&states=dead&states=cancelled",
        "delivered counted": "/dead?count=yes&states=delivered",
        "delivered of an endpoint counted": "/dead?count=yes&states=delivered&endpoint=1",
        "delivered of a rare action counted": f"/dead?count=yes&states=delivered&action={RARE}",
        "delivered of three days counted": "/dead?" + urlencode(
            {"count": "yes", "states": "delivered", "since": ago(days=10), "until": ago(days=7)}
        ),
        "delivered to a user counted": f"/dead?count=yes&states=delivered&username={OFTEN}",
        "users": "/users",
        "users, the last page": "/users?after=user9999",
        "users by name": "/users?search=user1234",
        "users by name, none": "/users?search=zz",
        "users of a rare status": "/users?status=on_hold",
        "users of a status that nobody has": "/users?status=expired",
        "users of a status, one in a thousand": "/users?status=limited",
        "users of a status and name": "/users?status=limited&search=user99",
        "a user": "/user/user12345",
        "a user of whom many events tell": f"/user/{OFTEN}",
        "inbox": "/inbox",
        "settings": "/settings",
    }  # fmt: skip


def measure(options: Options) -> Measured:
    events, users = options.scaled(1_000_000, 50_000), options.scaled(1_000_000, 50_000)
    times = options.scaled(9, 3)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made:
        folder = Path(made)
        seconds = make_history(folder, events=events, users=users)
        size = (folder / "marzhook.db").stat().st_size / 1e6
        rows = _rows(folder / "marzhook.db")
        figures.append(Figure("the database", size, "MB", note=f"{rows}; made in {seconds:.0f} s"))
        figures += measured(folder, events, users, times)
    slow = [figure for figure in figures[1:] if not figure.met]
    cold = [figure for figure in figures[1:] if figure.each[0] > GOAL]
    worst = max(max(figure.each) for figure in figures[1:])
    figures.append(Figure("the slowest answer of all", worst, "ms", at_most=GOAL))
    figures.append(Figure("pages slower than the goal when first asked for after the start", len(cold), "pages"))
    figures.append(Figure("pages slower than the goal at the median", len(slow), "pages", at_most=0))
    return Measured(figures)


def measured(folder: Path, events: int, users: int, times: int) -> list[Figure]:
    """Each page `times` times, in turn, so that no page's figures are kept from one time to the next."""
    wanted = pages(events, users)
    found: dict[str, list[float]] = {name: [] for name in wanted}
    with Service(folder) as service:
        reader = Reader(service.port)
        for _ in range(times):
            for name, path in wanted.items():
                begun = time.perf_counter()
                reader.ask(path)
                found[name].append(1000 * (time.perf_counter() - begun))
        reader.close()
    return [
        Figure(name, median(each), "ms", at_most=GOAL, each=each, note=f"at most {max(each):.0f}")
        for name, each in found.items()
    ]


def _rows(database: Path) -> str:
    connection = sqlite3.connect(database)
    counts = {
        "events": "events", "deliveries": "settled UNION ALL SELECT count(*) FROM pending", "attempts": "attempts",
        "users": "users",
    }  # fmt: skip
    try:
        return ", ".join(
            f"{sum(row[0] for row in connection.execute(f'SELECT count(*) FROM {table}')):,} {name}"
            for name, table in counts.items()
        )
    finally:
        connection.close()
