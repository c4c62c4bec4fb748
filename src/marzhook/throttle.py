"""A brake on guessing passwords, wherever they are asked for: on the dashboard, and for tokens of the API."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from threading import RLock
from typing import Final

FAILURES: Final = 5
ADDRESS_FAILURES: Final = 20
WITHIN: Final = 300.0
"""Seconds: so many failed sign-ins with one name from one address, or with any from it, in this time, and further ones are not
even checked. A bot that was not told of a new password does not lock out those beside it, and several such do not yet. No
name is counted over all addresses: anybody could lock out an admin."""
ADDRESSES: Final = 10_000
"""Remembered at the most, so that a flood of addresses takes no more memory than this."""


class Throttle:
    """Counts failed sign-ins. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = RLock()
        self._failed: dict[str, deque[tuple[float, int]]] = {}
        """By network: when it was, and the name's hash (of the name itself one could send megabytes)."""

    def wait(self, address: str, name: str) -> float:
        """Seconds until this name may be tried from this address; 0: it may."""
        with self._lock:
            now, tries = self._monotonic(), self._failed.get(_network(address))
            if tries is None:
                return 0.0
            while tries and tries[0][0] <= now - WITHIN:
                tries.popleft()
            all_, named = [at for at, _ in tries], [at for at, key in tries if key == hash(name)]
            limits = ((all_, ADDRESS_FAILURES), (named, FAILURES))
            return max(times[-limit] + WITHIN - now if len(times) >= limit else 0.0 for times, limit in limits)

    def failed(self, address: str, name: str) -> float:
        """Count it. Returns as `wait`: above 0, others failed while this was being checked, and nobody is to be told how it
        went: many guesses at once are worth no more than one after the other."""
        with self._lock:
            if wait := self.wait(address, name):
                return wait
            # Put in anew, so that the dictionary's first is the one that was quiet for longest.
            tries = self._failed.pop(_network(address), deque(maxlen=ADDRESS_FAILURES))
            tries.append((self._monotonic(), hash(name)))
            self._failed[_network(address)] = tries
            if len(self._failed) > ADDRESSES:
                del self._failed[next(iter(self._failed))]
            return 0.0

    def succeeded(self, address: str, name: str) -> float:
        """Forget this name's failures there, and no other's: who has an account cannot guess at another without end. Returns
        as `failed`."""
        with self._lock:
            if wait := self.wait(address, name):
                return wait
            tries = self._failed.pop(_network(address), None)
            if kept := [one for one in tries or () if one[1] != hash(name)]:
                self._failed[_network(address)] = deque(kept, maxlen=ADDRESS_FAILURES)
            return 0.0


def _network(address: str) -> str:
    """One person has a whole /64 of IPv6 addresses; a socket for both shows IPv4 addresses in the form of IPv6."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    if not isinstance(ip, IPv6Address):
        return address
    return ip.exploded[:19] if ip.ipv4_mapped is None else str(ip.ipv4_mapped)
