"""Which deliveries failed together: they go together again, with the same `webhook-id`, or in halves of that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from marzhook.delivery import PENDING, Settlement


class Groups:
    """By event id. In memory: after a crash batches are formed anew."""

    def __init__(self) -> None:
        self._of: dict[int, int] = {}
        self._last = 0

    def __bool__(self) -> bool:
        return bool(self._of)

    def of(self, event_id: int) -> int | None:
        return self._of.get(event_id)

    def forget(self, event_ids: Iterable[int]) -> None:
        for event_id in event_ids:
            self._of.pop(event_id, None)

    def answered(self, settlements: Sequence[Settlement], *, split: bool) -> None:
        """What is left of a request is a group; `split`: two of them, each in order."""
        left = [s.delivery.event.id for s in settlements if s.state == PENDING]
        self.forget(s.delivery.event.id for s in settlements)
        middle = (len(left) + 1) // 2 if split else len(left)
        for part in (left[:middle], left[middle:]):
            self._last += 1
            self._of.update(dict.fromkeys(part, self._last))
