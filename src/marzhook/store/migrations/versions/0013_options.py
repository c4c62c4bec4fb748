"""Kinds of endpoints that the database need not know, and what else a kind wants to know."""

import re

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("endpoints", sa.Column("options", sa.Text(), nullable=True))
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f("ck_endpoints_kind"), "endpoints", type_="check")
        return
    # SQLite drops no CHECK. To copy the table would mean to drop one that others refer to; where only the text changes, and
    # nothing of what is stored, its documentation (ALTER TABLE, 7) has the text changed in place.
    connection = op.get_bind()
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    table = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'endpoints'").scalar_one()
    text, found = re.subn(r"\s*CONSTRAINT ck_endpoints_kind CHECK \(kind IN \([^)]*\)\)\s*,", "", table)
    assert found == 1
    connection.exec_driver_sql("PRAGMA writable_schema=ON")
    connection.exec_driver_sql("UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = 'endpoints'", (text,))
    connection.exec_driver_sql(f"PRAGMA schema_version={version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema=OFF")
