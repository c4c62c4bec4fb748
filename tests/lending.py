"""Databases for tests, each used by many, one after the other: to make one anew costs more than most tests do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psycopg
from psycopg import sql

from marzhook.testing import eventually
from postgresql import Server

# All that a test could have changed of a database but its rows.
_SHAPE: Final = """
    SELECT md5(string_agg(what, ';' ORDER BY what)) FROM (
        SELECT concat_ws(',', relname, relkind, relacl, reloptions, relpersistence, pg_get_expr(relpartbound, oid)) AS what
        FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT concat_ws(',', c.relname, a.attname, a.atttypid, a.attnotnull, a.attisdropped, pg_get_expr(d.adbin, c.oid))
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT concat_ws(',', conrelid::regclass, conname, convalidated, pg_get_constraintdef(oid)) FROM pg_constraint
        UNION ALL
        SELECT concat_ws(',', tgrelid::regclass, tgname, tgenabled) FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL
        SELECT concat_ws(',', proname, prosrc) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL
        SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'
        UNION ALL
        SELECT extname FROM pg_extension
        UNION ALL
        SELECT setconfig::text FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
        WHERE d.datname = current_database()
        UNION ALL
        -- What the planner knows of rows that were there.
        SELECT 'statistics' FROM pg_statistic s JOIN pg_class c ON c.oid = s.starelid
        WHERE c.relnamespace = 'public'::regnamespace
    ) AS all_of_it"""
_TABLES: Final = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"""
_OTHERS: Final = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


class Lender:
    """Lends copies of a template, and takes them back as they were."""

    def __init__(self, server: Server, template: str) -> None:
        self._server, self._template = server, template
        self._idle: list[str] = []
        with psycopg.connect(server.url(template), autocommit=True) as connection:
            self._shape = connection.execute(_SHAPE).fetchone()
            self._tables = [name for (name,) in connection.execute(_TABLES)]
            self._rows = {}
            for table in self._filled(connection):
                with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as copy:
                    self._rows[table] = b"".join(map(bytes, copy))

    @contextmanager
    def lent(self) -> Iterator[str]:
        """A database's name. Where it cannot be given back as it was, or somebody does not let go of it, it is dropped."""
        name = self._idle.pop() if self._idle else self._server.create(self._template)
        kept = False
        try:
            yield name
            with suppress(psycopg.Error):
                kept = self._emptied(name)
        finally:
            if kept:
                self._idle.append(name)
            else:
                self._server.drop(name)

    def _emptied(self, name: str) -> bool:
        """Whether it is again as the template is."""
        with psycopg.connect(self._server.url(name), autocommit=True) as connection:
            try:
                # Who has just hung up is there for some milliseconds.
                eventually(lambda: connection.execute(_OTHERS).fetchone() == (0,), timeout=1)
            except TimeoutError:
                return False
            if connection.execute(_SHAPE).fetchone() != self._shape:
                return False
            filled = {*self._filled(connection), *self._rows}
            connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(sql.SQL(", ").join(map(sql.Identifier, filled))))
            for table, rows in self._rows.items():
                with connection.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))) as copy:
                    copy.write(rows)
            connection.execute("SELECT setval(seqrelid::regclass, seqstart, false) FROM pg_sequence")
            return True

    def _filled(self, connection: psycopg.Connection[tuple[str]]) -> list[str]:
        """The tables that have rows."""
        looks = [
            sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM {})").format(name, sql.Identifier(name))
            for name in self._tables
        ]
        return [name for (name,) in connection.execute(sql.SQL(" UNION ALL ").join(looks))]
