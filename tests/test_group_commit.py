"""Group commit: calls at once share a transaction, and none suffers from another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from typing import Any

import pytest
import sqlalchemy as sa

from marzhook.errors import DatabaseError, StoreBusyError
from marzhook.store import driver
from marzhook.store.database import Database, Transaction
from marzhook.store.group_commit import MOST, GroupCommit
from marzhook.store.sqlite import SQLiteDatabase
from marzhook.testing import eventually

# They hold the writer's turn, of which there is one on SQLite only.
TURNS = pytest.mark.sqlite


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2 * MOST) as made:
        yield made


@pytest.fixture
def group(database: Database) -> GroupCommit:
    return GroupCommit(database)


def put(key: str, commits: list[str] | None = None) -> Callable[[Transaction], str]:
    """Work that writes a row and tells of the commit."""

    def work(tx: Transaction) -> str:
        driver.execute(tx.conn, "INSERT INTO meta (key, value) VALUES (?, '')", (key,))
        if commits is not None:
            tx.after_commit(lambda: commits.append(key))
        return key

    return work


def stored(database: Database) -> list[str]:
    with database.read() as conn:
        return sorted(row[0] for row in driver.execute(conn, "SELECT key FROM meta WHERE key LIKE 'test%'"))


def at_once(
    database: Database, group: GroupCommit, pool: ThreadPoolExecutor, *works: Callable[[Transaction], Any]
) -> list[Future[Any]]:
    """Give these works to the group, the first one first, while somebody else writes; return when they are done."""
    with database.write():
        futures = [pool.submit(group.write, works[0])]
        eventually(group._turn.locked)
        futures += [pool.submit(group.write, work) for work in works[1:]]
        eventually(lambda: len(group._waiting) == len(works))
    for future in futures:
        future.exception(20)
    return futures


@TURNS
def test_calls_at_once_share_a_transaction(database: Database, group: GroupCommit, pool: ThreadPoolExecutor) -> None:
    """All who wait for the writer's turn are on disk with one commit, and each has its own answer."""
    conns: set[Any] = set()

    def noted(work: Callable[[Transaction], str]) -> Callable[[Transaction], str]:
        return lambda tx: (conns.add(tx.conn), work(tx))[1]

    commits: list[str] = []
    names = [f"test{n}" for n in range(5)]
    futures = at_once(database, group, pool, *(noted(put(name, commits)) for name in names))
    assert [future.result() for future in futures] == names
    assert stored(database) == sorted(commits) == names
    assert len(conns) == 1


@TURNS
def test_a_failure_undoes_its_own_work_only(database: Database, group: GroupCommit, pool: ThreadPoolExecutor) -> None:
    """Who raises after he wrote gets his exception, and leaves nothing behind; the others of his transaction are on disk."""
    commits: list[str] = []

    def fails(tx: Transaction) -> None:
        put("test-undone", commits)(tx)
        raise LookupError("not found")

    *fine, failed = at_once(database, group, pool, put("test1", commits), put("test2", commits), fails)
    with pytest.raises(LookupError, match="not found"):
        failed.result()
    assert [future.result() for future in fine] == stored(database) == sorted(commits) == ["test1", "test2"]
    with pytest.raises(LookupError):
        group.write(fails)
    assert stored(database) == ["test1", "test2"]


@TURNS
def test_a_failed_transaction_is_paid_for_by_nobody_else(
    database: Database, group: GroupCommit, pool: ThreadPoolExecutor
) -> None:
    """Where one call's statement breaks the transaction of all, the others are done all the same, each of them once."""
    tries = []

    def breaks(tx: Transaction) -> None:
        tries.append(1)
        # As SQLite itself does when the disk is full.
        driver.execute(tx.conn, "ROLLBACK")
        driver.execute(tx.conn, "INSERT INTO nowhere VALUES (1)")

    *fine, broken = at_once(database, group, pool, put("test1"), put("test2"), breaks)
    with pytest.raises(DatabaseError, match="cannot be used as it is"):
        broken.result()
    assert [future.result() for future in fine] == stored(database) == ["test1", "test2"]
    assert len(tries) == 2


@TURNS
def test_nothing_is_done_twice_after_the_commit(
    database: Database, group: GroupCommit, pool: ThreadPoolExecutor
) -> None:
    """A callback that raises once all is on disk repeats no work, and costs no other call its answer."""

    def unlucky(tx: Transaction) -> str:
        def call_back() -> None:
            raise RuntimeError("after the commit")

        tx.after_commit(call_back)
        return put("test-unlucky")(tx)

    futures = at_once(database, group, pool, unlucky, put("test1"), put("test2"))
    assert stored(database) == ["test-unlucky", "test1", "test2"]
    failed = [str(error) for future in futures if (error := future.exception())]
    assert failed == ["after the commit"]  # of the one that had the turn


class Impatient(SQLiteDatabase):
    """Counts the write transactions that were asked for."""

    asked = 0

    def write(self, **how: Any) -> AbstractContextManager[Transaction]:
        self.asked += 1
        return super().write(**how)


@TURNS
def test_a_locked_database_refuses_all_together(database: Database, pool: ThreadPoolExecutor) -> None:
    """While another program writes, those who wait are told so at once, not each after the other; then it goes on."""
    impatient = Impatient(f"sqlite:///{database.name}", busy_timeout=1.0)
    group = GroupCommit(impatient)
    with database.write():
        futures = [pool.submit(group.write, put(f"test{n}")) for n in range(12)]
        assert all(isinstance(future.exception(20), StoreBusyError) for future in futures)
    assert impatient.asked <= 3
    assert group.write(put("test-after")) == "test-after"
    assert stored(database) == ["test-after"]
    impatient.close()


def test_many_threads_and_many_failures(database: Database, group: GroupCommit, pool: ThreadPoolExecutor) -> None:
    """Of those who want the same name exactly one gets it, whatever company they are in."""
    start = threading.Barrier(2 * MOST)

    def many(thread: int) -> int:
        start.wait()
        won = 0
        for n in range(10):
            with suppress(sa.exc.IntegrityError):
                group.write(put(f"test-{(thread + n) % 40}"))
                won += 1
        return won

    assert sum(pool.map(many, range(2 * MOST))) == 40
    assert len(stored(database)) == 40
