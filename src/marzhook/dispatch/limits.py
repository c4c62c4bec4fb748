"""What holds for all endpoints of a process."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field

from marzhook.dispatch.breaker import FIRST_PROBE
from marzhook.retry import REJECTED_DELAYS, RetryPolicy

SPARE_DESCRIPTORS = 256
"""Open files that are for other things than requests."""
MAX_UNSETTLED = 5000
"""Answers that may wait to be written; then sending waits too. Bounds what a crash can repeat."""
IN_A_TURN = 8
"""Requests that one endpoint starts before the next one's turn."""
DRAIN_SECONDS = 10.0
"""For requests that are on their way when the service stops."""
SETTLE_SECONDS = 5.0
"""For what came of them to be written: a database that is busy, or does not answer, is not waited for longer."""
SETTLER_LOOK = 0.2
"""Seconds between two looks whether the settler is still worth waiting for."""


@dataclass(slots=True)
class Limits:
    """How patient it is, and how it tries again."""

    policy: RetryPolicy = field(default_factory=RetryPolicy)
    rejected_policy: RetryPolicy = field(default_factory=lambda: RetryPolicy(REJECTED_DELAYS))
    """For an event that the receiver refuses while it accepts others."""
    connect_timeout: float = 5.0
    timeout: float = 15.0
    first_probe: float = FIRST_PROBE
    in_flight: int | None = None
    """Requests of all endpoints together that may be on their way; None: as many as files can be open."""

    def at_once(self) -> int:
        """How many that comes to in this process."""
        files = descriptors() - SPARE_DESCRIPTORS
        return files if self.in_flight is None else min(files, self.in_flight)


def descriptors() -> int:
    """How many files this process may open; the soft limit is raised to the hard one, up to a sensible number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError):
            pass
    return max(soft, SPARE_DESCRIPTORS + 64)
