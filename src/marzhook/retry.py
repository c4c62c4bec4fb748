"""When a failed delivery is tried again: pure, the randomness passed in."""

from __future__ import annotations

from dataclasses import dataclass

# Standard Webhooks, "Deliverability and reliability": the delays in seconds between one try and the next.
STANDARD_DELAYS = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
# An event that is refused while others are accepted: nobody mends that within days, and its user's next events wait.
REJECTED_DELAYS = (5, 60, 300)
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`delays[k]` is waited (seconds) after the k-th failed try, k from 0; after the last one there is no further try."""

    delays: tuple[float, ...] = STANDARD_DELAYS
    jitter: float = JITTER
    """Each delay is stretched by a random share of up to this, so that a burst does not come back as a burst."""

    @classmethod
    def fixed(cls, times: int, every: float) -> RetryPolicy:
        """Marzban's: `times` retries, `every` seconds apart, without jitter."""
        return cls((float(every),) * times, jitter=0.0)

    def delay(self, failed_tries: int, *, random: float, retry_after: float | None = None) -> float | None:
        """Seconds to wait after the `failed_tries`-th failure (from 1), or None when that was the last try.

        `random` is in [0, 1). A receiver's `retry_after` (seconds) may only delay, never hasten.
        """
        if failed_tries > len(self.delays):
            return None
        wait = self.delays[failed_tries - 1] * (1 + self.jitter * random)
        return max(wait, retry_after or 0.0)
