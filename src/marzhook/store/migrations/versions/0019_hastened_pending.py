"""Which deliveries somebody wants tried at once, each by its own moment."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.add_column("pending", sa.Column("hastened_at", sa.Double(), nullable=True))
    wanted = sa.text("hastened_at IS NOT NULL")
    op.create_index(
        "ix_pending_hastened", "pending", ["endpoint_id", "event_id"], sqlite_where=wanted, postgresql_where=wanted
    )
