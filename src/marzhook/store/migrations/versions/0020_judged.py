"""Since when an endpoint's tries tell how it fares."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.add_column("endpoints", sa.Column("judged_from", sa.Double(), nullable=True))
