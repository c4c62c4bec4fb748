"""On PostgreSQL deliveries refer to their endpoints without a foreign key, which cost each row a statement and a lock."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0010"


def upgrade() -> None:
    conn = op.get_bind()
    if conn.dialect.name != "postgresql":
        return
    # In the order in which a publish and a settlement take them.
    for table in ("endpoints", "pending", "settled"):
        conn.execute(sa.text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
    for table in ("pending", "settled"):
        conn.execute(sa.text(f"ALTER TABLE {table} DROP CONSTRAINT fk_{table}_endpoint_id"))
