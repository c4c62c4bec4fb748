"""A long history straight into a SQLite file: through the API it would take hours."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

from bench.users import make_users
from marzhook import operations
from marzhook.cli.bench import settings_for
from marzhook.runtime import build_services

ENDPOINTS: Final = 10
DAYS: Final = 29
"""Back to where the history goes: short of MARZHOOK_RETENTION_DAYS."""
OFTEN: Final = "user7"
"""Of whom every hundredth event tells."""
RARE: Final = "data_reset_by_next"
"""An action of which there are ten events, the oldest of all."""

# One in a thousand deliveries died, as many were cancelled; to the last endpoint, which is down, the newest are owed.
_EVENTS = """
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
    INSERT INTO events (id, action, username, enqueued_at, detail)
    SELECT i,
           CASE WHEN i <= 10 THEN :rare WHEN i % 10 = 0 THEN 'user_created' WHEN i % 97 = 0 THEN 'user_expired'
                WHEN i % 1009 = 0 THEN 'user_deleted' ELSE 'user_updated' END,
           CASE WHEN i % 100 = 0 THEN :often ELSE 'user' || (i * 7919 % :users) END,
           :now - :seconds * (:count - i) / :count,
           '{"by": {"username": "root", "is_sudo": true}, "user": {"status": "active", "data_limit": 10737418240}}'
    FROM n"""
_SETTLED = """
    INSERT INTO settled (endpoint_id, event_id, state, tries, attempts, settled_at)
    SELECT :endpoint, id, CASE id % 1000 WHEN 7 THEN 'dead' WHEN 11 THEN 'cancelled' ELSE 'delivered' END, 0, 1,
           enqueued_at + 0.01 + 0.0001 * (id % 500)
    FROM events WHERE id <= :last ORDER BY id"""
_ATTEMPTS = """
    INSERT INTO attempts (endpoint_id, event_id, number, at, duration, status, message, response, schedule)
    SELECT endpoint_id, event_id, 1, settled_at, 0.02, CASE state WHEN 'delivered' THEN 200 ELSE 503 END, '', 'ok',
           CASE state WHEN 'delivered' THEN NULL ELSE 'standard' END
    FROM settled WHERE endpoint_id = :endpoint ORDER BY event_id"""
_PENDING = """
    INSERT INTO pending (endpoint_id, event_id, tries, attempts, due_at)
    SELECT :endpoint, id, 1, 1, :now + 86400 FROM events WHERE id > :last ORDER BY id"""
_FAILED = """
    INSERT INTO attempts (endpoint_id, event_id, number, at, duration, error, message, response, schedule)
    SELECT endpoint_id, event_id, 1, :now - 60 + event_id / 1e7, 15.0, 'timeout', 'no answer within 15 s', '', 'standard'
    FROM pending WHERE endpoint_id = :endpoint ORDER BY event_id"""


def make_history(folder: Path, *, events: int, users: int) -> float:
    """`folder`/marzhook.db with so many events, each owed to ENDPOINTS endpoints, and users; returns the seconds it took."""
    begun = time.monotonic()
    services = build_services(settings_for(folder))
    for number in range(ENDPOINTS):
        url = f"https://receiver-{number}.invalid/hook"
        operations.create_endpoint(services, kind="webhook", url=url, enabled=True, values={})
    database = folder / "marzhook.db"
    services.database.close()
    make_users(database, users)
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA cache_size=-500000")
    fixed = {
        "count": events, "users": users, "now": time.time(), "seconds": DAYS * 86_400.0, "often": OFTEN, "rare": RARE,
    }  # fmt: skip
    connection.execute("BEGIN IMMEDIATE")
    # One user in a thousand is limited, ten are on hold, and they have the last names.
    connection.execute("UPDATE users SET status = 'limited' WHERE id % 1000 = 0")
    connection.execute("UPDATE users SET status = 'on_hold' WHERE username_key >= 'user99999'")
    connection.execute(_EVENTS, fixed)
    connection.execute("COMMIT")
    for endpoint in range(1, ENDPOINTS + 1):
        last = events if endpoint < ENDPOINTS else events - events // 10
        values = {**fixed, "endpoint": endpoint, "last": last}
        # A transaction each: the write-ahead log would grow as large as the whole.
        connection.execute("BEGIN IMMEDIATE")
        for statement in (_SETTLED, _ATTEMPTS, *((_PENDING, _FAILED) if last < events else ())):
            connection.execute(statement, values)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return time.monotonic() - begun
