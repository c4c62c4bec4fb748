"""When to look at which endpoint again. One that rings too early does no harm; one for every answer would pile up."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

SPARE: Final = 64


class Timers:
    """Of each endpoint the next moment (monotonic) at which something happens by itself."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._of: dict[int, float] = {}

    def set(self, endpoint_id: int, when: float) -> None:
        """Ring then, where it would not ring earlier anyway."""
        if when >= self._of.get(endpoint_id, float("inf")):
            return
        self._of[endpoint_id] = when
        heapq.heappush(self._heap, (when, endpoint_id))
        if len(self._heap) > SPARE + 2 * len(self._of):
            # Each time that a near one rings, a far one may be set once more.
            self._heap = [(moment, id_) for id_, moment in self._of.items()]
            heapq.heapify(self._heap)

    def ringing(self, now: float) -> Iterator[int]:
        """Those whose moment has come, once."""
        while self._heap and self._heap[0][0] <= now:
            endpoint_id = heapq.heappop(self._heap)[1]
            self._of.pop(endpoint_id, None)
            yield endpoint_id

    @property
    def next(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def __len__(self) -> int:
        return len(self._heap)
