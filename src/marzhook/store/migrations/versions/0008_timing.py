"""What each try's connection took, and the head of a failure's answer; tokens that were signed out."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("attempts", sa.Column("timing", sa.Text(), nullable=True))
    op.add_column("attempts", sa.Column("head", sa.Text(), nullable=True))
    op.create_table(
        "void_tokens",
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_void_tokens")),
        sqlite_with_rowid=False,
    )
