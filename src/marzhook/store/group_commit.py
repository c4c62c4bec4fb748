"""Group commit: calls that write a little each, at once, share one transaction, and so one wait for the disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from marzhook.store.database import Database, Transaction

T = TypeVar("T")

MOST: Final = 32
"""Calls in one transaction, so that nobody else waits long for the writer's turn."""


class GroupCommit:
    """Whoever has the writer's turn does the work of all who are waiting for it by then. Nobody waits for company."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._turn = threading.Lock()
        self._waiting: deque[_Call] = deque()

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Do `work` in a write transaction and return its result once that is on disk; raise what it raises.

        `work` runs on any thread, and again where the transaction failed for another's sake: whatever it changes, it
        must change through its transaction.
        """
        if not self._database.one_writer:
            # Nothing to share: these writers do not wait for each other, and PostgreSQL has their commits wait for the disk
            # together. In one transaction they would hold users of whom others wait for some, and those for the rest.
            return self._database.transact(work)
        call = _Call(work)
        self._waiting.append(call)
        with self._turn:
            while not call.answer.done():  # else it was in the company of an earlier one
                self._commit(self._waiting)
        result: T = call.answer.result()
        return result

    def _commit(self, waiting: deque[_Call]) -> None:
        calls: list[_Call] = []
        try:
            with self._database.write() as tx:
                while waiting and len(calls) < MOST:
                    calls.append(waiting.popleft())
                # Before any other callback, which could raise: what is committed must not be done a second time.
                tx.after_commit(partial(_settle, calls))
                for call in calls:
                    call.run(tx, alone=len(calls) == 1)
        except BaseException as error:
            if not calls:
                # The writer's turn was not to be had. All who wait are refused together, not each after the other's patience.
                while waiting:
                    waiting.popleft().answer.set_exception(error)
                return
            unsettled = [call for call in calls if not call.answer.done()]
            if not unsettled:
                raise  # it came after the commit
            if len(calls) == 1:
                calls[0].answer.set_exception(error)
                return
            # Nothing is on disk. Not to make one pay for the other, each is done by itself.
            for call in unsettled:
                self._commit(deque([call]))


class _Call:
    def __init__(self, work: Callable[[Transaction], Any]) -> None:
        # It runs on the thread of whoever has the turn, and all the same in the surroundings (the trace) of its caller.
        context = copy_context()
        self._work: Callable[[Transaction], Any] = lambda tx: context.run(work, tx)
        self.answer: Future[Any] = Future()
        self.settle: Callable[[], None]
        """Give the answer, now that it is on disk."""

    def run(self, tx: Transaction, *, alone: bool) -> None:
        if alone:
            self.settle = partial(self.answer.set_result, self._work(tx))
            return
        try:
            with tx.part() as part:
                self.settle = partial(self.answer.set_result, self._work(part))
        except sa.exc.DBAPIError:
            raise  # the database's trouble, perhaps not this call's alone: the transaction may be gone
        except Exception as error:
            self.settle = partial(self.answer.set_exception, error)


def _settle(calls: list[_Call]) -> None:
    for call in calls:
        call.settle()
