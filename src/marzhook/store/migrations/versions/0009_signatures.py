"""Which signatures an endpoint's requests bear, and its ed25519 keys."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("endpoints", sa.Column("signatures", sa.Text(), server_default=sa.text("'v1'"), nullable=False))
    op.add_column("endpoints", sa.Column("signing_key", sa.Text(), nullable=True))
    op.add_column("endpoints", sa.Column("previous_signing_key", sa.Text(), nullable=True))
