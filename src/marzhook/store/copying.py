"""A whole SQLite database becomes a PostgreSQL one: in steps that a kill cannot part, and compared row by row at the end.

Both databases are marked (`meta.moving`) with one random word before the first row goes over, and while a database is marked
nothing but the copy opens it (`Database.upgrade`). The target's mark also says how far each table is, written in the
transaction of the rows themselves, so the same call goes on where a cut-off one ended. At the end the target loses its mark,
and keeps the word, so that one call more has nothing to do.
The source keeps its own for good: a service started on it once more would deliver everything a second time.

Ids stay what they are, and so does `meta.instance`: receivers know an event by the two. Secrets are revealed with the
source's key and sealed with the target's.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import sqlalchemy as sa

from marzhook import signals
from marzhook.errors import DatabaseError
from marzhook.event import shard_of
from marzhook.store import schema
from marzhook.store.database import MOVING, Database, Transaction
from marzhook.store.integrity import given_ids, id_sequence
from marzhook.store.vault import SEALED, SEALED_META, SEALED_SOURCES

BATCH: Final = 2000
"""Rows in one transaction."""
OWN: Final = (schema.meta, schema.workers)
"""What each of the two databases has for itself; of `meta`, what goes over is said below."""
TABLES: Final = tuple(table for table in schema.metadata.sorted_tables if table not in OWN)
"""Those that are referred to before those that refer to them."""

_SEALED: Final = {"endpoints": SEALED, "sources": SEALED_SOURCES}
MOVED: Final = "moved"
"""In the target: the word of the copy that it holds whole."""
_OWN: Final = ("vault", MOVING, MOVED)
"""Facts that each of the two databases has for itself."""


class Copy:
    """One source, one target. The source must be claimed: no service runs on it."""

    def __init__(self, source: Database, target: Database, progress: Callable[[int], None] = lambda _: None) -> None:
        """`progress` is told how many more rows were copied or compared."""
        self._source, self._target, self._progress = source, target, progress

    def complete(self) -> bool:
        """Whether an earlier call has ended well: there is nothing to do. Brings both to this version's schema."""
        self._source.upgrade(moving=True)
        self._target.upgrade(moving=True)
        with self._source.read() as old, self._target.read() as new:
            moved = self._target.meta(new, MOVED)
            return moved is not None and moved == self._source.meta(old, MOVING)

    def begin(self) -> int:
        """Mark both, which `complete` has looked at; returns how many rows there are to copy and to compare.

        Raises DatabaseError where the target holds anything but what an earlier call has copied from this very source.
        """
        if (holder := self._target.holder()) is not None:
            raise DatabaseError(f"{self._target.name} is in use by {holder}; stop it first")
        with self._source.read() as conn:
            word = self._source.meta(conn, MOVING) or secrets.token_hex(16)
        with self._target.write() as tx:
            tx.lock("upgrade")
            self._mark(tx, word)
            # Not before: a source whose target is refused stays in use. Nor after: what is copied is not used any more.
            with self._source.write() as source:
                self._source.set_meta(source, MOVING, word)
        signals.emit("copy.marked")
        return 2 * sum(self._counts(self._source).values())

    def run(self) -> dict[str, int]:
        """Copy what is missing, compare everything, release the target; returns the rows of each table.

        Raises DatabaseError where the two differ; both stay marked then.
        """
        for table in TABLES:
            self._copy(table)
        self._facts()
        signals.emit("copy.facts")
        counts = {table.name: self._compare(table) for table in TABLES}
        signals.emit("copy.before_release")
        with self._target.write() as tx:
            word = json.loads(self._target.meta(tx.conn, MOVING) or "{}").get("word", "")
            self._target.set_meta(tx, MOVED, word)
            tx.conn.execute(sa.delete(schema.meta).where(schema.meta.c.key == MOVING))
        return counts

    # -- parts of it

    def _mark(self, tx: Transaction, word: str) -> None:
        marked = self._target.meta(tx.conn, MOVING)
        if marked is not None:
            if json.loads(marked)["word"] == word:
                return
            raise DatabaseError(
                f"{self._target.name} holds half of another copy, or the source was used meanwhile; make an empty database"
                " and copy into that"
            )
        for table in TABLES:
            if tx.conn.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first():
                raise DatabaseError(
                    f"{self._target.name} is not empty (it has rows of {table.name}); copy into a database that is"
                )
        self._target.set_meta(tx, MOVING, json.dumps({"word": word, "at": {}}))

    def _copy(self, table: sa.Table) -> None:
        with self._target.read() as conn:
            at = json.loads(self._target.meta(conn, MOVING) or "{}")["at"].get(table.name)
        done = 0 if at is None else at["rows"]
        after = None if at is None else [bytes.fromhex(v["hex"]) if isinstance(v, dict) else v for v in at["key"]]
        self._progress(done)
        columns = ", ".join(f'"{column.name}"' for column in table.c)
        with self._source.read() as conn:
            for rows, last in self._batches(conn, table, after):
                done += len(rows)
                with self._target.write() as tx:
                    driver: Any = tx.conn.connection.driver_connection
                    with driver.cursor().copy(f"COPY {table.name} ({columns}) FROM STDIN") as stream:
                        for row in rows:
                            stream.write_row(self._sealed(table, row))
                    self._remember(tx, table, {"rows": done, "key": last})
                signals.emit("copy.batch")
                self._progress(len(rows))

    def _batches(
        self, conn: sa.Connection, table: sa.Table, after: Sequence[Any] | None
    ) -> Iterator[tuple[list[tuple[Any, ...]], tuple[Any, ...]]]:
        """Rows of the source in the order of their keys, as the target is to have them, and the key of the last one."""
        key = list(table.primary_key.columns)
        places = [list(table.c).index(column) for column in key]
        while True:
            statement = sa.select(table).order_by(*key).limit(BATCH)
            if after is not None:
                statement = statement.where(sa.tuple_(*key) > sa.tuple_(*map(sa.literal, after)))
            found = [tuple(row) for row in conn.execute(statement)]
            if not found:
                return
            last = after = tuple(found[-1][place] for place in places)
            yield self._wanted(conn, table, found), last

    def _wanted(self, conn: sa.Connection, table: sa.Table, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """As PostgreSQL keeps them: no NUL in a text, each delivery in its shard; secrets plain."""
        names = [column.name for column in table.c]
        if table is schema.pending:
            ids = [row[names.index("event_id")] for row in rows]
            found = conn.execute(
                sa.text("SELECT id, username FROM events WHERE id IN (SELECT value FROM json_each(:ids))"),
                {"ids": json.dumps(ids)},
            )
            shards = {event_id: shard_of(username) for event_id, username in found}
            missing = [event_id for event_id in ids if event_id not in shards]
            if missing:
                raise DatabaseError(f"event {missing[0]}, which is owed, is not there; see `marzhook db check`")
            place = names.index("shard")
            rows = [(*row[:place], shards[i], *row[place + 1 :]) for row, i in zip(rows, ids, strict=True)]
        return [
            tuple(v.replace("\0", "\ufffd") if isinstance(v, str) else v for v in self._plain(table, row, self._source))
            for row in rows
        ]

    def _plain(self, table: sa.Table, row: Sequence[Any], database: Database) -> Sequence[Any]:
        sealed = _SEALED.get(table.name)
        if sealed is None:
            return row
        return [
            database.vault.reveal(value) if column.name in sealed and value is not None else value
            for column, value in zip(table.c, row, strict=True)
        ]

    def _sealed(self, table: sa.Table, row: Sequence[Any]) -> Sequence[Any]:
        sealed = _SEALED.get(table.name)
        if sealed is None:
            return row
        return [
            self._target.vault.seal(value) if column.name in sealed and value is not None else value
            for column, value in zip(table.c, row, strict=True)
        ]

    def _remember(self, tx: Transaction, table: sa.Table, at: dict[str, Any]) -> None:
        mark = json.loads(self._target.meta(tx.conn, MOVING) or "{}")
        mark["at"][table.name] = at
        # JSON has no bytes, and some tables are keyed by a hash.
        self._target.set_meta(tx, MOVING, json.dumps(mark, default=lambda value: {"hex": value.hex()}))

    def _facts(self) -> None:
        """Message ids go on as they were, tokens of admins stay valid, and no id is given twice."""
        with self._source.read() as old, self._target.write() as tx:
            for key, value in self._known(self._source, old).items():
                self._target.set_meta(tx, key, self._target.vault.seal(value) if key in SEALED_META else value)
            for table in TABLES:
                sequence = id_sequence(tx.conn, table)
                if sequence is None:
                    continue
                given = tx.conn.execute(sa.select(sa.func.max(table.c.id))).scalar() or 0
                if id_sequence(old, table) is not None:
                    given = max(given, given_ids(old, table.name))
                if given:
                    tx.conn.exec_driver_sql("SELECT setval(%s, %s)", (sequence, given))

    def _known(self, database: Database, conn: sa.Connection) -> dict[str, str]:
        keys = conn.execute(sa.select(schema.meta.c.key).where(schema.meta.c.key.not_in(_OWN))).scalars()
        return {key: database.meta(conn, key) or "" for key in list(keys)}

    def _compare(self, table: sa.Table) -> int:
        """Raises DatabaseError where count or checksum differ. The sum does not depend on an order: the two sort texts
        differently."""
        there, here = [0, 0], [0, 0]
        with self._source.read() as conn:
            for rows, _ in self._batches(conn, table, None):
                _add(there, rows)
                self._progress(len(rows))
        with self._target.read() as conn:
            found = conn.execution_options(stream_results=True).execute(sa.select(table))
            for part in found.partitions(BATCH):
                _add(here, [tuple(self._plain(table, row, self._target)) for row in part])
        if there != here:
            raise DatabaseError(
                f"the copy of {table.name} differs: {there[0]:,} rows in {self._source.name}, {here[0]:,} in"
                f" {self._target.name}"
                f"{', and other ones' if there[0] == here[0] else ''}; make an empty database and copy into that"
            )
        signals.emit("copy.compared")
        return there[0]

    @staticmethod
    def _counts(database: Database) -> dict[str, int]:
        with database.read() as conn:
            return {
                table.name: conn.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in TABLES
            }


def _add(total: list[int], rows: Sequence[Sequence[Any]]) -> None:
    """Count the rows, and add the first 128 bits of each one's SHA-256."""
    for row in rows:
        words = repr(tuple(bytes(v) if isinstance(v, memoryview) else v for v in row))
        total[0] += 1
        total[1] += int.from_bytes(hashlib.sha256(words.encode()).digest()[:16])
