"""How often a dispatcher looks at what others commit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from marzhook.dispatch.watching import Watching
from marzhook.store.sharing import ChangeWatch


class Busy(ChangeWatch):
    """Others commit all the time."""

    def changed(self) -> bool:
        return True

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("processes", "looks"), [(None, 100), (1, 100), (4, 25), (32, 5)])
def test_all_processes_together_look_no_more_often_than_one(processes: int | None, looks: int) -> None:
    """Each of them is told of every commit; the first one is looked for at once, whatever their number."""
    transport: Any = SimpleNamespace(heard=True, heed=lambda _: None)
    ownership: Any = None if processes is None else SimpleNamespace(processes=processes)
    watching = Watching(Busy(), transport, ownership)
    assert watching.changed(0.0)
    assert sum(watching.changed(millisecond / 1000) for millisecond in range(1, 1000)) == pytest.approx(looks, abs=2)
