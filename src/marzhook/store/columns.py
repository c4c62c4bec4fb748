"""What tables have in common: names of their constraints, kinds of columns, rules."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKeyConstraint, Integer, MetaData, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only where the key is spelt INTEGER; PostgreSQL wants 64 bits.
Id = BigInteger().with_variant(Integer, "sqlite")
# Compared byte by byte, whatever the language of the PostgreSQL database: quicker, and in the same order as in SQLite.
Name = Text().with_variant(Text(collation="C"), "postgresql")


def one_of(column: str, *values: str) -> str:
    """The rule of a column that has one of these values."""
    return f"{column} IN ({', '.join(repr(v) for v in values)})"


def endpoint_on_sqlite() -> ForeignKeyConstraint:
    """PostgreSQL looks each row's endpoint up by a statement, and locks it: a third of what a settlement costs the server.

    Endpoints are marked as deleted and never removed, so it would find nothing. `marzhook db check` looks once.
    """
    return ForeignKeyConstraint(["endpoint_id"], ["endpoints.id"]).ddl_if(dialect="sqlite")
