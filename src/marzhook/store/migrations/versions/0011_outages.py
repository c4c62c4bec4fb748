"""An outage as all workers share it: when the next probe may go, and how many have failed."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("endpoints", sa.Column("probe_at", sa.Double(), nullable=True))
    op.add_column("endpoints", sa.Column("probes", sa.Integer(), server_default=sa.text("0"), nullable=False))
