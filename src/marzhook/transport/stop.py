"""To end work that another thread does."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Stop:
    """`set` calls what was given to `on`, once; also where `on` comes later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._action: Callable[[], None] | None = None
        self.is_set = False

    def on(self, action: Callable[[], None] | None) -> None:
        """From now on this ends the work; None: nothing does, it has ended."""
        with self._lock:
            self._action = action
            if self.is_set and action is not None:
                action()

    def set(self) -> None:
        with self._lock:
            if not self.is_set and self._action is not None:
                self._action()
            self.is_set = True
