"""Who is signed in, and that a form was ours: cookies, tokens against forged forms, and a brake on guessing passwords.

The session is the admin's token of the panel's API in an HttpOnly cookie: a new password voids it, as it voids the others.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import deque
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from threading import Lock
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

SESSION: Final = "marzhook_session"
FORM: Final = "marzhook_form"
"""Before anybody is signed in, what the token of a form is bound to."""
YEAR: Final = 365 * 86_400

FAILURES: Final = 5
WITHIN: Final = 300.0
"""Seconds: so many failed sign-ins from one address in this time, and further ones are not even checked."""
ADDRESSES: Final = 10_000
"""Remembered at the most, so that a flood of addresses takes no more memory than this."""


def set_cookie(response: Response, request: Request, name: str, value: str, *, seconds: int | None) -> None:
    """`seconds` None: until the browser is closed."""
    response.set_cookie(
        name, value, max_age=seconds, path="/", httponly=True, samesite="lax", secure=request.url.scheme == "https"
    )


def form_token(bound_to: str) -> str:
    """What a form carries: only who can read the cookie can compute it, and other sites cannot."""
    return hmac.new(bound_to.encode(), b"form", hashlib.sha256).hexdigest()


def is_ours(bound_to: str, given: object) -> bool:
    return bool(bound_to) and isinstance(given, str) and hmac.compare_digest(form_token(bound_to), given)


def new_binding() -> str:
    return secrets.token_urlsafe(24)


class Throttle:
    """Counts failed sign-ins of each address. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = Lock()
        self._failed: dict[str, deque[float]] = {}

    def allows(self, address: str) -> bool:
        with self._lock:
            times = self._failed.get(_network(address))
            if times is None:
                return True
            _forget(times, self._monotonic() - WITHIN)
            return len(times) < FAILURES

    def failed(self, address: str) -> None:
        with self._lock:
            # Put in anew, so that the dictionary's first is the one that was quiet for longest.
            times = self._failed.pop(_network(address), deque(maxlen=FAILURES))
            times.append(self._monotonic())
            self._failed[_network(address)] = times
            if len(self._failed) > ADDRESSES:
                del self._failed[next(iter(self._failed))]

    def succeeded(self, address: str) -> None:
        with self._lock:
            self._failed.pop(_network(address), None)


def _forget(times: deque[float], before: float) -> None:
    while times and times[0] < before:
        times.popleft()


def _network(address: str) -> str:
    """One person has a whole /64 of IPv6 addresses."""
    try:
        ip = ip_address(address)
    except ValueError:
        return address
    return ip.exploded[:19] if isinstance(ip, IPv6Address) else address
