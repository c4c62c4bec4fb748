"""What a pass of the review costs with 1,000,000 users: when nobody's time has come, and for each one whose has."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from pathlib import Path

from bench.figure import Figure, Measured, Options
from bench.users import make_users
from marzhook.cli.bench import fill, settings_for
from marzhook.runtime import Services, build_services
from marzhook.sources.review import Review
from marzhook.user import Thresholds

CROSSING = 1000


def measure(options: Options) -> Measured:
    count = options.scaled(1_000_000, 100_000)
    none: list[float] = []
    each: list[float] = []
    with tempfile.TemporaryDirectory(prefix="marzhook-bench-") as made:
        folder = Path(made)
        # An endpoint that is owed the events: writing that is part of the cost. Nobody sends them.
        settings = settings_for(folder, "http://127.0.0.1:9/")
        fill(settings, 1)
        make_users(folder / "marzhook.db", count)
        services = build_services(settings)
        review = Review(
            services.database, services.outbox, services.clock, published_actions=settings.published_actions,
            thresholds=Thresholds(settings.usage_percents, settings.days_left),
        )  # fmt: skip
        for turn in range(options.rounds):
            for _ in range(5):
                none.append(_pass(services, review, 0) * 1000)
            _let_expire(Path(services.database.name), turn, count)
            each.append(_pass(services, review, CROSSING) * 1000 / CROSSING)
        services.database.close()
    return Measured(
        [
            Figure.of(f"a pass over {count:,} users, none of them due", none, "ms", at_most=5),
            Figure.of(f"a pass with {CROSSING:,} who expire, for each", each, "ms", at_most=0.2),
        ]
    )


def _pass(services: Services, review: Review, expected: int) -> float:
    now = services.clock.now()
    begun = time.perf_counter()
    done = review.pass_once(now)
    seconds = time.perf_counter() - begun
    if done != expected:
        raise RuntimeError(f"{done} users were due, not {expected}")
    return seconds


def _let_expire(database: Path, turn: int, count: int) -> None:
    """The time of 1,000 users, from all over the table, has come."""
    past = int(time.time()) - 1
    ids = [(past, past, 1 + turn + number * (count // CROSSING)) for number in range(CROSSING)]
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("UPDATE users SET expire = ?, review_at = ? WHERE id = ?", ids)
    connection.execute("COMMIT")
    connection.close()
