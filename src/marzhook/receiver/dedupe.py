"""Which events were handled already: what a receiver asks, and the answer that lives in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

TYPE_CHECKING = False  # see `event`
if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Protocol = object


class Session(Protocol):
    """What one request works with."""

    @property
    def connection(self) -> Any:
        """What handlers get as `event.connection`."""

    def once(self, ids: Sequence[str]) -> AbstractContextManager[bool]:
        """Gives True when the event is to be handled in the block, False when one was handled that had one of these ids.

        A block that ends marks the event as handled; one that raises leaves no mark. Of two blocks for one event at the
        same time, the second waits for the first. No ids: not recognisable, always True.
        """


class Dedupe(Protocol):
    """Remembers handled events. Called from any thread."""

    def session(self) -> AbstractContextManager[Session]:
        """Opened for each request."""


class Memory:
    """Remembers the last `size` events, in this process, until it ends."""

    connection = None

    def __init__(self, size: int = 100_000) -> None:
        self._size = size
        self._handled: OrderedDict[str, None] = OrderedDict()
        self._busy: set[str] = set()
        self._changed = threading.Condition()

    def session(self) -> AbstractContextManager[Memory]:
        return nullcontext(self)

    @contextmanager
    def once(self, ids: Sequence[str]) -> Iterator[bool]:
        if not self._begin(ids):
            yield False
            return
        try:
            yield True
        except BaseException:
            self._end(ids, handled=False)
            raise
        self._end(ids, handled=True)

    def __contains__(self, event_id: str) -> bool:
        with self._changed:
            return event_id in self._handled

    def _begin(self, ids: Sequence[str]) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._busy.isdisjoint(ids))
            if any(one in self._handled for one in ids):
                return False
            self._busy.update(ids)
            return True

    def _end(self, ids: Sequence[str], *, handled: bool) -> None:
        with self._changed:
            self._busy.difference_update(ids)
            if handled:
                self._handled.update(dict.fromkeys(ids))
                while len(self._handled) > self._size:
                    self._handled.popitem(last=False)
            self._changed.notify_all()
