"""What each try's connection took, and the head of a failure's answer."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("timing", sa.Text(), nullable=True))
    op.add_column("attempts", sa.Column("head", sa.Text(), nullable=True))
