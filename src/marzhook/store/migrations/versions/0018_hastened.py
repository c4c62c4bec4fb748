"""When somebody last asked that something be tried at once."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("endpoints", sa.Column("hastened_at", sa.Double(), nullable=True))
