"""Named points that the code passes: what tests wait for, and where crash tests kill.

In production nobody subscribes, and passing a point costs one look at an empty dictionary. Names are
`place.what_happened`, for example `publish.before_commit`; `POINTS` lists them all, and a misspelt one is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POINTS = frozenset(
    {
        "publish.before_commit",
        "publish.after_commit",
        "window.read",
        "send.started",
        "send.answered",
        "settle.before_commit",
        "settle.after_commit",
        "dispatcher.idle",
        "dispatcher.draining",
        "review.done",
        "migrate.before_commit",
        "copy.marked",
        "copy.batch",
        "copy.facts",
        "copy.compared",
        "copy.before_release",
        "prune.before_commit",
        "prune.after_commit",
        "partitions.checked",
        "partitions.copied",
        "partitions.before_commit",
        "upkeep.done",
        "poll.before_commit",
        "poll.after_commit",
        "poll.done",
        "poll.failed",
    }
)

_listeners: dict[str, tuple[Callable[[], None], ...]] = {}
_lock = threading.Lock()


def emit(name: str) -> None:
    """The code has come past the point `name`."""
    if _listeners:
        for listener in _listeners.get(name, ()):
            listener()


@contextmanager
def listening(name: str, listener: Callable[[], None]) -> Iterator[None]:
    """Call `listener` (on the thread that passes) each time `name` is passed, while the block runs."""
    if name not in POINTS:
        raise ValueError(f"no point is named {name!r}; they are: {', '.join(sorted(POINTS))}")
    with _lock:
        _listeners[name] = (*_listeners.get(name, ()), listener)
    try:
        yield
    finally:
        with _lock:
            rest = list(_listeners[name])
            rest.remove(listener)
            if rest:
                _listeners[name] = tuple(rest)
            else:
                del _listeners[name]
