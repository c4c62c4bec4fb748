"""On PostgreSQL deliveries refer to their endpoints without a foreign key, which cost each row a statement and a lock."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0010"


TRIES = 200
PAUSE = 0.1
"""Seconds."""
LOCKED = "55P03"


def _lock(conn: sa.Connection) -> None:
    """All three tables, or none: a publish takes them in another order than a settlement of the version before, so who waited
    with some of them in hand would end in a deadlock with one of the two. Each wait is shorter than the server's look for
    those."""
    patience = conn.execute(sa.text("SHOW lock_timeout")).scalar_one()
    for more in reversed(range(TRIES)):
        try:
            with conn.begin_nested():
                conn.execute(sa.text("SET LOCAL lock_timeout = 200"))
                conn.execute(sa.text("LOCK TABLE endpoints, pending, settled IN ACCESS EXCLUSIVE MODE"))
                conn.execute(sa.text("SELECT set_config('lock_timeout', :patience, true)"), {"patience": patience})
            return
        except sa.exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCKED or not more:
                raise
        time.sleep(PAUSE)


def upgrade() -> None:
    conn = op.get_bind()
    if conn.dialect.name != "postgresql":
        return
    _lock(conn)
    for table in ("pending", "settled"):
        conn.execute(sa.text(f"ALTER TABLE {table} DROP CONSTRAINT fk_{table}_endpoint_id"))
