"""Which shard a delivery is in, so that several workers on PostgreSQL can share what is owed."""

from zlib import crc32

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("pending", sa.Column("shard", sa.SmallInteger(), nullable=True))
    conn = op.get_bind()
    if conn.dialect.name != "postgresql":
        return
    names = "SELECT DISTINCT e.username FROM pending p JOIN events e ON e.id = p.event_id"
    rows = [(name, crc32(name.encode()) % 64) for (name,) in conn.exec_driver_sql(names)]
    if rows:
        conn.exec_driver_sql(
            "CREATE TEMPORARY TABLE shard_of (username text PRIMARY KEY, shard smallint) ON COMMIT DROP"
        )
        conn.execute(
            sa.text("INSERT INTO shard_of VALUES (:username, :shard)"),
            [{"username": name, "shard": shard} for name, shard in rows],
        )
        conn.exec_driver_sql(
            "UPDATE pending p SET shard = s.shard FROM events e JOIN shard_of s USING (username) WHERE e.id = p.event_id"
        )
