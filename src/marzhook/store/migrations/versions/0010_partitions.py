"""On PostgreSQL history becomes tables in partitions, of which the tables that were there are the first; nothing is copied."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0011"

TABLES = {
    "settled": """
        ALTER TABLE settled_1 RENAME CONSTRAINT pk_settled TO pk_settled_1;
        ALTER INDEX ix_settled_undelivered RENAME TO ix_settled_1_undelivered;
        ALTER TABLE settled ADD CONSTRAINT pk_settled PRIMARY KEY (endpoint_id, event_id);
        ALTER TABLE settled ADD CONSTRAINT fk_settled_endpoint_id FOREIGN KEY (endpoint_id) REFERENCES endpoints (id);
        CREATE INDEX ix_settled_undelivered ON settled (state, endpoint_id, event_id) WHERE state <> 'delivered'""",
    "attempts": """
        ALTER TABLE attempts_1 RENAME CONSTRAINT pk_attempts TO pk_attempts_1;
        ALTER TABLE attempts ADD CONSTRAINT pk_attempts PRIMARY KEY (endpoint_id, event_id, number)""",
}


def upgrade() -> None:
    conn = op.get_bind()
    if conn.dialect.name != "postgresql":
        return
    for table, statements in TABLES.items():
        conn.execute(sa.text(f"ALTER TABLE {table} RENAME TO {table}_1"))
        conn.execute(
            sa.text(
                f"CREATE TABLE {table} (LIKE {table}_1 INCLUDING ALL EXCLUDING INDEXES) PARTITION BY RANGE (event_id)"
            )
        )
        for statement in statements.split(";"):
            conn.execute(sa.text(statement))
        # All ids there are, and so no row has to be looked at. `store/partitions.py` ends it when there is a next one.
        conn.execute(
            sa.text(f"ALTER TABLE {table} ATTACH PARTITION {table}_1 FOR VALUES FROM (MINVALUE) TO (MAXVALUE)")
        )
    # What is owed comes and goes: it is vacuumed as soon as there is something to gain (by default only when a fifth of a
    # backlog is dead), and without pauses. A failed try finds room on its row's own page more often (48 % of them, of 11),
    # and writes a quarter less to the log, for a quarter more of pages.
    conn.execute(
        sa.text(
            "ALTER TABLE pending SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0,"
            " autovacuum_vacuum_threshold = 10000, autovacuum_vacuum_cost_delay = 0)"
        )
    )
