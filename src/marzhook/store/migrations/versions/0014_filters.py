"""What of all events an endpoint is owed, and what its requests' bodies are made with."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0009"


def upgrade() -> None:
    for name in ("admins", "usernames", "condition", "template"):
        op.add_column("endpoints", sa.Column(name, sa.Text(), nullable=True))
