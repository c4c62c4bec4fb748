"""Many users at once, straight into the database: through the API a million would take half an hour."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

FAR = 86_400.0 * 300
"""Seconds until their time comes."""


def make_users(database: Path, count: int) -> None:
    """user0, user1 …: active, with a limit that they are far from."""
    now = time.time()
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(
        """
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
        INSERT INTO users (username, username_key, status, proxies, inbounds, excluded_inbounds, links, subscription_url,
                           expire, data_limit, data_limit_reset_strategy, created_at, status_changed_at, review_at)
        SELECT 'user' || i, 'user' || i, 'active', '{"vless": {"id": "35e4e39c-7d5c-4f4b-8b71-558e4f37ff53"}}',
               '{"vless": ["VLESS TCP"]}', '{}', '[]', '/sub/' || i, CAST(?2 + ?3 AS INTEGER) + i, 1 << 50, 'no_reset',
               ?2, ?2, ?2 + ?3 + i - 3 * 86400
        FROM n""",
        (count, now, FAR),
    )
    connection.execute(
        "INSERT INTO counters (user_id, used_traffic, lifetime_used_traffic, review_traffic)"
        " SELECT id, 0, 0, 1 << 49 FROM users"
    )
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
