"""A panel's SQLite file, with Marzban 0.8's tables as far as users are concerned."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

TABLES = """
    CREATE TABLE admins (id INTEGER PRIMARY KEY, username VARCHAR(34), hashed_password VARCHAR(128), is_sudo BOOLEAN);
    CREATE TABLE users (
        id INTEGER PRIMARY KEY, username VARCHAR(34) COLLATE NOCASE UNIQUE, status VARCHAR(8) NOT NULL, used_traffic BIGINT,
        data_limit BIGINT, data_limit_reset_strategy VARCHAR(8) NOT NULL, expire INTEGER, admin_id INTEGER,
        sub_revoked_at DATETIME, sub_updated_at DATETIME, sub_last_user_agent VARCHAR(512), created_at DATETIME,
        note VARCHAR(500), online_at DATETIME, on_hold_expire_duration BIGINT, on_hold_timeout DATETIME,
        auto_delete_in_days INTEGER, edit_at DATETIME, last_status_change DATETIME);
    CREATE TABLE proxies (id INTEGER PRIMARY KEY, user_id INTEGER, type VARCHAR(11) NOT NULL, settings JSON NOT NULL);
    CREATE TABLE exclude_inbounds_association (proxy_id INTEGER, inbound_tag VARCHAR(256));
    CREATE TABLE user_usage_logs (id INTEGER PRIMARY KEY, user_id INTEGER, used_traffic_at_reset BIGINT, reset_at DATETIME);
    CREATE TABLE next_plans (id INTEGER PRIMARY KEY, user_id INTEGER, data_limit BIGINT, expire INTEGER,
        add_remaining_traffic BOOLEAN, fire_on_either BOOLEAN);
"""


def make(path: Path) -> Path:
    """alice has everything, bob nothing, carol is on hold and belongs to an admin whom nobody knows."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(TABLES)
        connection.execute("INSERT INTO admins VALUES (1, 'root', 'hash', 1), (2, 'stranger', 'hash', 0)")
        add = "INSERT INTO users (id, username, status, used_traffic, data_limit, data_limit_reset_strategy, expire, admin_id,"
        connection.execute(
            f"{add} created_at, note, online_at, sub_last_user_agent, auto_delete_in_days, last_status_change) VALUES"
            " (1, 'alice', 'limited', 1000, 900, 'month', 1900000000, 1, '2026-01-01 10:00:00.123456', 'from the shop',"
            " '2026-02-01 00:00:00.000000', 'v2rayNG/1.8', 5, '2026-02-02 02:02:02.000000')"
        )
        connection.execute(
            f"{add} created_at) VALUES (2, 'bob', 'active', NULL, NULL, 'no_reset', NULL, NULL, '2026-01-02 10:00:00')"
        )
        connection.execute(
            f"{add} created_at, on_hold_expire_duration, on_hold_timeout) VALUES"
            " (3, 'carol', 'on_hold', 0, 5000, 'no_reset', NULL, 2, '2026-01-03 10:00:00', 86400, '2030-01-01 00:00:00')"
        )
        connection.execute(
            "INSERT INTO proxies VALUES (1, 1, 'VLESS', ?), (2, 1, 'Shadowsocks', ?), (3, 3, 'Trojan', ?)",
            [
                json.dumps(s)
                for s in ({"id": "u-u-i-d", "flow": ""}, {"password": "p", "method": "m"}, {"password": "q"})
            ],
        )
        connection.execute("INSERT INTO exclude_inbounds_association VALUES (2, 'Shadowsocks TCP')")
        connection.execute(
            "INSERT INTO user_usage_logs VALUES (1, 1, 300, '2026-01-15 00:00:00'), (2, 1, 40, '2026-01-20 00:00:00')"
        )
        connection.execute("INSERT INTO next_plans VALUES (1, 1, 7000, 2592000, 0, 1)")
        connection.commit()
    return path
